"""What became of an array's items, index by index, from what its folder has.

Only one index is in memory at a time, so that a million items take no more than thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from kij_train.arrays.outcomes import Outcome, Record, Standing, State, merged
from kij_train.arrays.store import ArrayFolder, Attempt, Parts

StandingOf = Callable[[int], Standing]
"""Where an index of one attempt stands."""


def outcomes_of(
    folder: ArrayFolder, standings: Mapping[int, StandingOf] | None = None
) -> Iterator[Outcome]:
    """The outcome of every item, in the order of the list.

    `standings` tells of attempts, by number, what is known of indexes without a record; without
    it, what their folder says.
    """
    plan, attempts = folder.plan(), folder.attempts()
    parts = {attempt.number: folder.parts(attempt.number) for attempt in attempts}
    known = dict(standings or {})
    for attempt in attempts:
        if attempt.number not in known:
            known[attempt.number] = standing_here(folder, attempt, parts[attempt.number])
    chosen = {attempt.number: _positions_of(attempt) for attempt in attempts}
    for index in range(plan.indexes):
        items = [(position, plan.item(position)[0]) for position in plan.positions(index)]
        records: list[Record] = []
        for attempt in attempts:
            records += parts[attempt.number].records(index)

        def standing_of(position: int, index: int = index) -> Standing:
            for attempt in reversed(attempts):
                positions = chosen[attempt.number]
                if positions is None or position in positions.get(index, ()):
                    return known[attempt.number](index)
            return Standing(State.MISSING, "no attempt has it")

        yield from merged(index, items, records, standing_of)


def _positions_of(attempt: Attempt) -> dict[int, frozenset[int]] | None:
    """Of a rerun, the positions that each of its indexes runs; None: all."""
    if attempt.selection is None:
        return None
    return {index: frozenset(positions) for index, positions in attempt.selection}


def standing_here(folder: ArrayFolder, attempt: Attempt, parts: Parts) -> StandingOf:
    """Where indexes of an attempt stand, as far as its folder and this machine know."""
    left, runs = folder.left(attempt.number), folder.is_running(attempt.number)

    def standing_of(index: int) -> Standing:
        if index in parts.whole:
            return Standing(State.MISSING, "its index has ended without a record of it")
        if runs:
            return Standing(State.RUNNING if index in parts.begun else State.PENDING)
        known = left.get(index, {})
        said = f"attempt {attempt.number} ended before it"
        if attempt.state:
            said = f"attempt {attempt.number} has {attempt.state} before it"
        return Standing(
            State.MISSING,
            str(known.get("error") or said),
            known.get("exit_code"),
            str(known.get("machine") or ""),
        )

    return standing_of
