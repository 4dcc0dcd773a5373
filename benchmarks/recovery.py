"""Seconds from the loss of a pod to the next training step: kij-train against the plain ways.

    python benchmarks/recovery.py [--runs 5] [--faults deleted-1,deleted-0,cut-1] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs; two nodes train, the same script with
the same checkpoint. All at once, and hit in turn, in every run:

- kij-train with a spare, and without one (--restart gang);
- stock torchrun: an Indexed Job, each pod `torchrun --rdzv-backend=c10d --max-restarts=20`;
- all pods anew: an Indexed Job with `torchrun` alone, deleted and created again when it has failed,
  which is what operators do with a group.

Faults: a pod deleted by force (index 1; index 0, the rendezvous' host), the link of index 1 cut
without a word. What has not trained again after --limit seconds counts as not survived.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept, plainjob  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import on_the_cluster  # noqa: E402
from tests.faults import STEPS, Lasting  # noqa: E402
from tests.kube import Namespace, namespace  # noqa: E402

PAUSE_S = 1.0
"""A step takes 0.05 s: a longer pause is the loss."""
GANG = ("--restart", "gang", "--nodes", "2", "--max-restarts", "20")
C10D_ALONE, ANEW = "torchrun c10d", "all pods anew"


def c10d(name: str) -> list[str]:
    """torchrun with its elastic rendezvous, which restarts by itself."""
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-id=a", f"--rdzv-endpoint={name}-0.{name}:29400"]
    sizes = ["torchrun", "--nnodes=2", "--nproc-per-node=1"]
    return [*sizes, *rendezvous, "--max-restarts=20", "/shared/train.py", "1000000"]


def static(name: str) -> list[str]:
    """torchrun that ends with the first rank that fails."""
    return plainjob.torchrun(name, 2, "/shared/train.py", "1000000")


class Plain(Lasting):
    """The same script in a Job written by hand."""

    def __init__(
        self,
        ns: Namespace,
        image: str,
        shared: Path,
        command: list[str],
        *,
        backoff: int,
        name: str,
    ) -> None:
        self.ns, self.name, self.rows = ns, name, []
        self.folder = shared / f"{ns.name}-{name}"
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o777)
        (self.folder / "train.py").write_text(STEPS)
        self.log = self.folder / "log"
        self.log.touch()
        volumes = {"/shared": {"hostPath": {"path": str(self.folder)}}}
        self.objects = plainjob.objects(name, image, 2, command, volumes, backoff=backoff)
        self.kubectl("create")
        self.launch = subprocess.Popen(["sleep", "100000"])

    def kubectl(self, verb: str, *flags: str, only: str = "") -> None:
        """Create or delete the objects, of one kind or all."""
        documents = [body for body in self.objects if only in ("", body["kind"])]
        where = ["--kubeconfig", self.ns.kubeconfig, "-n", self.ns.name]
        subprocess.run(
            ["kubectl", verb, *where, *flags, "-f", "-"],
            input=yaml.safe_dump_all(documents),
            text=True,
            check=True,
            capture_output=True,
        )

    def again_when_failed(self, timeout_s: float) -> None:
        """Delete the Job with all its pods once it has failed, and create it again."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.ns.batch.read_namespaced_job(self.name, self.ns.name).status
            kinds = {condition.type for condition in status.conditions or []}
            if kinds & {"Failed", "FailureTarget"}:
                self.kubectl("delete", "--cascade=foreground", "--grace-period=0", only="Job")
                self.kubectl("create", only="Job")
                return
            time.sleep(0.2)


def ways(ns: Namespace, image: str, shared: Path) -> dict[str, Callable[[str], Lasting]]:
    """What is compared: how to start it."""
    return {
        "kij-train, one spare": lambda name: Lasting(
            ns, image, shared, *GANG, "--spares", "1", name=name
        ),
        "kij-train, no spare": lambda name: Lasting(ns, image, shared, *GANG, name=name),
        C10D_ALONE: lambda name: Plain(ns, image, shared, c10d(name), backoff=20, name=name),
        ANEW: lambda name: Plain(ns, image, shared, static(name), backoff=0, name=name),
    }


def inject(job: Lasting, way: str, fault: str, limit_s: float) -> float:
    """Do it; the time of it, in seconds since the epoch."""
    what, _, index = fault.partition("-")
    pod = job.pod(int(index))
    began = time.time()
    if what == "cut":
        job.link("down", pod)
    else:
        job.delete(pod, 0)
    if way == ANEW and isinstance(job, Plain):
        job.again_when_failed(limit_s)
    return began


def recovery(job: Lasting, began: float, limit_s: float) -> float | None:
    """Seconds until the next step of a world that is whole; None when there is none in time."""
    while True:
        for one, following in pairwise(job.steps):
            if following.time > began and following.time - one.time > PAUSE_S:
                return following.time - began if following.time - began < limit_s else None
        if time.time() > began + limit_s:
            return None
        time.sleep(0.2)


def measure(
    runs: int, faults: list[str], image: str, shared: Path, limit_s: float, kubeconfig: str
) -> dict[str, dict[str, list[float | None]]]:
    """Fault → way → seconds, in the order in which they were measured."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for run in range(runs):
        for fault in faults:
            with namespace(kubeconfig) as ns:
                seconds = of_all_ways(run, fault, ways(ns, image, shared), limit_s)
                for way, each in seconds.items():
                    found.setdefault(fault, {}).setdefault(way, []).append(each)
                    print(f"{run + 1} {fault:<10} {way:<22} {each}", flush=True)
                assert ns.empties(60), ns.left()
    return found


def of_all_ways(
    run: int, fault: str, begin: dict[str, Callable[[str], Lasting]], limit_s: float
) -> dict[str, float | None]:
    """All train at once, which takes little, and are hit one after the other, in another order."""
    jobs: dict[str, Lasting] = {}
    try:
        for number, (way, launch) in enumerate(begin.items()):
            jobs[way] = launch(f"r{number}")
        for job in jobs.values():
            job.await_step(0, 0, 180)
        time.sleep(8)  # a spare is ready, as it is in the middle of training
        order = list(jobs)[run % len(jobs) :] + list(jobs)[: run % len(jobs)]
        hit: dict[str, float] = {}
        for way in order:
            hit[way] = inject(jobs[way], way, fault, limit_s)
            if way != C10D_ALONE:  # which only waits, long
                recovery(jobs[way], hit[way], limit_s)
        return {way: recovery(job, hit[way], limit_s) for way, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.launch.kill()
            job.launch.wait()
            if isinstance(job, Plain):
                job.kubectl("delete", "--ignore-not-found", "--wait=false")
            else:
                job.ns.delete_job(job.name)


def median(seconds: list[float | None], limit_s: float) -> float | None:
    """None where most were not survived."""
    value = statistics.median(limit_s if each is None else each for each in seconds)
    return None if value >= limit_s else value


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    faults = list(report["seconds"])
    every = list(report["seconds"][faults[0]])
    names = {
        "deleted-1": "pod of index 1 deleted by force",
        "deleted-0": "pod of index 0 deleted by force",
        "cut-1": "link of index 1 cut silently",
    }
    lines = [
        f"`{report['command']}`, {report['date']}, {report['runs']} runs, in turn, medians. "
        f"{report['machine']}.",
        "",
        "| seconds until the next step | " + " | ".join(every) + " |",
        "|---|" + "---:|" * len(every),
    ]
    for fault in faults:
        cells = [median(report["seconds"][fault][way], report["limit_s"]) for way in every]
        none = f"not in {report['limit_s']:.0f}"
        texts = [none if cell is None else f"{cell:.1f}" for cell in cells]
        lines.append(f"| {names[fault]} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], file: Path) -> None:
    """Every run as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    faults = list(report["seconds"])
    every = list(report["seconds"][faults[0]])
    for number, way in enumerate(every):
        for at, fault in enumerate(faults):
            seconds = [each for each in report["seconds"][fault][way] if each is not None]
            where = [at + 0.18 * (number - 1.5)] * len(seconds)
            label = way if at == 0 else "_"
            axes.plot(where, seconds, "o", color=f"C{number}", alpha=0.6, label=label)
    axes.set_xticks(range(len(faults)), faults)
    axes.set_ylabel("seconds until the next step")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--faults", default="deleted-1,deleted-0,cut-1")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    state = on_the_cluster()
    seconds = measure(
        arguments.runs,
        arguments.faults.split(","),
        state.images["torch"],
        Path(state.shared_dir),
        arguments.limit,
        state.kubeconfig,
    )
    report = {
        **circumstances,
        "runs": arguments.runs,
        "limit_s": arguments.limit,
        "seconds": seconds,
    }
    kept.keep(report, table(report), arguments.out, "recovery", partial(plot, report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
