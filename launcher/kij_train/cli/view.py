"""Showing a job as it goes: a live table on a terminal, one line a change elsewhere.

Lines of the log scroll by above the table, which stays at the bottom and goes when the job ends. It
has a row a phase, never a row a node, so that 5,000 nodes take no more room than 8.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from kij_train import diagnosis, units
from kij_train.cli import output
from kij_train.cli.drawn import REFRESH_PER_S, Drawn, terminal
from kij_train.diagnosis import Node, Phase
from kij_train.pod.status import step_of

if TYPE_CHECKING:
    from kij_train.cluster import LogLine, Observation

LINE_PAUSE_S = 1.0
NAMED = 3
"""Troubled nodes that are named in a row."""
STYLES = {Phase.RUNNING: "green", Phase.DONE: "green", Phase.FAILED: "red"}


class View(AbstractContextManager["View"], Protocol):
    """What launch shows a job with."""

    def line(self, line: LogLine) -> None:
        """A line of the log."""

    def change(self, observed: Observation) -> None:
        """The job or its pods are different, or time has passed."""

    def note(self, text: str) -> None:
        """Something about the watching."""


def view(name: str, job: diagnosis.JobView | None = None) -> View:
    """The live view where stderr is a terminal that can move its cursor, else the plain one.

    `job` is the Job that was there before, whose age is shown.
    """
    console = terminal()
    if console is None:
        return PlainView(name)
    began = None if job is None else diagnosis.epoch(job.started)
    return LiveView(name, console, 0.0 if began is None else time.time() - began)


class PlainView:
    """One line at each change, at most one a second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = ""
        """The last line, with one word for reasons that come in turns."""
        self._at = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, line: LogLine) -> None:
        output.workload(line.text)

    def change(self, observed: Observation) -> None:
        now = time.monotonic()
        if now - self._at < LINE_PAUSE_S:
            return
        text = f"{self._name}  {summary(observed)}"
        same = diagnosis.same_reason(text)
        if same != self._shown:
            output.status(text)
            self._shown, self._at = same, now

    def note(self, text: str) -> None:
        output.status(text)


def summary(observed: Observation) -> str:
    """`8 nodes: pending 3, running 5`, and who is in trouble."""
    nodes = observed.nodes
    counts = ", ".join(f"{phase.value} {n}" for phase, n in diagnosis.phases(nodes).items())
    text = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {counts}"
    troubled = named(node for node in nodes if node.troubled)
    return f"{text} · {troubled}" if troubled else text


def named(nodes: Iterable[Node]) -> str:
    """`index 3 ErrImagePull, index 7 ErrImagePull and 12 more`."""
    found = list(nodes)
    shown = [f"index {node.index} {node.reason or node.phase.value}" for node in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(shown) + more


class LiveView(Drawn):
    """A table at the bottom of the terminal, made anew four times a second."""

    def __init__(self, name: str, console: Console, age_s: float = 0.0) -> None:
        super().__init__(console)
        self._name = name
        self._nodes: list[Node] = []
        self._at = 0.0
        self._steps: dict[int, str] = {}
        """Index → what it does before its ranks start, as its newest line says."""
        self._began = time.monotonic() - age_s

    def line(self, line: LogLine) -> None:
        self._steps[line.index] = step_of(line.text)
        self._print(line.text)

    def change(self, observed: Observation) -> None:
        # Going over thousands of nodes takes longer than drawing a row a phase: not at every event.
        # None is lost: what comes in between is seen with the next, a second later at most.
        now = time.monotonic()
        if now - self._at >= 1 / REFRESH_PER_S:
            self._nodes, self._at = observed.nodes, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del options
        elapsed_s = time.monotonic() - self._began
        yield table(self._name, self._nodes, elapsed_s, width=console.width, steps=self._steps)


def table(
    name: str,
    nodes: list[Node],
    elapsed_s: float,
    *,
    width: int,
    steps: Mapping[int, str] | None = None,
) -> Group:
    """A row a phase: how many nodes, which is in it the longest, which are in trouble.

    `steps` tell of some nodes that run what they do before their ranks start.
    """
    about = f"  {len(nodes)} nodes · {units.format_seconds(elapsed_s)}" if nodes else "  …"
    head = Text(name, style="bold")
    head.truncate(max(1, width - len(about)), overflow="ellipsis")
    head.append(about, style="not bold")
    grid = Table(
        box=None, pad_edge=False, show_header=False, width=min(width, 100), padding=(0, 2, 0, 0)
    )
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    now = time.time()
    for phase, count in diagnosis.phases(nodes).items():
        inside = [node for node in nodes if node.phase is phase]
        grid.add_row(
            Text(f"  {phase.value}", style=STYLES.get(phase, "yellow")),
            str(count),
            Text(_about(phase, inside, now, steps or {}), style="dim"),
        )
    return Group(head, grid)


def _about(phase: Phase, nodes: list[Node], now: float, steps: Mapping[int, str]) -> str:
    troubled = named(node for node in nodes if node.troubled)
    doing = [f"index {node.index} {steps[node.index]}" for node in nodes if steps.get(node.index)]
    if doing and not troubled and phase in (Phase.RUNNING, Phase.STANDBY):
        return ", ".join(doing[:NAMED])
    if troubled or phase in (Phase.RUNNING, Phase.DONE):
        return troubled
    dated = [node for node in nodes if node.since is not None]
    if not dated:
        return ""
    slowest = min(dated, key=lambda node: node.since or now)
    at = f" on {slowest.node}" if slowest.node else ""
    waited = units.format_seconds(max(0.0, now - (slowest.since or now)))
    return f"index {slowest.index} for {waited}{at}"
