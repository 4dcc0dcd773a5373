"""What became of an array's items, index by index, from what its folder has.

Only one index is in memory at a time, so that a million items take no more than thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from kij_train.arrays import numbers
from kij_train.arrays.facts import Attempt
from kij_train.arrays.outcomes import Outcome, Record, Standing, State, merged
from kij_train.arrays.parts import Parts
from kij_train.arrays.store import ArrayFolder
from kij_train.pod.itemplan import ItemPlan

Live = Mapping[int, Mapping[int, State]]
"""Attempt → index → what it does at this moment; without those that do nothing more."""
StandingOf = Callable[[int, int], Standing]
"""Of an index of one attempt, and of a position: what is known of an item without a record."""


def outcomes_of(
    folder: ArrayFolder, live: Live | None = None, only: Collection[int] | None = None
) -> Iterator[Outcome]:
    """The outcome of every item, in the order of the list; those of some indexes with `only`.

    `live` is what `live_here` gives, or of an array on a cluster whoever has asked it.
    """
    plan, attempts = folder.plan(), folder.attempts()
    going = live_here(folder) if live is None else live
    parts = {attempt.number: folder.parts(attempt.number) for attempt in attempts}
    chosen = {attempt.number: items_of(attempt, plan) for attempt in attempts}
    standings = {
        attempt.number: _standing(
            folder,
            attempt,
            parts[attempt.number],
            chosen[attempt.number],
            going.get(attempt.number, {}),
        )
        for attempt in attempts
    }
    for index in range(plan.indexes) if only is None else sorted(only):
        positions = plan.positions(index)
        items = zip(positions, plan.keys(positions), strict=True)
        records: list[Record] = []
        for attempt in attempts:
            records += parts[attempt.number].records(index)

        def standing_of(position: int, index: int = index) -> Standing:
            for attempt in reversed(attempts):
                if position in chosen[attempt.number](index):
                    return standings[attempt.number](index, position)
            return Standing(State.MISSING, "no attempt has it")

        yield from merged(index, items, records, standing_of)


def live_here(folder: ArrayFolder) -> Live:
    """What indexes do that run on this machine, or are to."""
    live: dict[int, dict[int, State]] = {}
    for attempt in folder.attempts():
        if folder.is_running(attempt.number):
            parts = folder.parts(attempt.number)
            live[attempt.number] = {
                index: State.RUNNING if index in parts.begun else State.PENDING
                for index in indexes_of(attempt, folder.plan())
                if index not in parts.whole
            }
    return live


def trial_nodes(folder: ArrayFolder) -> int:
    """Pods of an item; with several, each attempt is one item."""
    return int(folder.about.request.get("trial_nodes") or 1)


def indexes_of(attempt: Attempt, plan: ItemPlan) -> Sequence[int]:
    """The indexes of the first attempt that this one runs, by its own indexes."""
    chosen = attempt.selection
    return range(plan.indexes) if chosen is None else [index for index, _ in chosen]


def items_of(attempt: Attempt, plan: ItemPlan) -> Callable[[int], Sequence[int]]:
    """Index of the first attempt → positions of its items in this attempt; none: it has none."""
    if attempt.selection is None:
        return plan.positions
    selected = dict(attempt.selection)
    return lambda index: selected.get(index, ())


def _standing(
    folder: ArrayFolder,
    attempt: Attempt,
    parts: Parts,
    positions_of: Callable[[int], Sequence[int]],
    live: Mapping[int, State],
) -> StandingOf:
    left = folder.left(attempt.number)
    verb = "was" if attempt.state == "cancelled" else "has"
    ended = f"{verb} {attempt.state} before it" if attempt.state else "does not run any more"

    def standing_of(index: int, position: int) -> Standing:
        known = left.get(index, {})
        if "account" in known:
            place = list(positions_of(index)).index(position)
            return _accounted(known, place)
        if index in parts.whole:
            return Standing(State.MISSING, "its index has ended without a record of it")
        if index in live:
            return Standing(live[index])
        return Standing(
            State.MISSING,
            str(known.get("error") or f"attempt {attempt.number} {ended}"),
            known.get("exit_code"),
            str(known.get("machine") or ""),
        )

    return standing_of


def _accounted(known: Mapping[str, Any], place: int) -> Standing:
    """An item whose records are elsewhere, by the account of its index."""
    account, machine = known["account"], str(known.get("machine") or "")
    listed, _, cut = str(account["failed_items"]).partition(",...")
    del cut
    failed = numbers.parse(listed, below=10**9) if listed else []
    if place in failed:
        first = account.get("error") or {}
        said = str(first.get("message") or "") if place == failed[0] else ""
        return Standing(State.FAILED, said or "its error is in its record", None, machine)
    if len(failed) < account["failed"] and place > max(failed, default=-1):
        return Standing(State.MISSING, "whether it failed is in its record alone", None, machine)
    return Standing(State.DONE, "", 0, machine)
