"""Runs of pytest whose few failures run once more, one at a time, and what is said of them.

Tests that run side by side on a busy machine meet races, of their own or of the code. Such a
failure must be seen, and must not hide whether all the rest passes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.cluster.phases import say

FAILED = int(pytest.ExitCode.TESTS_FAILED)
AT_MOST = 5
"""So many failures of one run may be the work of races; more are a fault, and none runs again."""


class Runs:
    """Runs of pytest, and the tests of theirs that passed only when they ran again."""

    def __init__(self) -> None:
        self.passed_again: list[str] = []

    def run(self, pytest_line: Sequence[str], side_by_side: Sequence[str]) -> int:
        """Run tests, and those few that fail once more; the exit status is that of the whole.

        `side_by_side` are arguments that only the first run gets.
        """
        with tempfile.TemporaryDirectory(prefix="kij-tests-") as folder:
            log = Path(folder) / "log.json"
            # A cache of its own, in which pytest keeps what failed in this run and no other.
            line = [*pytest_line, f"--report-log={log}", "-o", f"cache_dir={folder}/cache"]
            status = subprocess.call([*line, *side_by_side])
            failed = failures(log)
            if status != FAILED or len(failed) > AT_MOST or stops_early(pytest_line):
                return status
            say("failed, and run once more, one at a time:\n  " + "\n  ".join(failed))
            status = subprocess.call([*line, "--last-failed", "--last-failed-no-failures=none"])
            passed = passes(log)
            self.passed_again += [test for test in failed if test in passed]
            return status if passed.issuperset(failed) else FAILED

    def tell(self) -> None:
        """List what passed only when it ran again: here, and in the summary of a GitHub job."""
        if not self.passed_again:
            return
        say("passed only when run again alone:\n  " + "\n  ".join(self.passed_again))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            named = "".join(f"- `{test}`\n" for test in self.passed_again)
            with Path(summary).open("a") as file:
                file.write(f"### Passed only when run again alone\n\n{named}")


def stops_early(words: Iterable[str]) -> bool:
    """Whether pytest leaves out tests after a failure, so that a second run would hide them."""
    return any(re.match(r"-[a-z]*x|--exitfirst|--maxfail", word) for word in words)


def failures(log: Path) -> list[str]:
    """Tests and files of a report log of which something failed, in order."""
    found = [report["nodeid"] for report in reports(log) if report["outcome"] == "failed"]
    return list(dict.fromkeys(found))


def passes(log: Path) -> set[str]:
    """Tests of a report log that ran, and of which nothing failed."""
    ran = {report["nodeid"] for report in reports(log) if report.get("when") == "call"}
    return ran - {report["nodeid"] for report in reports(log) if report["outcome"] != "passed"}


def reports(log: Path) -> list[dict[str, str]]:
    """Those of a file of pytest-reportlog: of each test its set-up, call and tear-down."""
    if not log.exists():
        return []
    return [each for each in map(json.loads, log.read_text().splitlines()) if "outcome" in each]
