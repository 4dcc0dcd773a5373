"""How an array ended, or stands: a report from its folder, and the exit code that it means."""

from __future__ import annotations

from kij_train import diagnosis
from kij_train.arrays.report import Report, as_text
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.summary import summary_of
from kij_train.arrays.view import Live, live_here, outcomes_of
from kij_train.cli import output
from kij_train.cli.findings import tell_findings


def report_of(folder: ArrayFolder, live: Live | None = None) -> Report:
    """The report of an array, from its folder and what its indexes do now."""
    where, attempts = folder.about.where, folder.attempts()
    going = live_here(folder) if live is None else live
    hint_of = diagnosis.hint_here if where.is_local else diagnosis.hint_there
    summary = summary_of(outcomes_of(folder, going), hint_of)
    damage = [
        f"index {index}, attempt {attempt.number}: {text}"
        for attempt in attempts
        for index, left in folder.left(attempt.number).items()
        for text in left.get("damage", ())
    ]
    return Report(
        name=folder.name,
        where="this machine" if where.is_local else f"namespace {where.namespace}",
        indexes=folder.plan().indexes,
        attempts=len(attempts),
        state="running" if any(going.values()) else "ended",
        summary=summary,
        flags=where.flags,
        damage=tuple(damage),
    )


def finish(folder: ArrayFolder, live: Live | None = None) -> int:
    """Say how an array ended, and what a sweep or an evaluation has found; the exit code: 0 when
    every item is done and all is well, 6 where a gate could not decide, else 1."""
    found = report_of(folder, live)
    output.verdict(as_text(found).rstrip("\n"))
    return tell_findings(folder, found, live)
