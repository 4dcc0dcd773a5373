"""How `make test` runs a few failed tests once more, in small projects, and goes on after them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import retries, run

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest"]
SIDE_BY_SIDE = ["-n", "2"]
HEADER = """
import os, pathlib, pytest
LOG = pathlib.Path(__file__).with_name("ran")

def runs(name):
    with LOG.open("a") as file:
        file.write(name + "\\n")
    return LOG.read_text().split().count(name)

@pytest.fixture
def closes(request):
    yield
    assert runs("teardown") == 2
"""


class Project:
    """A folder with one file of tests."""

    def __init__(self, folder: Path, tests: str) -> None:
        self.folder = folder
        self.retries = retries.Runs()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(HEADER + tests)

    def run(self, *args: str, side_by_side: list[str] | None = None) -> int:
        line = [*PYTEST, "--rootdir", str(self.folder), str(self.folder), *args]
        return self.retries.run(line, SIDE_BY_SIDE if side_by_side is None else side_by_side)

    @property
    def ran(self) -> Counter[str]:
        return Counter((self.folder / "ran").read_text().split())


def test_what_fails_once_runs_again_alone_and_nothing_else_does(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
def test_good(): runs("good")
@pytest.mark.parametrize("word", ["a b", "ü"])
def test_race(word): assert runs("race-" + word[0]) == 2
def test_crash(): runs("crash") == 2 or os._exit(1)
def test_teardown(closes): pass
def test_left_out(): pytest.skip("always")
""",
    )
    assert project.run() == 0
    assert {test.partition("::")[2] for test in project.retries.passed_again} == {
        "test_race[a b]",
        "test_race[\\xfc]",
        "test_crash",
        "test_teardown",
    }
    assert project.ran == {"good": 1, "race-a": 2, "race-ü": 2, "crash": 2, "teardown": 2}


def test_what_fails_twice_or_is_skipped_then_fails(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
def test_race(): assert runs("race") == 2
def test_bad(): assert runs("bad") == 3
def test_shy():
    if runs("shy") == 2: pytest.skip("no cluster any more")
    assert False
""",
    )
    assert project.run(side_by_side=[]) == retries.FAILED
    assert project.retries.passed_again == ["test_it.py::test_race"]
    assert project.ran == {"race": 2, "bad": 2, "shy": 2}


def test_what_is_only_skipped_the_second_time_has_not_passed(tmp_path: Path) -> None:
    tests = "def test_shy():\n    if runs('shy') == 2: pytest.skip('no cluster')\n    assert False"
    project = Project(tmp_path, tests)
    assert project.run(side_by_side=[]) == retries.FAILED
    assert project.retries.passed_again == []


def test_many_failures_are_a_fault_and_do_not_run_again(tmp_path: Path) -> None:
    tests = f"""
@pytest.mark.parametrize("number", range({retries.AT_MOST + 1}))
def test_race(number): assert runs(f"race{{number}}") == 2
"""
    project = Project(tmp_path, tests)
    assert project.run() == retries.FAILED
    assert set(project.ran.values()) == {1}
    assert project.retries.passed_again == []


@pytest.mark.parametrize("arguments", [["-x"], ["-qx"], ["--maxfail=2"], ["--exitfirst"]])
def test_where_a_failure_ends_the_run_a_second_one_is_not_all_of_it(arguments: list[str]) -> None:
    assert retries.stops_early(["python", "-m", "pytest", "-m", "unit and not slow", *arguments])


def test_the_usual_arguments_end_no_run() -> None:
    assert not retries.stops_early([*PYTEST, "-m", "not slow", "-n", "3", "-k", "exits", "tests"])


def test_a_file_that_cannot_be_imported_fails_and_does_not_run_again(tmp_path: Path) -> None:
    project = Project(tmp_path, "runs('import')\nimport nothing_of_this_name\n")
    assert project.run(side_by_side=[]) not in (0, run.NO_TESTS)


def test_what_passed_again_is_told_here_and_in_the_summary_of_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    runs = retries.Runs()
    runs.tell()
    assert (capsys.readouterr().out, summary.read_text()) == ("", "before\n")
    runs.passed_again = ["a.py::test_b[c d]", "a.py::test_e"]
    runs.tell()
    assert capsys.readouterr().out == (
        "passed only when run again alone:\n  a.py::test_b[c d]\n  a.py::test_e\n"
    )
    assert summary.read_text() == (
        "before\n### Passed only when run again alone\n\n- `a.py::test_b[c d]`\n- `a.py::test_e`\n"
    )


class Recorded(retries.Runs):
    """Runs of which the first has a failure, and nothing takes place."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[str] = []

    def run(self, pytest_line: list[str], side_by_side: list[str]) -> int:  # type: ignore[override]
        self.chosen.append(next(word for word in pytest_line if " and " in word))
        return retries.FAILED if len(self.chosen) == 1 else run.NO_TESTS


def test_a_tier_that_fails_keeps_no_other_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tests.run"])
    monkeypatch.setattr(run, "reasons_against_a_cluster", list)
    monkeypatch.setattr(run, "CLUSTER", ["true"])
    runs = Recorded()
    assert run.run_tiers(runs) == retries.FAILED
    assert [chosen.partition(")")[0] + ")" for chosen in runs.chosen] == [
        "(unit or local)",
        "(unit or local)",
        "(api or node)",
        "(api or node)",
    ]
