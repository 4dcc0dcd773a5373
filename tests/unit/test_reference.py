"""The pages of docs/reference and the man pages: as new as the code, and whole."""

from __future__ import annotations

import re
import subprocess
import warnings
from itertools import zip_longest
from pathlib import Path

import pytest
from kij_train.cli.app import COMMANDS
from kij_train.cli.explain import topics
from kij_train.profiles import builtin_profiles
from kij_train.reference import About

from tests import manpages, reference


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("click_man", reason="takes the extra `dev`, and Python 3.11")
    folder = tmp_path_factory.mktemp("man")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # click-man's, of click
        manpages.write(folder)
    return folder


@pytest.mark.parametrize("name", ["index", *reference.PAGES])
def test_the_pages_of_the_reference_are_as_new_as_the_code(
    name: str, pages: dict[str, str]
) -> None:
    """After a change of a flag, a docstring or a table: make goldens, and read the diff."""
    page = reference.FOLDER / f"{name}.md"
    kept = page.read_text(encoding="utf-8").splitlines()
    # The first line that differs, not the whole of two long pages.
    different = [(a, b) for a, b in zip_longest(kept, pages[name].splitlines()) if a != b]
    assert different[:1] == [], page


def test_there_are_no_other_pages() -> None:
    assert {path.stem for path in reference.FOLDER.iterdir()} == {"index", *reference.PAGES}


def test_the_pages_hold_all_that_can_be_explained(pages: dict[str, str]) -> None:
    for topic in topics():
        match topic.about:
            case About.FIELD:
                assert re.search(rf"^### {topic.name}\b", pages["fields"], re.MULTILINE)
            case About.OPTION:
                assert topic.name in pages["commands"]
            case About.VARIABLE:
                assert f"`{topic.name}`" in pages["environment"]
            case About.CAUSE:
                assert f"\n## {topic.name}\n" in pages["causes"]
            case About.EXIT_CODE | About.POD_EXIT_CODE:
                assert f"| `{topic.name}` |" in pages["exit-codes"]
    for name in COMMANDS:
        assert f"\n## kij-train {name}\n" in pages["commands"]
    for name in builtin_profiles():
        assert f"\n## {name}\n" in pages["profiles"]


@pytest.mark.parametrize("name", ["index", *reference.PAGES])
def test_every_row_of_a_table_has_as_many_cells_as_its_head(
    name: str, pages: dict[str, str]
) -> None:
    cells = None
    for line in pages[name].splitlines():
        if not line.startswith("|"):
            cells = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert cells in (None, count), line
        cells = count


def test_every_command_has_a_man_page(manual: Path) -> None:
    for name in COMMANDS:
        page = manual / f"kij-train-{name}.1"
        assert page.read_text().startswith('.TH "KIJ-TRAIN'), name
    launch = (manual / "kij-train-launch.1").read_text()
    assert "\\-\\-nodes" in launch
    assert "gang: all ranks start again" in launch
    assert (manual / "kij-train-bench-allreduce.1").exists()


def test_man_finds_nothing_wrong_with_the_pages(manual: Path) -> None:
    try:
        done = subprocess.run(
            ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z", *map(str, sorted(manual.iterdir()))],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no groff here")
    assert (done.returncode, done.stderr) == (0, "")
