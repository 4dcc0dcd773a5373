"""Jobs that restart and come to an end: what the verdict says, and what is not the end."""

from __future__ import annotations

import re
import time

import pytest

from tests.faults import gang
from tests.kube import Namespace, eventually
from tests.node.conftest import Start

pytestmark = [pytest.mark.chaos, pytest.mark.own_cluster, pytest.mark.timeout(600)]

ALLOCATE = "much = b'x' * (2 << 30)"
FILL_SHM = "open('/dev/shm/full', 'wb').write(bytes(32 << 20))"
FILL_SCRATCH = "open('/scratch/full', 'wb').write(bytes(64 << 20))"


def test_a_script_that_fails_ends_the_job(start: Start, ns: Namespace) -> None:
    # Three may be lost, and only three fail: the launch has to tell the Job what they know.
    job = start(*gang(3))
    (job.folder / "state").unlink()
    (job.folder / "state").mkdir()
    verdict = job.ends_badly("IsADirectoryError")
    assert re.search(r"rank (\d) \(index \1, pod chaos0-\1-\w+, machine .*\) was first", verdict)
    assert "(restarted 3 times)" in job.log.read_text()
    status = ns.batch.read_namespaced_job(job.name, ns.name).status
    assert "FailureTarget" in {condition.type for condition in status.conditions}
    assert status.failed <= 3


@pytest.mark.parametrize("reserve", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_script_that_fails_ends_the_job_that_nobody_watches(
    start: Start, ns: Namespace, reserve: int
) -> None:
    """At once, or after the rest of the reserve has heard that it is over."""
    job = start(*gang(reserve))
    job.launch.kill()
    (job.folder / "state").unlink()
    (job.folder / "state").mkdir()

    def failed() -> bool:
        conditions = ns.batch.read_namespaced_job(job.name, ns.name).status.conditions or []
        return "FailureTarget" in {condition.type for condition in conditions}

    assert eventually(failed, 120)
    indexes = ns.batch.read_namespaced_job(job.name, ns.name).status.failed_indexes
    # The second that fails is one too many; whether the third comes to fail too is a race.
    assert indexes in ({"0-2", "0,1", "0,2", "1,2"} if reserve == 1 else {"0-5"})


def test_a_script_that_fails_after_a_restart_is_named_by_its_exit_code(start: Start) -> None:
    job = start(*gang(1))
    job.await_whole(3)
    job.order(1, "if os.environ['KIJ_RESTARTS'] != '0': sys.exit(3)", again=True)
    job.kill(job.training()[0], "worker")
    job.ends_badly("rank 1 exited with code 3", "rank 1 (index 1")
    assert "failed (restarted 1 time). It trained" in job.log.read_text()


def test_a_rank_that_ends_first_does_not_end_the_others(start: Start) -> None:
    job = start(*gang(1))
    job.order(1, "import atexit; atexit.register(time.sleep, 8)")
    assert eventually(lambda: not (job.folder / "order1").exists(), 10)
    began = time.time()
    job.ends_well(0)
    assert time.time() - began > 8


@pytest.mark.slow
def test_a_rank_that_fails_every_time_is_given_up(start: Start) -> None:
    job = start(*gang(2))
    job.order(1, "raise RuntimeError('never')", again=True)
    job.ends_badly("RuntimeError: never", "rank 1 (index 1")
    assert "failed (restarted 2 times). It trained" in job.log.read_text()


@pytest.mark.slow
def test_pods_that_are_lost_again_and_again_end_the_job(start: Start) -> None:
    job = start(*gang(2))
    job.await_whole(3)

    def lose() -> None:
        job.kill(job.training()[1], "first")

    for which in ("first", "second"):
        job.fault(f"SIGKILL of a pod's first process, for the {which} time", lose)
        job.await_whole(3)
    lose()
    job.ends_badly("more pods were lost than --max-restarts 2 allows", "killed by SIGKILL")


@pytest.mark.slow
def test_a_rank_that_takes_too_much_memory_is_restarted_and_in_the_end_named(start: Start) -> None:
    job = start(*gang(1), "--memory", "1Gi")
    job.await_whole(3)
    job.fault("rank out of memory, index 1", lambda: job.order(1, ALLOCATE))
    job.order(1, ALLOCATE, again=True)
    job.ends_badly("out of memory: the kernel killed it at the pod's limit of 1Gi", "--memory")


def test_a_full_disk_is_named(start: Start) -> None:
    job = start(*gang(1), "--shm", "16Mi")
    job.order(1, FILL_SHM, again=True)
    job.ends_badly("No space left on device", "try: write to a mount", "rank 1 (index 1")


@pytest.mark.slow
def test_a_pod_that_fills_its_disk_is_evicted_and_replaced(start: Start) -> None:
    job = start(*gang(1), "--mount", "emptydir:16Mi:/scratch")
    job.await_whole(3)
    job.fault("pod evicted for a full emptyDir, index 1", lambda: job.order(1, FILL_SCRATCH))
    job.order(1, FILL_SCRATCH, again=True)
    job.ends_badly(
        "more pods were lost than --max-restarts 1 allows",
        'its machine evicted it\n    Usage of EmptyDir volume "mount-1" exceeds the limit "16Mi"',
        "try: write to a mount",
        timeout_s=240,
    )
