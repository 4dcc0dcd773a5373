"""Kinds of findings, with what to try where that hangs on nothing of a job."""

from __future__ import annotations

from kij_train.commands import Address
from kij_train.diagnosis.causes import known_causes
from kij_train.diagnosis.kinds import KINDS
from kij_train.reference import About, Topic

JOB = "NAME"
"""Stands for a job in commands."""


def topics() -> list[Topic]:
    """In the order of the table."""
    hints: dict[str, list[str]] = {}
    for cause in known_causes():
        if cause.hint and cause.hint not in hints.setdefault(cause.kind, []):
            hints[cause.kind].append(Address().fill(cause.hint, JOB))
    found = []
    for kind, (meaning, words) in KINDS.items():
        facts = [("try", hint) for hint in hints.get(kind, [])[:1]]
        if words:
            facts.append(("seen as", ", ".join(words)))
        found.append(Topic(About.CAUSE, kind, meaning, tuple(facts), words))
    return found
