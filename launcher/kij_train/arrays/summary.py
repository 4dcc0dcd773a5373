"""A fold over the outcomes of an array: counts, causes, durations, which to look at.

What it holds does not grow with the items but for eight bytes each, of how long they took.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kij_train.arrays.outcomes import Outcome, State
from kij_train.pod import itemrecords

MOST_LISTED = 10_000
"""Items without success that are kept one by one."""
MOST_OTHERS = 2_000
MOST_FIELDS = 8
FIELD_CHARS = 200
MOST_CAUSES = 100
SLOWEST = 10
BINS = 24
SPREAD = 50.0
"""The longest duration by the shortest from which on bins grow by a factor, not by a step."""
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")

HintOf = Callable[[str, "int | None"], "str | None"]
"""What to do about an error and an exit code."""


@dataclass
class Cause:
    """Items that failed in the same way."""

    state: State
    error: str
    """Of the first of them."""
    first: Outcome
    items: int = 0
    indexes: set[int] = field(default_factory=set)
    exit_codes: Counter[int] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)
    hint: str | None = None


@dataclass(frozen=True)
class Bin:
    """A bar of the histogram: how many items took from `low` to `high` seconds."""

    low: float
    high: float
    count: int


@dataclass
class Summary:
    """What became of an array as a whole."""

    counts: Counter[State] = field(default_factory=Counter)
    lost: list[Outcome] = field(default_factory=list)
    """Failed and missing items, MOST_LISTED at most, in the order of the items."""
    failed_indexes: set[int] = field(default_factory=set)
    missing_indexes: set[int] = field(default_factory=set)
    others: list[Outcome] = field(default_factory=list)
    """The first MOST_OTHERS of all others, with the short values of their first record."""
    causes: list[Cause] = field(default_factory=list)
    """The most frequent first."""
    slowest: list[Outcome] = field(default_factory=list)
    """The slowest first."""
    attempts: Counter[int] = field(default_factory=Counter)
    """Items by the attempt that counts."""
    machines: Counter[str] = field(default_factory=Counter)
    """Items by machine."""
    durations: array[float] = field(default_factory=lambda: array("d"))
    """Of items with records, in seconds, ascending."""

    @property
    def total(self) -> int:
        """All items."""
        return sum(self.counts.values())

    @property
    def all_well(self) -> bool:
        """Whether every item is done."""
        return self.counts[State.DONE] == self.total

    @property
    def left_out(self) -> int:
        """Failed and missing items that are not in `lost`."""
        return self.counts[State.FAILED] + self.counts[State.MISSING] - len(self.lost)

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the items ended."""
        if not self.durations:
            return 0.0
        return self.durations[min(int(share * len(self.durations)), len(self.durations) - 1)]

    @property
    def seconds(self) -> float:
        """Of all items together."""
        return math.fsum(self.durations)


def without_hints(error: str, exit_code: int | None) -> None:
    """The HintOf of whoever has nothing to say."""
    del error, exit_code


def summary_of(outcomes: Iterable[Outcome], hint_of: HintOf = without_hints) -> Summary:
    """Fold the outcomes of all items, in their order."""
    found = Summary()
    causes: dict[tuple[State, str], Cause] = {}
    kinds: dict[str, str] = {}
    slowest: list[tuple[float, int, Outcome]] = []
    for outcome in outcomes:
        found.counts[outcome.state] += 1
        if outcome.machine:
            found.machines[outcome.machine] += 1
        if outcome.attempt is not None:
            found.attempts[outcome.attempt] += 1
        if outcome.seconds is not None:
            found.durations.append(outcome.seconds)
            _keep_slowest(slowest, outcome.seconds, outcome)
        if outcome.state.is_lost:
            # Of a process that ran many items, all have the same error, which may name one of them.
            kind = kinds.get(outcome.error) or _kind(outcome)
            if len(kinds) < MOST_LISTED:
                kinds[outcome.error] = kind
            _count_lost(found, causes, outcome, kind)
        elif len(found.others) < MOST_OTHERS:
            found.others.append(_slim(outcome))
    found.durations = array("d", sorted(found.durations))
    found.slowest = [one for _, _, one in sorted(slowest, key=lambda each: (-each[0], each[1]))]
    found.causes = sorted(causes.values(), key=lambda cause: (-cause.items, cause.first.position))
    for cause in found.causes:
        cause.hint = hint_of(cause.error, cause.first.exit_code)
    return found


def _slim(outcome: Outcome) -> Outcome:
    """Without what may be large."""
    if not outcome.records:
        return outcome
    own: dict[str, Any] = {}
    for name, value in outcome.records[0].items():
        short = isinstance(value, (int, float)) or (
            isinstance(value, str) and len(value) <= FIELD_CHARS
        )
        if name not in itemrecords.OURS and short and len(own) < MOST_FIELDS:
            own[name] = value
    return replace(outcome, records=(own,))


def _keep_slowest(
    slowest: list[tuple[float, int, Outcome]], seconds: float, outcome: Outcome
) -> None:
    if len(slowest) == SLOWEST and seconds <= slowest[0][0]:
        return
    heapq.heappush(slowest, (seconds, -outcome.position, _slim(outcome)))
    if len(slowest) > SLOWEST:
        heapq.heappop(slowest)


def _count_lost(
    found: Summary, causes: dict[tuple[State, str], Cause], outcome: Outcome, kind: str
) -> None:
    indexes = found.failed_indexes if outcome.state is State.FAILED else found.missing_indexes
    indexes.add(outcome.index)
    if len(found.lost) < MOST_LISTED:
        found.lost.append(_slim(outcome))
    if (outcome.state, kind) not in causes and len(causes) >= MOST_CAUSES:
        kind = ""
    cause = causes.setdefault(
        (outcome.state, kind),
        Cause(outcome.state, outcome.error if kind else "other causes", outcome),
    )
    if outcome.error == cause.error and _is_named(outcome) and not _is_named(cause.first):
        cause.first = outcome  # the one of its process to look at
    cause.items += 1
    cause.indexes.add(outcome.index)
    if outcome.exit_code is not None:
        cause.exit_codes[outcome.exit_code] += 1
    if outcome.machine:
        cause.machines[outcome.machine] += 1


def _is_named(outcome: Outcome) -> bool:
    """Whether its error names it."""
    key = outcome.key
    return key in outcome.error and re.search(_word(key), outcome.error) is not None


def _word(key: str) -> str:
    return rf"(?<!\w){re.escape(key)}(?!\w)"


def _kind(outcome: Outcome) -> str:
    """An error without what differs from item to item: its key, numbers and addresses."""
    error = outcome.error or "no word about it"
    if outcome.key:
        # As a word of its own, and as numbers are: key 0 is in "attempt 0", and key a in "has".
        error = re.sub(_word(outcome.key), "N", error)
    return _NUMBERS.sub("N", error)


def histogram(durations: Sequence[float], bins: int = BINS) -> list[Bin]:
    """How many of these ascending durations are in each bin; no bins for no durations.

    Bins have the same width, or grow by the same factor where the longest takes SPREAD times as
    long as the shortest.
    """
    if not durations:
        return []
    low, high = durations[0], durations[-1]
    if low == high:
        return [Bin(low, high, len(durations))]
    floor = max(low, high / 1e6)
    grows = high / floor > SPREAD
    if grows:
        edges = [floor * (high / floor) ** (number / bins) for number in range(bins + 1)]
    else:
        edges = [low + (high - low) * number / bins for number in range(bins + 1)]
    counts = [0] * bins
    at = 0
    for duration in durations:
        while at < bins - 1 and duration >= edges[at + 1]:
            at += 1
        counts[at] += 1
    edges[0], edges[-1] = low, high
    return [Bin(edges[at], edges[at + 1], counts[at]) for at in range(bins)]
