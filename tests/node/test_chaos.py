"""A job with a spare, and everything that happens to jobs. `pytest -m chaos` prints a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPORT_LINES
from tests.faults import Lasting, cluster
from tests.kube import Namespace, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.own_cluster, pytest.mark.timeout(600)]
Start = Callable[..., Lasting]

GANG = ("--restart", "gang", "--nodes", "2", "--spares", "1", "--max-restarts", "20")


@pytest.fixture
def start(
    ns: Namespace, image: str, shared_folder: str, pytestconfig: pytest.Config
) -> Iterator[Start]:
    jobs: list[Lasting] = []

    def launch(*flags: str) -> Lasting:
        job = Lasting(ns, image, Path(shared_folder), *flags, name=f"chaos{len(jobs)}")
        jobs.append(job)
        job.await_step(0, 0, 120)
        return job

    yield launch
    for job in jobs:
        job.launch.kill()
        job.launch.wait()
        pytestconfig.stash[REPORT_LINES] += [str(row) for row in job.rows]


def ends_well(job: Lasting, restarts: int) -> None:
    assert job.finish() == 0, job.log.read_text()
    log = job.log.read_text()
    assert f"restarted {restarts} time" in log, log
    assert re.search(r"^\d \| kij-train: round 1: rank 0 of 2$", log, re.MULTILINE), log
    assert f"{job.name} succeeded" in log


def test_processes_are_killed(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    pods = job.pods()
    first, last = job.training()
    job.fault(f"SIGKILL of a rank, index {last}", lambda: job.kill(last, "worker"))
    job.fault(f"SIGKILL of torchrun, index {first}", lambda: job.kill(first, "agent"))
    job.fault(f"SIGKILL of torchrun's parent, index {last}", lambda: job.kill(last, "zygote"))
    ends_well(job, 3)
    assert [row.restarts for row in job.rows] == [1, 1, 1]
    assert pods.keys() <= {
        pod.metadata.name for pod in job.ns.core.list_namespaced_pod(job.ns.name).items
    }


def test_pods_are_lost(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    _, last = job.training()
    job.fault(f"SIGKILL of the pod's first process, index {last}", lambda: job.kill(last, "first"))
    job.await_whole(3)
    first, _ = job.training()
    job.fault(f"pod deleted by force, index {first}", lambda: job.delete(job.pod(first), 0))
    job.await_whole(3)
    spare = job.spare()
    job.fault("pod of the spare deleted by force", lambda: job.delete(spare, 0), restarts=0)
    ends_well(job, 2)


def test_a_link_is_cut_and_healed(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    _, last = job.training()
    zombie = job.pod(last)
    job.fault(f"link cut silently, index {last}", lambda: job.link("down", zombie))
    assert zombie in job.pods()  # Kubernetes has not noticed
    job.link("up", zombie)
    assert eventually(lambda: job.stands_by(zombie), 60)
    ends_well(job, 1)


def test_a_script_that_fails_ends_the_job(start: Start, ns: Namespace) -> None:
    # Three may be lost, and only three fail: the launch has to tell the Job what they know.
    job = start("--restart", "gang", "--nodes", "2", "--spares", "1", "--max-restarts", "3")
    (job.folder / "state").unlink()
    (job.folder / "state").mkdir()
    assert job.launch.wait(120) == 1
    log = job.log.read_text()
    assert re.search(r"rank (\d) \(index \1, pod chaos0-\1-\w+, node .*\) was first", log), log
    assert "IsADirectoryError" in log[log.rindex("was first") :]
    assert "(restarted 3 times)" in log
    status = ns.batch.read_namespaced_job(job.name, ns.name).status
    assert "FailureTarget" in {condition.type for condition in status.conditions}
    assert status.failed <= 3


def test_a_script_that_fails_ends_the_job_that_nobody_watches(start: Start, ns: Namespace) -> None:
    job = start("--restart", "gang", "--nodes", "2", "--spares", "1", "--max-restarts", "1")
    job.launch.kill()
    (job.folder / "state").unlink()
    (job.folder / "state").mkdir()

    def failed() -> bool:
        conditions = ns.batch.read_namespaced_job(job.name, ns.name).status.conditions or []
        return "FailureTarget" in {condition.type for condition in conditions}

    assert eventually(failed, 90)


@pytest.mark.slow
def test_pods_leave_in_good_order(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    _, last = job.training()
    job.fault(f"pod deleted, index {last}", lambda: job.delete(job.pod(last), 30))
    job.await_whole(3)
    first, _ = job.training()
    job.fault(f"pod evicted, index {first}", lambda: job.evict(job.pod(first)))
    job.await_whole(3)
    ends_well(job, 2)


@pytest.mark.slow
def test_two_are_lost_at_once(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    first, second = (job.pod(index) for index in job.training())

    def both() -> None:
        job.delete(first, 0)
        job.delete(second, 0)

    job.fault("two pods deleted by force at once, one spare", both, timeout_s=120)
    ends_well(job, 1)


@pytest.mark.slow
def test_a_machine_dies_silently(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    machines = job.machines()
    machine = machines[job.pod(job.training()[-1])]
    lost = list(machines.values()).count(machine)
    what = f"machine dead silently, with {lost} of 3 pods"
    try:
        job.fault(what, lambda: cluster("node", "kill", machine), timeout_s=180)
    finally:
        cluster("node", "start", machine)
    ends_well(job, 1)


@pytest.mark.slow
def test_the_api_server_is_away(start: Start) -> None:
    job = start(*GANG)
    job.await_whole(3)
    worker = job.process(job.training()[-1], "worker")
    cluster("apiserver", "stop")
    try:
        job.fault("SIGKILL of a rank while the API server is away", worker.kill)
    finally:
        cluster("apiserver", "start")
    ends_well(job, 1)
