"""What `kij-train map --local` adds to many short items, against GNU parallel, in one run.

    python benchmarks/map.py [--items 500] [--runs 5] [--torch-items 500] [--torch-runs 1]
                             [--out FOLDER]

The same items by both, as many at once as there are cores, both with an account of every item
(--joblog of parallel): a Python script that imports torch, which kij-train preloads and parallel
starts anew; and a program that does nothing, `true`. In turn (A B B A …) after a warm-up of ten
items each, and the median of the ratios pair by pair is what counts: the machine's speed drifts,
the ratio does not. Needs torch and GNU parallel.

What is kept is of --torch-items 100 where the machine has other work: 500 starts of Python with
torch are then twenty minutes. Of the two, 100 is the harder number for kij-train: its one import of
torch in each runner is spread over fewer items, and GNU parallel takes the same for every item.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package

SCRIPT = """\
import sys
import torch
assert torch.tensor(int(sys.argv[1])) >= 0
"""
CORES = len(os.sched_getaffinity(0))
WARM_UP = 10
Way = Callable[[Path, int], float]
"""Runs so many items in a folder; the seconds it took."""


@dataclass(frozen=True)
class Comparison:
    """One kind of item, by both."""

    what: str
    limit: float
    """What the ratio may be at most."""
    ours: list[str]
    """What follows `kij-train map --local --range …`."""
    other: list[str]
    """What follows `parallel …`."""


COMPARISONS = [
    Comparison(
        "a Python script that imports torch",
        0.1,
        ["--preload", "torch", "item.py", "{item}"],
        [sys.executable, "item.py"],
    ),
    Comparison("a program, true", 1.2, ["--no-python", "true", "{item}"], ["true"]),
]


@dataclass(frozen=True)
class Row:
    """What came out."""

    what: str
    limit: float
    items: int
    ours_s: list[float]
    other_s: list[float]

    @property
    def ratio(self) -> float:
        """Median of the ratios pair by pair."""
        return statistics.median(a / b for a, b in zip(self.ours_s, self.other_s, strict=True))


def kij_train(command: list[str]) -> Way:
    """All items by us."""

    def run(folder: Path, items: int) -> float:
        line = [sys.executable, "-m", "kij_train", "map", "--local", "--range", f"0:{items}"]
        line += ["--indexes", str(4 * CORES), "--parallelism", str(CORES)]
        return timed([*line, *command], folder)

    return run


def parallel(command: list[str]) -> Way:
    """All items by GNU parallel."""

    def run(folder: Path, items: int) -> float:
        line = ["parallel", "--jobs", str(CORES), "--joblog", str(folder / "joblog"), *command]
        return timed([*line, ":::", *map(str, range(items))], folder)

    return run


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a command that must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr[-2000:]
    return seconds


def compare(comparison: Comparison, items: int, runs: int, scratch: Path) -> Row:
    """Run both in turn, each time in a new folder."""
    both = (kij_train(comparison.ours), parallel(comparison.other))
    pairs: list[list[float]] = []
    for turn in range(runs + 1):
        order = both if turn % 2 == 0 else both[::-1]
        seconds: dict[Way, float] = {}
        for way in order:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                (Path(folder) / "item.py").write_text(SCRIPT)
                seconds[way] = way(Path(folder), items if turn else min(WARM_UP, items))
        pair = [seconds[way] for way in both]
        print(f"{comparison.what}, {'warm-up' if turn == 0 else turn}: {pair}", flush=True)
        pairs.append(pair)
    ours, other = ([pair[side] for pair in pairs[1:]] for side in (0, 1))
    return Row(comparison.what, comparison.limit, items, ours, other)


def table(rows: list[Row], report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['machine']}, {report['parallel']}, "
        f"load average before {report['load_average_before'][0]}.",
        "",
        "| items | kij-train, s | GNU parallel, s | ms an item, both | ratio | at most |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours, other = statistics.median(row.ours_s), statistics.median(row.other_s)
        each = " and ".join(f"{seconds / row.items * 1000:.1f}" for seconds in (ours, other))
        lines.append(
            f"| {row.items} × {row.what} | {ours:.2f} | {other:.2f} | {each} | {row.ratio:.3f} | "
            f"{row.limit} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], file: Path) -> None:
    """Milliseconds an item, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.4), layout="constrained")
    for at, row in enumerate(reversed(rows)):
        for shift, name, runs, colour in (
            (0.18, "kij-train map --local", row.ours_s, "tab:blue"),
            (-0.18, "GNU parallel", row.other_s, "tab:grey"),
        ):
            each_ms = statistics.median(runs) / row.items * 1000
            label = name if at == 0 else "_"
            axes.barh(at + shift, each_ms, 0.34, color=colour, label=label)
            axes.text(each_ms, at + shift, f" {each_ms:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.items} × {row.what}" for row in reversed(rows)])
    axes.set_xscale("log")
    axes.set_xlabel(f"milliseconds an item, {CORES} at once")
    axes.margins(x=0.15)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot; 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--torch-items", type=int, default=500)
    parser.add_argument("--torch-runs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    if shutil.which("parallel") is None:
        raise SystemExit("GNU parallel is missing: apt-get install parallel")
    version = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=True)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            compare(COMPARISONS[0], arguments.torch_items, arguments.torch_runs, Path(scratch)),
            compare(COMPARISONS[1], arguments.items, arguments.runs, Path(scratch)),
        ]
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/map.py", *sys.argv[1:]]),
        "machine": f"{CORES} cores, {platform.machine()}, {platform.system()}",
        "parallel": version.stdout.splitlines()[0],
        "load_average_before": [round(one, 2) for one in load],
        "load_average_after": [round(one, 2) for one in os.getloadavg()],
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    text = table(rows, report)
    kept.keep(report, text, arguments.out, "map", partial(plot, rows))
    return int(any(row.ratio > row.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
