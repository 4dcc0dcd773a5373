"""Showing an array as it goes: a bar on a terminal, a line now and then elsewhere.

It takes two lines for any number of items and indexes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kij_train import units
from kij_train.arrays.progress import Progress, Rate
from kij_train.cli import output
from kij_train.cli.drawn import Drawn, terminal
from kij_train.paths import shown
from kij_train.pod.itemplan import compress_numbers

LINE_PAUSE_S = 10.0
NAMED = 5
"""Indexes with failed items that are named."""
SLOW_AFTER_S = 10.0
"""How long an index runs before it is named as the slowest."""

GetProgress = Callable[[], Progress]


class ArrayView(AbstractContextManager["ArrayView"], Protocol):
    """What an attached command shows an array with."""

    def line(self, index: int, key: str, text: str) -> None:
        """A line that an item, or its index, has printed."""

    def progress(self, get: GetProgress) -> None:
        """Something has changed; `get` is called when it is drawn."""

    def note(self, text: str) -> None:
        """Something about the watching."""


def array_view(name: str) -> ArrayView:
    """The bar where stderr is a terminal that can move its cursor, else plain lines."""
    console = terminal()
    return LinesView(name) if console is None else BarView(name, console)


def labelled(index: int, key: str) -> str:
    """`3/key`; without a key where no item has started, or all run as one."""
    return f"{index}{'/' + shown(key) if key else ''}"


class LinesView:
    """A line at most every LINE_PAUSE_S, and one at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rate = Rate()
        self._get: GetProgress | None = None
        self._shown = ""
        self._at = time.monotonic()

    def __enter__(self) -> LinesView:
        return self

    def __exit__(self, *_: object) -> None:
        self._show(time.monotonic())

    def line(self, index: int, key: str, text: str) -> None:
        output.workload(f"{labelled(index, key)} | {text}")

    def progress(self, get: GetProgress) -> None:
        self._get = get
        now = time.monotonic()
        if now - self._at >= LINE_PAUSE_S:
            self._show(now)

    def _show(self, now: float) -> None:
        if self._get is None:
            return
        found = self._get()
        self._rate.saw(found.settled, now)
        text = f"{self._name}  {summary(found, self._rate, now)}"
        if text != self._shown:
            output.status(text)
            self._shown, self._at = text, now

    def note(self, text: str) -> None:
        output.status(text)


def summary(found: Progress, rate: Rate, now: float) -> str:
    """`312 of 500 items · failed 2 · 3.4 items/s, 55s left · …`."""
    return " · ".join([f"{found.settled:,} of {found.items:,} items", *details(found, rate, now)])


def details(found: Progress, rate: Rate, now: float) -> list[str]:
    """What there is to say of the items beside how many are settled, and of the indexes."""
    parts = [
        f"{word} {count:,}"
        for word, count in (("failed", found.failed), ("missing", found.missing))
        if count
    ]
    per_s, left_s = rate.per_s(now), rate.left_s(found.items - found.settled, now)
    if per_s and found.running and found.settled < found.items:  # else it would only grow
        speed = f"{per_s:.3g} items/s"
        parts.append(f"{speed}, {units.format_seconds(left_s)} left" if left_s else speed)
    states = (("running", found.running), ("pending", found.pending))
    parts += [
        f"{count:,} index{'' if count == 1 else 'es'} {word}" for word, count in states if count
    ]
    return parts


def named(found: Progress) -> list[str]:
    """The index that takes the longest, and those with failed items."""
    parts = []
    if found.slowest is not None:
        index, since = found.slowest
        runs_s = time.time() - since
        if since and runs_s >= SLOW_AFTER_S:
            parts.append(f"slowest: index {index} for {units.format_seconds(runs_s)}")
    if found.failing:
        first = compress_numbers(sorted(found.failing[:NAMED]))
        more = len(found.failing) - NAMED
        parts.append(f"failing: index {first}" + (f" and {more:,} more" if more > 0 else ""))
    return parts


class BarView(Drawn):
    """A bar at the bottom of the terminal, made anew four times a second."""

    def __init__(self, name: str, console: Console) -> None:
        super().__init__(console)
        self._name = name
        self._rate = Rate()
        self._get: GetProgress | None = None
        self._began = time.monotonic()

    def line(self, index: int, key: str, text: str) -> None:
        self._print(f"{labelled(index, key)} | {text}")

    def progress(self, get: GetProgress) -> None:
        self._get = get

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del options
        now = time.monotonic()
        found = self._get() if self._get is not None else None
        if found is not None:
            self._rate.saw(found.settled, now)
        yield bar(self._name, found, self._rate, now - self._began, now, width=console.width)


def bar(
    name: str, found: Progress | None, rate: Rate, elapsed_s: float, now: float, *, width: int
) -> Group:
    """Name, bar and numbers, and below what is to be looked at."""
    head = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0), width=width)
    head.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
    head.add_column(ratio=1, min_width=8)
    head.add_column(no_wrap=True)
    took = units.format_seconds(elapsed_s)
    if found is None:
        head.add_row(Text(name, style="bold"), Text("…"), Text(took, style="dim"))
        return Group(head)
    style = "red" if found.failed or found.missing else "green"
    drawn = ProgressBar(total=max(1, found.items), completed=found.settled, complete_style=style)
    numbers = Text(f"{found.settled:,}/{found.items:,} · {took}")
    head.add_row(Text(name, style="bold"), drawn, numbers)
    below = Text("  " + " · ".join([*details(found, rate, now), *named(found)]), style="dim")
    below.truncate(width, overflow="ellipsis")
    return Group(head, below)
