"""Annotations: what failed, at the line of the user's code, as GitHub shows it beside that line.

Pure: reports → lines that a job prints, workflow commands of GitHub
(https://docs.github.com/actions/reference/workflow-commands-for-github-actions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kij_train.arrays.gates import Verdict
from kij_train.arrays.junit import Check
from kij_train.arrays.report import Report, about, counted
from kij_train.arrays.summary import Cause
from kij_train.diagnosis import JobState
from kij_train.jobs.report import JobReport

MOST = 10
"""Of one level, from one step; GitHub drops the others without a word."""
ERROR, WARNING = "error", "warning"

Locate = Callable[[str], str]
"""`train.py` of the code folder → its path in the repository; empty where it has none."""


@dataclass(frozen=True)
class Annotation:
    """One of them."""

    level: str
    title: str
    message: str
    place: str = ""
    """`train.py:118`, a file of the code folder; empty where no line is known."""

    def line(self, locate: Locate) -> str:
        """The workflow command."""
        file, _, number = self.place.rpartition(":")
        path = locate(file) if file else ""
        facts = {"file": path, "line": number if path else "", "title": self.title}
        told = ",".join(f"{name}={_property(value)}" for name, value in facts.items() if value)
        at = f"\nat {self.place}" if self.place and not path else ""
        return f"::{self.level} {told}::{_data(self.message + at)}"


def of_array(report: Report, checks: Sequence[Check] = ()) -> list[Annotation]:
    """Gates that have not passed, then each cause of failures once, the most frequent first."""
    found = [
        Annotation(
            WARNING if one.kind == Verdict.UNDECIDED.value else ERROR,
            f"{report.name}: {one.kind}",
            f"{one.name}: {one.said}",
        )
        for one in checks
        if one.word
    ]
    causes = report.summary.causes
    room = MOST - sum(one.level == ERROR for one in found)
    shown = causes if len(causes) <= room else causes[: max(0, room - 1)]
    found += [_of_cause(report, cause) for cause in shown]
    rest = sum(cause.items for cause in causes[len(shown) :])
    if rest:
        said = f"{rest:,} more items, of {len(causes) - len(shown)} more causes"
        found.append(Annotation(ERROR, f"{report.name}: {counted(report.summary)}", said))
    return found


def _of_cause(report: Report, cause: Cause) -> Annotation:
    items = f"{cause.items:,} item{'s' * (cause.items != 1)} {cause.state.value}"
    lines = [cause.error or "without a word", about(cause)]
    lines += [f"try: {cause.hint}"] if cause.hint else []
    lines.append(f"again, here: {report.replay(cause.first.key)}")
    return Annotation(
        ERROR, f"{report.name}: {items}", "\n".join(lines), place=cause.first.error_at
    )


def of_nodes(report: JobReport) -> list[Annotation]:
    """The failure that ended a job of nodes that train as one."""
    verdict = report.status.verdict
    if not verdict.state.ended or verdict.state is JobState.SUCCEEDED:
        return []
    said = [verdict.text().partition("\n")[2].strip() or verdict.headline, *report.commands()]
    return [Annotation(ERROR, verdict.headline, "\n".join(said), report.place)]


def lines(annotations: Sequence[Annotation], locate: Locate) -> Iterator[str]:
    """The workflow commands, MOST of a level at most."""
    for level in (ERROR, WARNING):
        of_level = [one for one in annotations if one.level == level]
        for one in of_level[:MOST]:
            yield one.line(locate)


def _data(text: str) -> str:
    """Escaped as the runner unescapes it, which splits output at ends of lines."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
