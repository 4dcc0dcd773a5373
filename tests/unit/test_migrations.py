"""docs/examples: each line of a job by hand has a counterpart, and the pages are as new as that."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from kij_train.cli.app import run

from tests import migrations
from tests.kube import ROOT
from tests.migrationrows import BESIDES, EXAMPLES, Example

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
SAID_OF_ALL = (":apiVersion", ":kind")


@each_example
def test_a_page_is_as_new_as_what_is_rendered(example: Example) -> None:
    """After a change of rendering: make goldens, and read the diff."""
    page = migrations.FOLDER / f"{example.name}.md"
    assert page.read_text(encoding="utf-8") == migrations.page(example), page


@each_example
def test_every_line_by_hand_has_a_counterpart_or_a_word_why_not(example: Example) -> None:
    hand = migrations.by_hand(example)
    paths = [path for row in example.rows for path in row.hand]
    if "lines" in hand:
        left = [line for line in hand["lines"] if not any(path in line for path in paths)]
    else:
        left = [
            leaf
            for leaf in migrations.leaves(hand)
            if not leaf.endswith(SAID_OF_ALL)
            and not any(migrations.covers(path, leaf) for path in paths)
        ]
    assert left == []
    for row in example.rows:
        assert row.ours or row.note, row


@each_example
def test_every_rendered_line_is_of_a_row_or_its_purpose_is_told(example: Example) -> None:
    ours = migrations.rendered(example)
    left = [
        leaf
        for leaf in migrations.left(example, ours)
        if not any(migrations.covers(prefix, leaf) for prefix in BESIDES)
    ]
    assert left == []


@each_example
def test_every_path_of_a_row_is_there(example: Example) -> None:
    hand, ours = migrations.by_hand(example), migrations.rendered(example)
    for row in example.rows:
        for path in row.ours:
            assert migrations.value_at(ours, path) is not migrations.NOT_THERE, path
        for path in row.hand if "lines" not in hand else ():
            assert migrations.value_at(hand, path) is not migrations.NOT_THERE, path


def test_every_purpose_is_told_of_something_that_is_rendered() -> None:
    left = [leaf for one in EXAMPLES for leaf in migrations.left(one, migrations.rendered(one))]
    for prefix in BESIDES:
        assert any(migrations.covers(prefix, leaf) for leaf in left), prefix


@each_example
def test_the_command_of_a_page_prints_these_objects(
    example: Example, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "train_examples")
    words = shlex.split(example.command)[1:]
    if words[0] == "map":
        words[1:1] = ["--dry-run", "client", "-o", "yaml"]
    assert run(words) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    found = {body["kind"]: body for body in printed if body["kind"] != "ConfigMap"}
    labels = found["Job"]["metadata"]["labels"]
    labels.pop("kij-train/user", None)
    assert found == migrations.rendered(example)


@each_example
def test_a_flag_that_a_row_names_stands_in_the_command(example: Example) -> None:
    for row in example.rows:
        if not row.by.startswith("kij-train"):
            for word in re.findall(r"\S+", row.by):
                assert word in shlex.split(example.command), word
