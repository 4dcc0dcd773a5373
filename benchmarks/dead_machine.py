"""Seconds from a machine's power cut to the next training step, and what they are spent on.

    python benchmarks/dead_machine.py [--runs 3] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. Two nodes and a spare train with
`--restart gang`; the machine that has two of the three pods dies without a word. The parts, in the
order in which they follow each other:

- noticed: until the machine's condition Ready is no longer True;
- evicted: until the first of its pods is given up;
- placed: until a replacement has a machine;
- started: until its container runs;
- trained: until the next step of a world that is whole.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.launch_overhead import on_the_cluster  # noqa: E402 - the repository is no package
from tests.faults import Lasting, cluster, gang  # noqa: E402
from tests.kube import Namespace, eventually, namespace  # noqa: E402

PARTS = ("noticed", "evicted", "placed", "started", "trained")
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
        return any(each.type == "Ready" and each.status != "True" for each in conditions)

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


def parts(job: Lasting) -> dict[str, float]:
    """Kill the machine; seconds of each part."""
    watched = Watched(job)
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


def run_once(ns: Namespace, image: str, shared: Path) -> dict[str, float]:
    """A job from its launch to its end."""
    job = Lasting(ns, image, shared, *gang(), name="dead")
    try:
        job.await_whole(3)
        return parts(job)
    finally:
        job.remove()


def plot(report: dict[str, Any], file: Path) -> None:
    """A bar a run, and one of the medians."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = report["seconds"]
    bars = {f"run {number}": run for number, run in enumerate(runs, 1)}
    bars["median"] = report["medians"]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(bars) + 1.4), layout="constrained")
    left = [0.0] * len(bars)
    for part in PARTS:
        widths = [run[part] for run in bars.values()]
        axes.barh(list(bars), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the machine died")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=len(PARTS), frameon=False)
    figure.savefig(file, dpi=120)


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    medians = report["medians"]
    return "\n".join(
        [
            f"`{report['command']}`, {report['date']}, {report['runs']} runs, medians. "
            f"{report['machine']}.",
            "",
            "| " + " | ".join([*PARTS, "in all"]) + " |",
            "|" + "---:|" * (len(PARTS) + 1),
            "| "
            + " | ".join(f"{medians[part]:.1f}" for part in PARTS)
            + f" | {statistics.median(sum(run.values()) for run in report['seconds']):.1f} |",
            "",
        ]
    )


def main() -> int:
    """Print a table, keep a report and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    state = on_the_cluster()
    seconds = []
    for number in range(arguments.runs):
        with namespace(state.kubeconfig) as ns:
            seconds.append(run_once(ns, state.images["torch"], Path(state.shared_dir)))
            print(number + 1, {part: round(each, 1) for part, each in seconds[-1].items()})
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(
            ["python", "benchmarks/dead_machine.py", "--runs", str(len(seconds))]
        ),
        "machine": f"{os.cpu_count()} cores for everything, {platform.machine()}",
        "runs": len(seconds),
        "seconds": seconds,
        "medians": {part: statistics.median(run[part] for run in seconds) for part in PARTS},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "dead_machine.json").write_text(json.dumps(report, indent=1) + "\n")
    (arguments.out / "dead_machine.md").write_text(table(report))
    plot(report, arguments.out / "dead_machine.png")
    print("\n" + table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
