"""What an array has found beyond what became of its items: a sweep's points, an evaluation's
verdict; in one form for all reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kij_train import extras
from kij_train.arrays import evalreport, gates, judged, sought, sweepplots, sweeps
from kij_train.arrays.junit import Check
from kij_train.arrays.objective import Objective
from kij_train.arrays.report import (
    Report,
    as_markdown,
    failures_in_markdown,
    lost_in_markdown,
)
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.sweeps import Sweep
from kij_train.arrays.view import Live

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Findings:
    """All that a report of any form shows of it."""

    kind: str
    """Its key in the JSON: `sweep` or `evaluation`."""
    headline: str
    """What it comes to, in a line."""
    hints: tuple[str, ...]
    tables: tuple[Table, ...]
    json: dict[str, Any]
    exit_code: int
    markdown: str
    svg: str = ""
    """A picture; empty where there is none."""
    notes: tuple[str, ...] = field(default=())
    checks: tuple[Check, ...] = ()
    """Test cases of their own, in JUnit."""


def findings_in(
    folder: ArrayFolder,
    report: Report,
    live: Live | None = None,
    objective: Objective | None = None,
    *,
    with_picture: bool = False,
) -> Findings | None:
    """What has been found; None for an array that seeks nothing. A picture needs matplotlib.

    Raises RequestError for a metric that no result has, and a baseline that cannot be read.
    """
    if judged.is_evaluation(folder.about.request) and objective is None:
        return _of_evaluation(folder, report, live)
    found = sought.sweep_in(folder, live, objective)
    return None if found is None else _of_sweep(folder, report, found, with_picture)


def _of_evaluation(folder: ArrayFolder, report: Report, live: Live | None) -> Findings:
    found = judged.evaluation_in(folder, live)
    again = f"run the rest, and judge again: {report.rerun}"
    anew = f"have a pod send them again: {report.command('rerun')} --index 0"
    rest = "\n".join(failures_in_markdown(report))
    tables = (
        evalreport.metrics_table(found),
        evalreport.gates_table(found.judged),
        evalreport.worst_table(found),
    )
    return Findings(
        "evaluation",
        evalreport.headline(found),
        () if found.is_whole else (anew if report.summary.all_well else again,),
        tuple(table for table in tables if table[1]),
        evalreport.as_json(found),
        gates.exit_code(found.verdict),
        evalreport.as_markdown(found, folder.name, lost_in_markdown(report), rest, report.replay),
        checks=evalreport.checks(found),
    )


def _of_sweep(folder: ArrayFolder, report: Report, found: Sweep, with_picture: bool) -> Findings:
    best = found.best
    command = "" if best is None else sought.command_of(folder, best)
    hints: tuple[str, ...] = ()
    headline = f"no point has the metric {found.objective.metric} of all its trials"
    if best is not None:
        error = "" if best.values.error is None else f" ± {best.values.error:.2g}"
        headline = f"best: {best.key}  {found.objective.metric} {best.values.mean:.6g}{error}"
        hints = (f"its command: {command}", f"again, here: {report.replay(best.key)}")
    tables = (sweeps.table(found), sweeps.effects_table(found))
    shown = tuple(table for table in tables if table[1])
    lines = [f"## {evalreport.escaped(folder.name)}: {evalreport.escaped(headline)}", ""]
    for table in shown:
        lines += [*evalreport.markdown_table(table), ""]
    lines += ["```sh", command, "```", "", as_markdown(report)]
    notes = _notes(found)
    has_picture = with_picture and bool(found.ranked) and extras.has("matplotlib")
    return Findings(
        "sweep",
        headline,
        hints,
        shown,
        sweeps.as_json(found) | {"bestCommand": command or None},
        0 if best is not None else 1,
        "\n".join(lines),
        sweepplots.svg(found, sought.order_of(folder)) if has_picture else "",
        notes,
    )


def _notes(found: Sweep) -> tuple[str, ...]:
    notes = []
    more = len(found.rows) - sweeps.MOST_ROWS
    if more > 0:
        notes.append(f"{more:,} more points")
    errors = [row.values.error for row in found.ranked]
    if errors and not any(error is None or error > 0 for error in errors):
        notes.append(
            "all repeats of a point are the same: the script gets its seed by --seed {seed}, say, "
            "or from $KIJ_SEED"
        )
    return tuple(notes)
