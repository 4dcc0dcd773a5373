"""Which items a rerun runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

from kij_train.arrays.outcomes import Outcome

Selection = list[tuple[int, list[int]]]
"""Indexes of the first attempt, each with positions of its items, in order."""


@dataclass(frozen=True)
class Wanted:
    """What a user asks for."""

    failed: bool = False
    """All that have failed or are missing."""
    indexes: Set[int] = frozenset()
    """All items of these."""
    keys: Set[str] = frozenset()


@dataclass
class Chosen:
    """What comes of it."""

    selection: Selection = field(default_factory=list)
    busy: list[Outcome] = field(default_factory=list)
    """Items that were named, and that another attempt runs, or will."""
    unknown: set[str] = field(default_factory=set)
    """Keys that the array has not."""

    @property
    def items(self) -> int:
        """How many are run."""
        return sum(len(positions) for _, positions in self.selection)


def choose(
    outcomes: Iterable[Outcome], wanted: Wanted, is_busy: Callable[[Outcome], bool]
) -> Chosen:
    """Choose among all items of an array, in their order."""
    found = Chosen(unknown=set(wanted.keys))
    for one in outcomes:
        named = one.index in wanted.indexes or one.key in wanted.keys
        found.unknown.discard(one.key)
        if not named and not (wanted.failed and one.state.is_lost):
            continue
        if is_busy(one):
            if named:
                found.busy.append(one)
            continue
        if not found.selection or found.selection[-1][0] != one.index:
            found.selection.append((one.index, []))
        found.selection[-1][1].append(one.position)
    return found
