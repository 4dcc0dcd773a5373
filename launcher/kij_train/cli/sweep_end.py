"""What a sweep has found, for people: its points, what each parameter did, the best one."""

from __future__ import annotations

from kij_train.arrays import sought, sweeps
from kij_train.arrays.objective import Objective
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.sweeps import Sweep
from kij_train.arrays.view import Live
from kij_train.cli import output
from kij_train.errors import RequestError


def tell_sweep(folder: ArrayFolder, live: Live | None = None) -> int:
    """Print what an array has found, where its request seeks something; an exit code.

    0: there is a best point, or nothing is sought. 1: no point has all its numbers.
    """
    try:
        found = sought.sweep_in(folder, live)
    except RequestError as error:
        objective = sought.objective_of(folder.about.request)
        assert objective is not None
        way = "--max" if objective.is_max else "--min"
        again = f"sort by another one: kij-train report {folder.name} {way} METRIC"
        output.verdict(error.message, (*error.hints, again))
        return 1
    if found is None:
        return 0
    print_sweep(found)
    for path in sought.plot(folder, found):
        output.status(f"wrote {path}")
    return tell_best(folder, found)


def print_sweep(found: Sweep) -> None:
    """The tables."""
    output.data("")
    output.table(*sweeps.table(found))
    if len(found.rows) > sweeps.MOST_ROWS:
        output.status(f"{len(found.rows) - sweeps.MOST_ROWS:,} more points")
    if found.effects:
        output.data("")
        output.table(*sweeps.effects_table(found))


def tell_best(folder: ArrayFolder, found: Sweep) -> int:
    """Say which point is the best one, and its command; 1 where there is none."""
    best = found.best
    if best is None:
        output.verdict(f"no point has a {found.objective.metric} of all its trials")
        return 1
    values = best.values
    error = "" if values.error is None else f" ± {values.error:.2g}"
    output.verdict(
        f"best: {best.key}  {found.objective.metric} {values.mean:.6g}{error}",
        (
            f"its command: {sought.command_of(folder, best)}",
            f"again, here: kij-train replay {folder.name} {sought.replay_words(best)}",
        ),
    )
    return 0


def sought_by(minimize: str | None, maximize: str | None) -> Objective | None:
    """The objective of two flags. Raises RequestError for both."""
    if minimize is not None and maximize is not None:
        raise RequestError("--min and --max conflict: seek one of them")
    if maximize is not None:
        return Objective(maximize, is_max=True)
    return None if minimize is None else Objective(minimize)
