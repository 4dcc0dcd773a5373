"""Which ranks are slow: their steps and the times of their heartbeats, against the median.

Ranks that train as one wait for each other in every step, so all of them do as many steps a second
as the slowest. What tells it from the others is when it writes its step: later than they do. Ranks
that do not wait for each other differ in the number of their step.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import statistics
from collections import deque
from typing import Deque, Dict, Iterable, List, NamedTuple, Optional, Tuple

LOOKS = 8
"""Looks that an estimate takes into account."""
LATE_SHARE = 0.1
"""A rank is slow if it is later than the median by more than this share of a step."""
LATE_S = 0.02
"""And by more than this: about as long as a message may take."""
BEHIND = 2
"""Steps that a rank has to be behind, where ranks do not wait for each other."""
ENOUGH = 3
"""Looks that have to tell how late a rank is."""
STEPS_KEPT = 4 * LOOKS
LASTS = 4
"""Looks in a row at which a rank has to be slow before it is named, and not to be, before it is
taken back."""


class Beat(NamedTuple):
    """A rank's newest heartbeat."""

    rank: int
    step: int
    at: float
    """When it was, in seconds, by the clock of the observer."""


class Slow(NamedTuple):
    """A rank that is slower than the median of all."""

    rank: int
    late_s: float
    """How much later than the median it ends a step."""
    step_s: float
    """The seconds of the median rank's step."""
    behind: int
    """How many steps it is behind the median."""
    since: float
    """When that began, by the clock of the observer."""
    step: int
    """Its own step when that began."""

    def text(self) -> str:
        """By how much."""
        if self.behind >= BEHIND:
            return f"{self.behind} steps behind the median, whose step takes {self.step_s:.3g} s"
        share = f", {100 * self.late_s / self.step_s:.0f} %" if self.step_s else ""
        return f"{self.late_s:.3g} s later than the median in each step of {self.step_s:.3g} s" + (
            share
        )


class Clocks:
    """The clocks of other pods, against that of the observer."""

    def __init__(self) -> None:
        self._offsets: Dict[str, Deque[float]] = {}

    def here(self, source: str, sent: float, arrived: float) -> float:
        """What to add to a time of `source`, which has sent a message at `sent` by its clock.

        The message that came the fastest tells best how the clocks differ. Only the last ones
        count: no two clocks go at exactly the same speed.
        """
        found = self._offsets.setdefault(source, deque(maxlen=4 * LOOKS))
        found.append(arrived - sent)
        return min(found)


class _Rank:
    """What is known of one rank."""

    def __init__(self) -> None:
        self.beats: Deque[Tuple[int, float]] = deque(maxlen=LOOKS)
        self.exact: Deque[Optional[float]] = deque(maxlen=LOOKS)
        """How late it was at its newest step; None where nothing tells it."""
        self.least: Deque[float] = deque(maxlen=LOOKS)
        """How late it was at least, at a step that others had done."""
        self.count = 0
        """Looks in a row at which it was slow; below 0, at which it was not."""
        self.since: Tuple[float, int] = (0.0, 0)
        self.told = (0, 0.0)
        """How far behind and how late it was at the most, since then."""
        self.is_slow = False

    def has_passed(self, step: int) -> bool:
        """Whether it was further before: it has gone back to a checkpoint."""
        return bool(self.beats) and step < self.beats[-1][0]

    def see(self, beat: Beat) -> bool:
        """Take in a beat; whether it is a new one."""
        if self.has_passed(beat.step):
            self.__init__()  # type: ignore[misc]
        if self.beats and beat.step == self.beats[-1][0]:
            return False
        self.beats.append((beat.step, beat.at))
        return True

    def step_s(self) -> Optional[float]:
        (first, began), (last, ended) = self.beats[0], self.beats[-1]
        return (ended - began) / (last - first) if last > first and ended > began else None

    def late_s(self) -> float:
        exact = [late for late in self.exact if late is not None]
        if len(exact) >= ENOUGH:
            return max(0.0, statistics.median(exact))
        # Not the highest: one long step makes no slow rank.
        known = sorted([*exact, *self.least], reverse=True)
        return max(0.0, known[ENOUGH - 1]) if len(known) >= ENOUGH else 0.0


class Pace:
    """Compares the ranks of one round."""

    def __init__(self) -> None:
        self._ranks: Dict[int, _Rank] = {}
        self._usual: Dict[int, float] = {}
        """Step → when the median rank ended it, of the last steps that were seen."""

    def rate(self, rank: int) -> Optional[float]:
        """Steps a second over the last looks; None for too few."""
        known = self._ranks.get(rank)
        seconds = known.step_s() if known is not None and known.beats else None
        return None if not seconds else 1 / seconds

    def look(self, beats: Iterable[Beat], now: float) -> List[Slow]:
        """Take in the newest beat of every rank, at about one time; those that are slow now."""
        newest = {beat.rank: beat for beat in beats}
        self._ranks = {rank: self._ranks.get(rank, _Rank()) for rank in newest}
        if any(self._ranks[rank].has_passed(beat.step) for rank, beat in newest.items()):
            self._usual.clear()
        moved = {rank for rank, beat in newest.items() if self._ranks[rank].see(beat)}
        paces = [one.step_s() for one in self._ranks.values() if one.beats]
        known = [pace for pace in paces if pace is not None]
        if len(newest) < 2 or not known:
            return []
        step_s = statistics.median_low(known)
        middle = statistics.median_high(beat.step for beat in newest.values())
        there = [beat.at for beat in newest.values() if beat.step == middle]
        self._usual[middle] = statistics.median_low(there)
        while len(self._usual) > STEPS_KEPT:
            del self._usual[min(self._usual)]
        found = []
        for rank, beat in sorted(newest.items()):
            one = self._ranks[rank]
            if rank in moved:
                usual = self._usual.get(beat.step)
                one.exact.append(None if usual is None else beat.at - usual)
            if moved:
                one.least.append(now - self._usual[middle] if beat.step < middle else 0.0)
            slow = self._judged(rank, one, beat, middle, step_s, now, bool(moved))
            found += [] if slow is None else [slow]
        return found

    def _judged(
        self,
        rank: int,
        one: _Rank,
        beat: Beat,
        middle: int,
        step_s: float,
        now: float,
        moved: bool,
    ) -> Optional[Slow]:
        late_s, behind = one.late_s(), middle - beat.step
        is_late = late_s > max(LATE_S, LATE_SHARE * step_s) or behind >= BEHIND
        if moved and is_late:
            if one.count <= 0:
                one.count = 0
                if not one.is_slow:
                    one.since, one.told = (now, beat.step), (0, 0.0)
            one.count += 1
            one.told = max(one.told, (max(0, behind), late_s))
        elif moved:
            one.count = min(0, one.count) - 1
        if one.count >= LASTS:
            one.is_slow = True
        elif one.count <= -LASTS:
            one.is_slow = False
        if not one.is_slow:
            return None
        behind, late_s = one.told
        return Slow(rank, late_s, step_s, behind, *one.since)
