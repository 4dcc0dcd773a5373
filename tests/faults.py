"""A job that restarts on the test cluster, what can be done to it, and how long it does not train.

The ranks note every step in a folder that all nodes share, which is read here: no API server, log
or kubelet stands in between.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.kube import ROOT, Namespace, eventually

STEPS = """\
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist

folder, steps = Path("/shared"), int(sys.argv[1])
state, notes, stop = (folder / name for name in ("state", "steps", "stop"))
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
start = int(state.read_text() or 0) if state.exists() else 0
x = torch.ones(1)
for step in range(start, steps):
    x.fill_(1000 if stop.exists() else 1)
    dist.all_reduce(x)
    if x.item() > 999:
        break
    assert x.item() == world
    if rank == 0:
        new = state.with_suffix(f".{os.getpid()}")
        new.write_text(str(step + 1))
        new.rename(state)
        with notes.open("a") as file:
            print(time.time(), step, os.environ.get("KIJ_RESTARTS", 0), world, file=file)
    time.sleep(0.05)
dist.destroy_process_group()
"""
CLUSTER = (sys.executable, "-m", "tests.cluster")


@dataclass(frozen=True)
class Step:
    """A line of the notes."""

    time: float
    step: int
    restarts: int
    world: int


@dataclass(frozen=True)
class Row:
    """What was done, and how long it took until the next step after it."""

    fault: str
    seconds: float
    restarts: int
    """That it led to."""

    def __str__(self) -> str:
        times = f"{self.restarts} restart{'' if self.restarts == 1 else 's'}"
        return f"{self.fault:<56}{self.seconds:6.1f} s  {times}"


class Lasting:
    """A launched job."""

    def __init__(self, ns: Namespace, image: str, shared: Path, *flags: str, name: str) -> None:
        """`shared` is a folder of this machine that every node has under the same path."""
        self.ns, self.name, self.rows = ns, name, list[Row]()
        self.folder = shared / f"{ns.name}-{name}"
        code = self.folder / "code"
        code.mkdir(parents=True)
        self.folder.chmod(0o777)
        (code / "train.py").write_text(STEPS)
        self.log = self.folder / "log"
        line = [sys.executable, "-m", "kij_train", "launch", "-n", ns.name, "--image", image]
        line += ["--kubeconfig", ns.kubeconfig, "--name", name]
        line += ["--mount", f"hostpath:{self.folder}:/shared", *flags, "train.py", "1000000"]
        with self.log.open("w") as log:
            self.launch = subprocess.Popen(line, cwd=code, stdout=log, stderr=subprocess.STDOUT)

    # --- what it does

    @property
    def steps(self) -> list[Step]:
        notes = self.folder / "steps"
        if not notes.exists():
            return []
        found = []
        for line in notes.read_text().splitlines():
            when, step, restarts, world = line.split()
            found.append(Step(float(when), int(step), int(restarts), int(world)))
        return found

    def await_step(self, after: float, restarts: int, timeout_s: float) -> Step:
        """The first step after a moment, of a round after so many restarts."""
        deadline = time.monotonic() + timeout_s
        while True:
            for step in self.steps:
                if step.time > after and step.restarts >= restarts:
                    return step
            assert self.launch.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def await_whole(self, pods: int, timeout_s: float = 120) -> None:
        """Until all pods run, and those that do not train stand by."""

        def whole() -> bool:
            there = self.pods()
            return len(there) == pods and all(
                "round " in self.log_of(pod) or "is a spare" in self.log_of(pod) for pod in there
            )

        assert eventually(whole, timeout_s), self.log.read_text()

    def fault(
        self, what: str, act: Callable[[], object], *, restarts: int = 1, timeout_s: float = 90
    ) -> float:
        """Do something and wait for training to go on; the seconds from before it."""
        before = self.steps[-1]
        began = time.time()
        act()
        step = self.await_step(began, before.restarts + restarts, timeout_s)
        self.rows.append(Row(what, step.time - began, step.restarts - before.restarts))
        return step.time - began

    def finish(self, timeout_s: float = 90) -> int:
        """Let the script end; the launch's exit code."""
        (self.folder / "stop").touch()
        return self.launch.wait(timeout_s)

    # --- its pods

    def pods(self) -> dict[str, int]:
        """Names of the pods that run, by index."""
        selector = f"batch.kubernetes.io/job-name={self.name}"
        found = self.ns.core.list_namespaced_pod(self.ns.name, label_selector=selector).items
        label = "batch.kubernetes.io/job-completion-index"
        alive = (pod for pod in found if not pod.metadata.deletion_timestamp)
        indexes = {
            pod.metadata.name: int(pod.metadata.labels[label])
            for pod in alive
            if pod.status.phase == "Running"
        }
        return dict(sorted(indexes.items(), key=lambda item: item[1]))

    def pod(self, index: int) -> str:
        return next(name for name, each in self.pods().items() if each == index)

    def machines(self) -> dict[str, str]:
        """Where the pods run."""
        read = self.ns.core.read_namespaced_pod
        return {pod: read(pod, self.ns.name).spec.node_name for pod in self.pods()}

    def log_of(self, pod: str) -> str:
        return str(self.ns.core.read_namespaced_pod_log(pod, self.ns.name, tail_lines=20000))

    def stands_by(self, pod: str) -> bool:
        """Whether it is a spare: what its supervisor said of it last."""
        said = re.findall(r"kij-train: (round \d+: rank|this node is a spare)", self.log_of(pod))
        return bool(said) and said[-1] == "this node is a spare"

    def spare(self) -> str:
        """A pod that does not train."""
        return next(pod for pod in self.pods() if self.stands_by(pod))

    def training(self) -> list[int]:
        """Indexes that train, in the order of their ranks."""
        return [index for pod, index in self.pods().items() if not self.stands_by(pod)]

    # --- what is done to it

    def kill(self, index: int, what: str) -> None:
        """SIGKILL to a process of a pod."""
        self.process(index, what).kill()

    def process(self, index: int, what: str) -> psutil.Process:
        """A process of a pod: first, zygote, agent or worker."""
        pod = self.ns.core.read_namespaced_pod(self.pod(index), self.ns.name)
        processes = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("KIJ_POD_IP") == pod.status.pod_ip:
                    processes.append(process)
            except psutil.Error:
                continue
        pids = {process.pid for process in processes}
        process = next(each for each in processes if each.ppid() not in pids)
        for _ in range(("first", "zygote", "agent", "worker").index(what)):
            (process,) = process.children()
        return process

    def delete(self, pod: str, grace_s: int) -> None:
        """As kubectl delete does it; with 0 by force."""
        self.ns.core.delete_namespaced_pod(pod, self.ns.name, grace_period_seconds=grace_s)

    def evict(self, pod: str) -> None:
        """As a drain does it."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        self.ns.core.create_namespaced_pod_eviction(pod, self.ns.name, body)

    def link(self, what: str, pod: str) -> None:
        """Cut a pod's network silently (down), or heal it (up)."""
        cluster("link", what, f"{self.ns.name}/{pod}")


def cluster(*words: str) -> None:
    """A command of the test cluster."""
    subprocess.run([*CLUSTER, *words], cwd=ROOT, check=True, capture_output=True)
