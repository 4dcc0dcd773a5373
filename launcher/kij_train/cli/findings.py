"""What a sweep or an evaluation has found, for people."""

from __future__ import annotations

from kij_train.arrays import evalreport, evaluation, sought
from kij_train.arrays.findings import Findings, findings_in
from kij_train.arrays.objective import Objective
from kij_train.arrays.report import Report
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli import output
from kij_train.errors import RequestError


def tell_findings(folder: ArrayFolder, report: Report, live: Live | None = None) -> int:
    """Print what has been found; the exit code.

    0: what was sought was found, and all is done. 1: not. 6: a gate could not decide.
    """
    try:
        found = findings_in(folder, report, live)
    except RequestError as error:
        again = f"sort by another one: {report.command('report')} --min METRIC"
        is_sweep = sought.objective_of(folder.about.request) is not None
        output.verdict(error.message, (*error.hints, *([again] if is_sweep else [])))
        return 1
    if found is None:
        return report.exit_code
    print_findings(found)
    return exit_code_of(report, found)


def exit_code_of(report: Report, found: Findings | None) -> int:
    """An evaluation has judged what is missing itself."""
    if found is None:
        return report.exit_code
    return found.exit_code or (report.exit_code if found.kind == "sweep" else 0)


def print_findings(found: Findings) -> None:
    """Tables to stdout, what they come to to stderr."""
    for header, rows in found.tables:
        output.data("")
        output.table(header, rows)
    for note in found.notes:
        output.status(note)
    output.verdict(found.headline, found.hints)


def sought_by(minimize: str | None, maximize: str | None) -> Objective | None:
    """The objective of two flags. Raises RequestError for both."""
    if minimize is not None and maximize is not None:
        raise RequestError("--min and --max conflict: seek one of them")
    if maximize is not None:
        return Objective(maximize, is_max=True)
    return None if minimize is None else Objective(minimize)


def tell_noise(first: ArrayFolder, second: ArrayFolder) -> None:
    """Print how two runs of the same evaluation differ."""
    scores = [evaluation.scores_of(outcomes_of(folder))[0] for folder in (first, second)]
    noise = evaluation.noise_of(scores[0], scores[1])
    changed = [one.metric for one in noise if one.changed]
    if noise:
        output.data("")
        output.table(*evalreport.noise_table(noise))
    if not noise:
        output.verdict("the two runs have no metric in common")
    elif changed:
        output.verdict(f"the two runs differ in {', '.join(changed)}: that much is noise")
    else:
        output.verdict("the two runs have the same values for every id")
