"""The README and docs/: links lead somewhere, commands parse, figures are those measured."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from kij_train.cli.app import app
from kij_train.errors import KijError

from tests import docblocks, docsite
from tests.kube import ROOT

SEPARATOR = re.compile(r" \| | > | && |    +·    +| · |; ")
"""Between the commands of a line."""
MOST_NOT_RUN = 19
"""It shall not grow by itself."""
LANGUAGES = {"console", "dockerfile", "json", "python", "sh", "shell", "toml", "yaml"}
"""Of blocks that show no output: files, and commands, which are parsed."""


def commands(block: docblocks.Block) -> Iterator[str]:
    """The command lines of kij-train that a block shows; not those with a hole, `…`."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        shown = line.strip().removeprefix("$ ")
        if not shown.startswith("kij-train ") and not line.startswith("$ "):
            continue
        for part in SEPARATOR.split(re.sub(r"\s#\s.*", "", shown)):
            if part.strip().startswith("kij-train ") and "…" not in part:
                yield re.sub(r"\b(NAME|JOB)\b", "name", re.sub(r"\b[NRPK]\b", "3", part.strip()))


def test_every_command_of_a_block_is_one_that_kij_train_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused, seen = [], 0
    for page in docblocks.pages():
        if page.parent.name == "reference":  # made of the code
            continue
        for block in docblocks.blocks(page):
            for line in commands(block):
                seen += 1
                try:
                    takes(shlex.split(line)[1:])
                except (click.ClickException, KijError, ValueError) as error:
                    refused.append(f"{block.where}: {line}\n  {error}")
    assert not refused, "\n".join(refused)
    assert seen > 150


def takes(words: list[str]) -> None:
    """Parse a command line as kij-train does, and run nothing."""
    if words[0] in ("-h", "--help", "--version"):
        return
    command, name = app.get_command(click.Context(app), words[0]), words[0]
    if isinstance(command, click.Group) and words[1:]:
        words = words[1:]
        command, name = command.get_command(click.Context(command), words[0]), words[0]
    if command is None:
        raise click.UsageError(f"no command {name}")
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(name, words[1:])


def test_the_site_is_built_and_no_link_of_it_is_broken(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("zensical", reason="takes the extra `docs`, and Python 3.11")
    assert docsite.main() == 0, capfd.readouterr().err
    pages = list((docsite.BUILD / "site").rglob("*.html"))
    assert len(pages) > len(list(docsite.DOCS.glob("*.md")))
    for page in pages:
        assert '<script src="http' not in page.read_text(encoding="utf-8"), page


def test_a_link_to_what_is_not_there_is_named(tmp_path: Path) -> None:
    page = docsite.DOCS / "index.md"
    site = docsite.Site(docsite.DOCS, tmp_path, set())
    with pytest.raises(docsite.BrokenLinkError, match=r"index.md links to \.\./no.py"):
        site.link("../no.py", page, tmp_path / page.name)


def test_every_block_says_its_language_or_why_it_is_not_run() -> None:
    """Output that no test compares has a reason, which `pytest -rP -k not_run` lists."""
    reasons = {}
    for page in docblocks.pages():
        for block in docblocks.blocks(page):
            assert not block.is_session or block.commands(), block.where
            if block.not_run:
                reasons[block.where] = block.not_run
            elif block.is_fence and block.page.parent.name != "reference":
                assert block.language in LANGUAGES, f"{block.where}: neither run nor said why not"
    print(
        f"{len(reasons)} blocks are not run:",
        *(f"{at}: {why}" for at, why in reasons.items()),
        sep="\n",
    )
    assert len(reasons) <= MOST_NOT_RUN


def test_the_links_of_the_readme_lead_somewhere() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for link in docsite.links(text):
        if not docsite.is_elsewhere(link):
            assert (ROOT / link.partition("#")[0]).exists(), link


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| \[\w+\]\((benchmarks/\S+?)\) \|$", text, re.M)
    assert len(rows) >= 5
    for claim, measured, file in rows:
        kept = (ROOT / file).read_text(encoding="utf-8")
        for figure in re.findall(r"\d+\.\d+|\d{2,}", measured):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", kept), (
                claim,
                figure,
                file,
            )


PAGE = """
<!-- file: a.py -->
```python
print("a")
```

```console
$ python a.py
a
$ python -c 'raise SystemExit(3)'
$ echo $?
3
```

<!-- not run: it takes a GPU -->
```console
$ nvidia-smi
```
"""


@pytest.mark.parametrize(
    ("expected", "actual", "problem"),
    [
        ("took 1.5 s, process 12", "took 33 s, process 7", ""),
        ("succeeded in 8.7 s", "succeeded in 1m01s", ""),
        ("0 | a\n1 | b", "1 | b\n0 | a", ""),
        ("a\nb", "b\na", "expected: a"),
        ("a", "a\nb", "printed and not expected: b"),
        ("a\nb", "a", "expected: b"),
        ("a\n…\nd", "a\nb\nc\nd\ne", ""),
        ("b\n…\na", "a\nb", "missing, or not in this order: a"),
        ("lost … after 3 s", "lost index 1 after 5 s", ""),
        ("rank 1 failed", "rank 2 failed", "expected: rank 1 failed"),
        ("squares  1 of 2 items", "", ""),
    ],
)
def test_an_output_is_compared_but_for_what_varies(
    expected: str, actual: str, problem: str
) -> None:
    found = docblocks.difference(expected.splitlines(), actual.splitlines())
    assert found.startswith(problem), found
    assert bool(found) is bool(problem)


def test_a_page_is_run_from_top_to_bottom_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docblocks, "ROOT", tmp_path)
    for name in ("train_examples", "manifests"):
        (tmp_path / name).mkdir()
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert docblocks.run_page(page, "", tmp_path / "1", {}, {}) == []
    page = tmp_path / "wrong.md"
    page.write_text(PAGE.replace("\na\n", "\nb\n").replace("\n3\n", "\n"))
    monkeypatch.setenv("KIJ_TEST_WRITE_DOCS", "1")
    wrong = docblocks.run_page(page, "", tmp_path / "2", {}, {})
    assert [each.splitlines()[0] for each in wrong] == [
        "wrong.md:7: $ python a.py",
        "wrong.md:7: $ echo $?",
    ]
    assert page.read_text() == PAGE
    page = tmp_path / "fails.md"
    page.write_text(PAGE.replace("$ echo $?\n3\n", ""))
    (failed,) = docblocks.run_page(page, "", tmp_path / "3", {}, {})
    assert "exit code 3" in failed
