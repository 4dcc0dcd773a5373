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
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from tests.cluster.paths import StatePaths
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
    order = folder / f"order{rank}"
    if order.exists():
        exec(order.read_text())
    time.sleep(0.05)
dist.destroy_process_group()
"""
CLUSTER = (sys.executable, "-m", "tests.cluster")


def gang(max_restarts: int = 20) -> list[str]:
    """Flags of two nodes and a spare."""
    flags = ["--restart", "gang", "--nodes", "2", "--spares", "1"]
    return [*flags, "--max-restarts", str(max_restarts)]


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

    def remove(self) -> None:
        """Delete it; nothing of it may be left."""
        self.launch.kill()
        self.launch.wait()
        uid = self.ns.batch.read_namespaced_job(self.name, self.ns.name).metadata.uid
        self.ns.delete_job(self.name)
        assert self.ns.empties(60), self.ns.left()
        assert eventually(lambda: not processes_with("KIJ_GANG_ID", uid), 10)

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

    def await_whole(self, pods: int, timeout_s: float = 180) -> None:
        """Until all pods run, as many of them train as the script says, and the rest stand by.

        Kubernetes takes some seconds to notice a lost pod, whose log still says that it trains.
        """

        def whole() -> bool:
            there = self.pods()
            spoken = all(
                "round " in self.log_of(pod) or "is a spare" in self.log_of(pod) for pod in there
            )
            trains = self.steps[-1].world if self.steps else 0
            return len(there) == pods and spoken and len(self.training()) == trains

        assert eventually(whole, timeout_s), self.log.read_text()

    def fault(
        self, what: str, act: Callable[[], object], *, restarts: int = 1, timeout_s: float = 180
    ) -> float:
        """Do something and wait for training to go on; the seconds from before it."""
        before = self.steps[-1]
        began = time.time()
        act()
        step = self.await_step(began, before.restarts + restarts, timeout_s)
        self.rows.append(Row(what, step.time - began, step.restarts - before.restarts))
        return step.time - began

    def order(self, rank: int, code: str, *, again: bool = False) -> None:
        """Have a rank run some code after its next step; `again`: after every step."""
        new = self.folder / "order"
        new.write_text(code if again else f"order.unlink()\n{code}")
        new.rename(self.folder / f"order{rank}")

    def longest_pause(self, since: float) -> float:
        """Seconds between two steps."""
        times = [step.time for step in self.steps if step.time >= since]
        return max(after - before for before, after in pairwise(times))

    def finish(self, timeout_s: float = 180) -> int:
        """Let the script end; the launch's exit code."""
        (self.folder / "stop").touch()
        return self.launch.wait(timeout_s)

    def ends_well(self, restarts: int) -> None:
        assert self.finish() == 0, self.log.read_text()
        log = self.log.read_text()
        times = re.findall(r"the job trained .*restarted (\d+) time", log)
        assert set(times) == ({str(restarts)} if restarts else set()), log
        assert re.search(r"^\d \| kij-train: round 1: rank 0 of 2$", log, re.MULTILINE), log
        assert f"{self.name} succeeded" in log

    def ends_badly(self, *words: str, timeout_s: float = 180) -> str:
        """What the launch says at the end, with these words in it."""
        assert self.launch.wait(timeout_s) == 1, self.log.read_text()
        log = self.log.read_text()
        verdict = log[log.rindex(f"{self.name} failed after") :]
        missing = [each for each in words if each not in verdict]
        assert not missing, (missing, log)
        return verdict

    def why(self) -> str:
        return self.ns.kij_train("why", self.name, cwd=ROOT).stdout

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
        processes = processes_with("KIJ_POD_IP", pod.status.pod_ip)
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

    def drain(self, machine: str) -> None:
        """As an admin does it; `uncordon` is left to do."""
        ours = f"--pod-selector=batch.kubernetes.io/job-name={self.name}"
        self._kubectl("drain", machine, "--delete-emptydir-data", "--timeout=60s", ours)

    def uncordon(self, machine: str) -> None:
        self._kubectl("uncordon", machine)

    def _kubectl(self, *words: str) -> None:
        line = ["kubectl", "--kubeconfig", self.ns.kubeconfig, *words]
        subprocess.run(line, check=True, capture_output=True)

    def link(self, what: str, pod: str) -> None:
        """Cut a pod's network silently (down), or heal it (up)."""
        cluster("link", what, f"{self.ns.name}/{pod}")


def cluster(*words: str) -> None:
    """A command of the test cluster."""
    subprocess.run([*CLUSTER, *words], cwd=ROOT, check=True, capture_output=True)


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Processes of this machine that have this in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) == value:
                found.append(process)
    return found


class Machines:
    """The nodes, whose images are changed by containerd's own client."""

    def __init__(self) -> None:
        self._disks = list((StatePaths.of_this_clone().run / "nodes").iterdir())

    def ctr(self, *words: str) -> None:
        for disk in self._disks:
            socket = disk / "containerd" / "containerd.sock"
            line = ["ctr", "--address", str(socket), "--namespace", "k8s.io", *words]
            subprocess.run(line, check=True, capture_output=True)
