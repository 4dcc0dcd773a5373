"""How things grow with the number of nodes: docs/pictures/scaling-*.svg, from kept measurements.

On the left, supervisors on one machine of two cores until all of them are told to start again
(benchmarks/results/supervisors_many.json); on the right, all_reduce over pods of the test cluster
on two cores (benchmarks/results/sweep.json). Both files say what command made them.
"""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from kij_train.bench.rows import all_rows, size_text

from tests import pictures
from tests.kube import ROOT

RESULTS = ROOT / "benchmarks" / "results"
SHOWN = {
    "kij-train, start": "first start",
    "kij-train, member killed": "a pod was killed",
    "kij-train, leader killed": "the leader was killed",
    "kij-train, member silent": "a pod fell silent",
}


def seconds() -> dict[str, list[tuple[int, float]]]:
    """What happened → nodes and median seconds, of one run."""
    kept = json.loads((RESULTS / "supervisors_many.json").read_text(encoding="utf-8"))["seconds"]
    return {
        label: sorted((int(nodes), median(each)) for nodes, each in kept[case].items())
        for case, label in SHOWN.items()
    }


def figure(scheme: str) -> Any:
    """Both plots."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 3.8), layout="constrained")
    gang, reduce = drawn.subplots(1, 2)
    for label, points in seconds().items():
        gang.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
    gang.set(xscale="log", yscale="log", xlabel="nodes", ylabel="seconds until all are told")
    counts = sorted({nodes for points in seconds().values() for nodes, _ in points})
    gang.set_xticks(counts, list(map(str, counts)))
    gang.minorticks_off()
    gang.set_title("--restart gang: supervisors on two cores", fontsize=10)
    gang.legend(fontsize=8)
    document = json.loads((RESULTS / "sweep.json").read_text(encoding="utf-8"))
    rows = all_rows(document)
    for nodes in sorted({row.nodes for row in rows if row.ranks > 1}):
        mine = sorted((row.size, row.busbw) for row in rows if row.nodes == nodes)
        reduce.plot(*zip(*mine, strict=True), marker="o", markersize=4, label=f"{nodes} nodes")
    reduce.set(xscale="log", yscale="log", xlabel="message", ylabel="busbw (GB/s)")
    reduce.xaxis.set_major_formatter(lambda size, _: size_text(int(size)))
    reduce.xaxis.get_major_locator().set_params(base=2)
    reduce.set_title("all_reduce: pods that share two cores, gloo", fontsize=10)
    reduce.legend(fontsize=8)
    for axes in (gang, reduce):
        axes.grid(visible=True, alpha=0.5)
    return drawn


def main() -> None:
    """Draw both schemes."""
    pictures.draw("scaling", figure)
