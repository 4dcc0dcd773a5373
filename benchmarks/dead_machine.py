"""Seconds from a machine's power cut to the next training step, and what they are spent on.

    python benchmarks/dead_machine.py [--runs 3] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. Two nodes and a spare train with
`--restart gang`; the machine that has two of the three pods dies without a word, while nobody
watches the job, and while the `launch` is attached, which deletes pods that are not heard of. The
parts, in the order in which they follow each other:

- noticed: until the machine's condition Ready is no longer True, or a pod of it is deleted;
- evicted: until the first of its pods is given up;
- placed: until a replacement has a machine;
- started: until its container runs;
- trained: until the next step of a world that is whole.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import on_the_cluster  # noqa: E402
from tests.faults import Lasting, cluster, gang  # noqa: E402
from tests.kube import Namespace, eventually, namespace  # noqa: E402

PARTS = ("noticed", "evicted", "placed", "started", "trained")
ATTACHED, ALONE = "launch attached", "nobody watches"
LIMIT_S = 240.0
EVERY_S = 0.2


class Watched:
    """A job whose machine dies."""

    def __init__(self, job: Lasting) -> None:
        self.job = job
        self.machine = most_pods(job.machines())
        self.old = set(job.pods())
        self.last = job.steps[-1]

    def pods(self) -> list[Any]:
        """All that the Job has, those that are being deleted among them."""
        ns = self.job.ns
        selector = f"batch.kubernetes.io/job-name={self.job.name}"
        return list(ns.core.list_namespaced_pod(ns.name, label_selector=selector).items)

    def noticed(self) -> bool:
        conditions = self.job.ns.core.read_node(self.machine).status.conditions
        lost = any(each.type == "Ready" and each.status != "True" for each in conditions)
        return lost or self.evicted()

    def evicted(self) -> bool:
        """A pod that is gone was given up as well."""
        here = {pod.metadata.name: pod for pod in self.pods()}
        kept = (here.get(name) for name in self.old)
        return any(
            pod is None or pod.metadata.deletion_timestamp or pod.status.phase == "Failed"
            for pod in kept
        )

    def placed(self) -> bool:
        return any(pod.spec.node_name for pod in self._new())

    def started(self) -> bool:
        return any(pod.status.phase == "Running" for pod in self._new())

    def trained(self) -> bool:
        return self.job.steps[-1].restarts > self.last.restarts

    def _new(self) -> list[Any]:
        return [pod for pod in self.pods() if pod.metadata.name not in self.old]


def most_pods(machines: dict[str, str]) -> str:
    """The machine that most pods run on."""
    places = list(machines.values())
    return max(sorted(set(places)), key=places.count)


def parts(job: Lasting, way: str) -> dict[str, float]:
    """Kill the machine; seconds of each part."""
    watched = Watched(job)
    if way == ALONE:
        job.launch.kill()
    began = time.time()
    cluster("node", "kill", watched.machine)
    try:
        ends = [until(getattr(watched, part), began + LIMIT_S) for part in PARTS]
    finally:
        cluster("node", "start", watched.machine)
        core = job.ns.core
        assert eventually(lambda: ready(core.read_node(watched.machine)), 120)
    first = [began, *ends]
    return {part: end - start for part, start, end in zip(PARTS, first, ends, strict=False)}


def ready(node: Any) -> bool:
    """Whether pods can be placed there again."""
    return not node.spec.taints


def until(happened: Callable[[], bool], deadline: float) -> float:
    """The time at which it was first seen."""
    while not happened():
        if time.time() > deadline:
            raise TimeoutError(happened.__name__)
        time.sleep(EVERY_S)
    return time.time()


def run_once(ns: Namespace, image: str, shared: Path, way: str) -> dict[str, float]:
    """A job from its launch to its end."""
    job = Lasting(ns, image, shared, *gang(), name="dead")
    try:
        job.await_whole(3)
        return parts(job, way)
    finally:
        job.remove()


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each part."""
    return {part: statistics.median(run[part] for run in runs) for part in PARTS}


def plot(report: dict[str, Any], file: Path) -> None:
    """A bar a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = {
        f"{way}, {number}": run
        for way, runs in report["seconds"].items()
        for number, run in enumerate(runs, 1)
    }
    figure, axes = pyplot.subplots(figsize=(7, 0.4 * len(bars) + 1), layout="constrained")
    left = [0.0] * len(bars)
    for part in PARTS:
        widths = [run[part] for run in bars.values()]
        axes.barh(list(bars), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the machine died")
    figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)
    figure.savefig(file, dpi=120)


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['runs']} runs, medians. "
        f"{report['machine']}.",
        "",
        "| seconds | " + " | ".join([*PARTS, "in all"]) + " |",
        "|---|" + "---:|" * (len(PARTS) + 1),
    ]
    for way, runs in report["seconds"].items():
        whole = statistics.median(sum(run.values()) for run in runs)
        each = [f"{seconds:.1f}" for seconds in (*median(runs).values(), whole)]
        lines.append(f"| {way} | " + " | ".join(each) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print a table, keep a report and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    state = on_the_cluster()
    seconds: dict[str, list[dict[str, float]]] = {ALONE: [], ATTACHED: []}
    for number in range(arguments.runs):
        for way, runs in seconds.items():
            with namespace(state.kubeconfig) as ns:
                runs.append(run_once(ns, state.images["torch"], Path(state.shared_dir), way))
                said = {part: round(each, 1) for part, each in runs[-1].items()}
                print(number + 1, way, said, flush=True)
    report = {
        **circumstances,
        "runs": arguments.runs,
        "seconds": seconds,
    }
    kept.keep(report, table(report), arguments.out, "dead_machine", partial(plot, report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
