"""The timeline of a job that lost pods, and went on: docs/pictures/recovery-*.svg.

    python -m tests.pictures recovery                                     draws what was recorded
    python -m tests.cluster exec -- python -m tests.recoverypicture       records it anew, and draws

Two nodes and a spare, a checkpoint at every step. The steps are the script's own notes; when pods
run is what the API server says; who trains in a round, and the account, is what the log says.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests import pictures
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.faults import Lasting, gang
from tests.kube import ROOT, namespace

FILE = pictures.FOLDER / "recovery.json"
NAME = "train"
CALM_S = 8.0
"""Training before the first loss, and between two."""
COMMAND = "kij-train launch --restart gang --nodes 2 --spares 1 train.py"


class Watch(threading.Thread):
    """Since when and until when the pod of each index runs."""

    def __init__(self, job: Lasting) -> None:
        super().__init__(daemon=True)
        self.job, self.seen, self.over = job, dict[int, list[float]](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.2):
            now = time.time()
            for index in self.job.pods().values():
                self.seen.setdefault(index, [now, now])[1] = now


def record() -> dict[str, Any]:
    """Three losses, on the test cluster."""
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None, "first: make cluster"
    with namespace(state.kubeconfig) as ns:
        job = Lasting(ns, state.images["torch"], Path(state.shared_dir), *gang(), name=NAME)
        watch = Watch(job)
        try:
            job.await_whole(3)
            watch.start()
            began, done = time.time(), []
            for what, act in (
                ("a rank is killed", lambda: job.kill(job.training()[1], "worker")),
                ("pod of rank 0 is deleted by force", lambda: job.delete(_rank0(job), 0)),
                ("a pod is evicted", lambda: job.evict(job.pod(job.training()[1]))),
            ):
                time.sleep(CALM_S)
                job.fault(what, act)
                done.append(what)
                job.await_whole(3)
            time.sleep(CALM_S)
            assert job.finish() == 0, job.log.read_text()
        finally:
            watch.over.set()
            log, steps = job.log.read_text(), job.steps
            job.remove()
    rounds = re.findall(r"kij-train: round (\d+): indexes? ([\d, ]+) trains?", log)
    trained = {int(number): sorted(map(int, who.split(","))) for number, who in rounds}
    return {
        "command": COMMAND,
        "machine": "two virtual machines that share two cores",
        "load_average": round(os.getloadavg()[0], 1),
        "faults": done,
        "pods": {
            str(i): [round(at - began, 2) for at in seen] for i, seen in sorted(watch.seen.items())
        },
        "rounds": [
            {
                "indexes": indexes,
                "steps": [
                    [round(step.time - began, 2), step.step]
                    for step in steps
                    if step.restarts == number - 1 and step.time > began
                ],
            }
            for number, indexes in trained.items()
        ],
        "account": re.findall(r"kij-train: (the job trained .*)", log)[-1],
    }


def losses(recorded: dict[str, Any]) -> list[tuple[float, float, str]]:
    """When no step came any more, for how many seconds, and why."""
    times = [[at for at, _ in each["steps"]] for each in recorded["rounds"]]
    return [
        (before[-1], after[0] - before[-1], what)
        for before, after, what in zip(times, times[1:], recorded["faults"])  # noqa: B905 - one loss less than rounds
    ]


def _rank0(job: Lasting) -> str:
    return job.pod(job.training()[0])


def figure(recorded: dict[str, Any], scheme: str) -> Any:
    """A row an index: light where its pod runs, full where it trains; below, the steps."""
    from matplotlib.figure import Figure

    blue, orange, *_, red = pictures.SERIES[scheme]
    drawn = Figure(figsize=(9, 4.6), layout="constrained")
    rows, steps = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, (since, until) in recorded["pods"].items():
        rows.barh(int(index), until - since, left=since, height=0.5, color=blue, alpha=0.25)
    for number, each in enumerate(recorded["rounds"]):
        times = [at for at, _ in each["steps"]]
        for index in each["indexes"] if times else ():
            rows.barh(index, times[-1] - times[0], left=times[0], height=0.5, color=blue)
        label = "steps" if number == 0 else None
        steps.plot(times, [step for _, step in each["steps"]], color=blue, lw=2, label=label)
    for number, (at, seconds, what) in enumerate(losses(recorded)):
        for axes in (rows, steps):
            axes.axvline(at, color=red, lw=1, ls="--")
        rows.annotate(
            f"{what}\nno step for {seconds:.1f} s",
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2 + 24 * (number % 2)),
            textcoords="offset points",
            fontsize=8,
        )
    indexes = sorted(map(int, recorded["pods"]))
    rows.set_yticks(indexes, [f"index {index}" for index in indexes])
    rows.invert_yaxis()
    rows.bar(0, 0, color=blue, label="trains")
    rows.bar(0, 0, color=blue, alpha=0.25, label="its pod runs: starts or stands by")
    rows.legend(loc="lower left", fontsize=8)
    steps.set(xlabel="seconds", ylabel="step")
    drawn.supxlabel(recorded["account"].partition(";")[0], fontsize=9, color=orange)
    return drawn


def draw_kept() -> None:
    """What was recorded."""
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    pictures.draw("recovery", lambda scheme: figure(recorded, scheme))


def main() -> int:
    """Record and draw."""
    FILE.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    print(FILE.relative_to(ROOT))
    draw_kept()
    return 0


if __name__ == "__main__":
    sys.exit(main())
