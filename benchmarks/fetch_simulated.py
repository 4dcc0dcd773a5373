"""How long `--fetch` takes for many pods, by simulation with the tree of the protocol itself.

    python benchmarks/fetch_simulated.py [--out FOLDER]

Nothing is sent. Pods join in the tree of kij_train.pod.spread, in the order of their indexes, and
hand on chunks of its size, one after another, over an uplink of a given rate. Beside it stands the
model: file / origin's rate, or where an uplink is slower than that, what it takes to send the file
to two others; and for each level of the tree, the time to send a chunk to two others. In the runs
with losses, one pod in ten, of those that hand on, is lost in the middle, at one moment,
and none comes for it.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kij_train.pod.spread.chunks import File, Layout
from kij_train.pod.spread.follower import PAUSE_S
from kij_train.pod.spread.tree import FANOUT, READER, Tree

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package

FILE_BYTES = 1 << 30
ORIGIN_BYTES_S = 50e6
LATENCY_S = 0.001
PODS = (8, 64, 512)
UPLINKS = (1250e6, 125e6, 60e6)
"""In bytes a second: 10 and 1 Gbit/s, and one that is too slow to hand on twice in time."""


@dataclass
class Result:
    """Of one simulation."""

    pods: int
    uplink_mb_s: float
    lost: int
    depth: int
    """Of the deepest pod, at the end."""
    seconds: float
    """Until the last pod has everything."""
    model_s: float


class Simulation:
    """Pods, their links, and what happens next. Times are in seconds."""

    def __init__(self, pods: int, uplink: float, layout: Layout) -> None:
        self._uplink, self._layout = uplink, layout
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.now = 0.0
        self.tree = Tree()
        members = (READER, *range(pods - 1))
        self.have = dict.fromkeys(members, 0)
        self._free_at = dict.fromkeys(members, 0.0)
        self._connection = dict.fromkeys(members, 0)
        """Counts a member's parents: what an earlier one has sent is not taken."""
        self._coming: set[int] = set()
        self._children: dict[int, list[int]] = {member: [] for member in members}
        for member in members[1:]:
            self._children[self.tree.add(member)].append(member)

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Something that happens then."""
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self) -> float:
        """Until all have everything; the time of that."""
        self._read_next()
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
        assert set(self.have.values()) == {self._layout.count}
        return self.now

    def lose(self, member: int) -> None:
        """A pod is gone: its children ask for another parent, as soon as followers do."""
        self.tree.remove(member)
        parents = [each for each in self._children.values() if member in each]
        parents[0].remove(member)
        del self.have[member]
        for child in self._children.pop(member):
            self._coming.discard(child)
            self._connection[child] += 1
            self.at(self.now + PAUSE_S + LATENCY_S, functools.partial(self._move, child))

    def _move(self, child: int) -> None:
        if child in self.have:
            parent = self.tree.move(child)
            self._children[parent].append(child)
            self._send(parent, child)

    def _read_next(self) -> None:
        """The reader reads a chunk of the origin."""
        size = self._layout.size_of(self.have[READER])

        def done() -> None:
            self._arrived(READER)
            if self.have[READER] < self._layout.count:
                self._read_next()

        self.at(self.now + size / ORIGIN_BYTES_S, done)

    def _send(self, parent: int, child: int) -> None:
        """The next chunk, once it is there and the one before has come; both children in turn."""
        if child in self._coming or self.have[parent] <= self.have[child]:
            return
        self._coming.add(child)
        took = self._layout.size_of(self.have[child]) / self._uplink
        self._free_at[parent] = max(self.now, self._free_at[parent]) + took
        connection = self._connection[child]

        def come() -> None:
            if child in self.have and connection == self._connection[child]:
                self._coming.discard(child)
                self._arrived(child)
                self._send(parent, child)

        self.at(self._free_at[parent] + LATENCY_S, come)

    def _arrived(self, member: int) -> None:
        self.have[member] += 1
        for child in self._children[member]:
            self._send(member, child)


def simulate(pods: int, uplink: float, losses: bool = False, size: int = FILE_BYTES) -> Result:
    """One file to all pods."""
    layout = Layout([File(0, "model", size)])
    simulation = Simulation(pods, uplink, layout)
    tree, lost = simulation.tree, list[int]()
    if losses:
        parents = {tree.parent(each) for each in tree.members} - {READER}
        inner = sorted(each for each in parents if each is not None)
        lost = inner[:: max(1, len(inner) // max(1, pods // 10))]
        for member in lost:
            simulation.at(size / ORIGIN_BYTES_S / 2, functools.partial(simulation.lose, member))
    seconds = simulation.run()
    depth = max(tree.depth(member) for member in tree.members)
    return Result(pods, uplink / 1e6, len(lost), depth, seconds, model(layout, depth, uplink))


def model(layout: Layout, depth: int, uplink: float) -> float:
    """Seconds of a pipeline: the slowest stage, and one chunk more for each level."""
    slowest = max(1 / ORIGIN_BYTES_S, FANOUT / uplink)
    return layout.total * slowest + depth * (FANOUT * layout.chunk_bytes / uplink + LATENCY_S)


def table(results: list[Result]) -> str:
    """As Markdown."""
    lines = [
        f"`python benchmarks/fetch_simulated.py`: {FILE_BYTES >> 30} GiB, an origin of "
        f"{ORIGIN_BYTES_S / 1e6:g} MB/s, {LATENCY_S * 1000:g} ms between pods. Simulated.",
        "",
        "| pods | uplink, MB/s | pods lost | depth | s | model, s | all pods read the origin, s |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.pods} | {each.uplink_mb_s:g} | {each.lost} | {each.depth} | {each.seconds:.1f} "
        f"| {each.model_s:.1f} | {each.pods * FILE_BYTES / ORIGIN_BYTES_S:,.0f} |"
        for each in results
    ]
    return "\n".join(lines) + "\n"


def plot(results: list[Result], file: Path) -> None:
    """Time by pods: simulated as dots, the model as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, uplink in enumerate(UPLINKS):
        those = [each for each in results if each.uplink_mb_s == uplink / 1e6]
        whole, colour = [each for each in those if not each.lost], f"C{number}"
        pods = [each.pods for each in whole]
        axes.plot(pods, [each.model_s for each in whole], "-", color=colour)
        label = f"uplinks of {uplink / 1e6:g} MB/s"
        axes.plot(pods, [each.seconds for each in whole], "o", color=colour, label=label)
        lossy = [each for each in those if each.lost]
        seconds = [each.seconds for each in lossy]
        axes.plot([each.pods for each in lossy], seconds, "x", color=colour)
    everyone = [pods * FILE_BYTES / ORIGIN_BYTES_S for pods in PODS]
    axes.plot(PODS, everyone, ":", color="gray", label="all read the origin")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(PODS, [str(pods) for pods in PODS])
    axes.set_xlabel("pods (line: model; x: with pods lost)")
    axes.set_ylabel("seconds until the last pod has it")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    results = [
        simulate(pods, uplink, losses)
        for pods in PODS
        for uplink in UPLINKS
        for losses in (False, True)
    ]
    report: list[dict[str, Any]] = [asdict(each) for each in results]
    kept.keep(report, table(results), arguments.out, "fetch_simulated", partial(plot, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
