"""How far an array is, and how fast. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 120.0
"""Of the past by which the rate is told."""


@dataclass(frozen=True)
class Progress:
    """How far an attempt is."""

    items: int
    done: int
    failed: int
    missing: int
    """Items of indexes that have ended without a word about them."""
    indexes: int
    ended: int
    running: int
    """Indexes."""
    failing: tuple[int, ...] = ()
    """Indexes with failed or missing items, the newest first."""
    slowest: tuple[int, float] | None = None
    """The index that runs for the longest time, and since when (epoch seconds)."""

    @property
    def settled(self) -> int:
        """Items of which nothing more comes."""
        return self.done + self.failed + self.missing

    @property
    def pending(self) -> int:
        """Indexes that do not run yet, or not again."""
        return max(0, self.indexes - self.ended - self.running)


class Rate:
    """Items a second, over the last WINDOW_S. Times are those of any even clock, in seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, settled: int, now: float) -> None:
        """So many items were settled at that time."""
        if self._seen and settled < self._seen[-1][1]:
            self._seen.clear()  # a pod that was lost takes its items with it
        if not self._seen or settled != self._seen[-1][1]:
            self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()

    def per_s(self, now: float) -> float | None:
        """None as long as nothing can be told."""
        if len(self._seen) < 2:
            return None
        (began, before), (_, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - began) if now > began else None

    def left_s(self, left: int, now: float) -> float | None:
        """Seconds until that many more are settled, at this rate."""
        rate = self.per_s(now)
        return left / rate if rate else None
