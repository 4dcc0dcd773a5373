"""A job with a spare that loses processes, pods, links and machines, and trains on.

`pytest -m chaos` prints a table of what each fault cost.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest

from tests.faults import cluster, gang
from tests.kube import eventually
from tests.node.conftest import Start

pytestmark = [pytest.mark.chaos, pytest.mark.own_cluster, pytest.mark.timeout(600)]

BEATS = """\
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def beat():
    while True:
        with (folder / "beats").open("a") as file:
            print(time.time(), file=file)
        time.sleep(0.02)
threading.Thread(target=beat, daemon=True).start()
"""


def test_processes_are_killed(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    pods = job.pods()
    for what, process, place in (
        ("a rank", "worker", -1),
        ("torchrun", "agent", 0),
        ("torchrun's parent", "zygote", -1),
    ):
        victim = job.process(job.training()[place], process)
        job.fault(f"SIGKILL of {what}", victim.kill)
    assert "rounds failed, the newest" in job.why()
    job.ends_well(3)
    assert [row.restarts for row in job.rows] == [1, 1, 1]
    assert pods.keys() <= {
        pod.metadata.name for pod in job.ns.core.list_namespaced_pod(job.ns.name).items
    }


def test_pods_are_lost(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    _, last = job.training()
    job.fault(f"SIGKILL of the pod's first process, index {last}", lambda: job.kill(last, "first"))
    job.await_whole(3)
    first, _ = job.training()
    job.fault(f"pod deleted by force, index {first}", lambda: job.delete(job.pod(first), 0))
    job.await_whole(3)
    job.ends_well(2)


@pytest.mark.slow
def test_training_does_not_notice_what_happens_to_a_spare(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    began = time.time()

    def lose(what: str, act: Callable[[str], None]) -> None:
        spare = job.spare()
        job.fault(f"{what} of the spare", lambda: act(spare), restarts=0)
        assert eventually(lambda: spare not in job.pods(), 60)
        job.await_whole(3)
        assert job.spare() != spare

    lose("SIGKILL of the first process", lambda spare: job.kill(job.pods()[spare], "first"))
    lose("pod deleted by force,", lambda spare: job.delete(spare, 0))
    lose("pod deleted,", lambda spare: job.delete(spare, 30))
    assert {step.restarts for step in job.steps} == {0}
    assert job.longest_pause(began) < 5
    job.ends_well(0)


def test_a_link_is_cut_and_healed(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    first, _ = job.training()
    zombie = job.pod(first)
    job.order(0, BEATS)
    beats = job.folder / "beats"
    assert eventually(beats.exists, 10)
    try:
        job.fault(f"link cut silently, rank 0 at index {first}", lambda: job.link("down", zombie))
        # Kubernetes has not noticed; where training had to wait, the launch has deleted the pod.
        assert zombie in job.pods() or f"(pod {zombie} on" in job.log.read_text()
        time.sleep(10)
        assert float(beats.read_text().split()[-1]) < job.await_step(0, 1, 0).time
        assert all(after.restarts >= before.restarts for before, after in pairwise(job.steps))
    finally:
        # On a slow machine the pod is gone by now: cut off for half a minute, it ends itself.
        with suppress(subprocess.CalledProcessError):
            job.link("up", zombie)
    assert eventually(lambda: zombie not in job.pods() or job.stands_by(zombie), 60)
    job.ends_well(1)


@pytest.mark.slow
def test_pods_leave_in_good_order(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    _, last = job.training()
    job.fault(f"pod deleted, index {last}", lambda: job.delete(job.pod(last), 30))
    job.await_whole(3)
    first, _ = job.training()
    job.fault(f"pod evicted, index {first}", lambda: job.evict(job.pod(first)))
    job.await_whole(3)
    job.ends_well(2)


@pytest.mark.slow
def test_a_machine_is_drained(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    machines = job.machines()
    machine = machines[job.pod(job.training()[0])]
    lost = list(machines.values()).count(machine)
    try:
        job.fault(f"machine drained, with {lost} of 3 pods", lambda: job.drain(machine))
        job.await_whole(3)
        assert machine not in job.machines().values()
    finally:
        job.uncordon(machine)
    job.ends_well(job.steps[-1].restarts)


@pytest.mark.slow
def test_two_are_lost_at_once(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    first, second = (job.pod(index) for index in job.training())

    def both() -> None:
        job.delete(first, 0)
        job.delete(second, 0)

    job.fault("two pods deleted by force at once, one spare", both, timeout_s=120)
    job.ends_well(1)


@pytest.mark.slow
def test_a_machine_dies_silently(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    machines = job.machines()
    machine = machines[job.pod(job.training()[-1])]
    lost = list(machines.values()).count(machine)
    what = f"machine dead silently, with {lost} of 3 pods"
    try:
        job.fault(what, lambda: cluster("node", "kill", machine), timeout_s=180)
    finally:
        cluster("node", "start", machine)
    job.ends_well(1)


@pytest.mark.slow
def test_a_link_is_cut_where_no_spare_is(start: Start) -> None:
    """Kubernetes does not notice: the launch deletes the pod."""
    job = start("--restart", "gang", "--nodes", "2", "--max-restarts", "3")
    job.await_whole(2)
    pod = job.pod(1)
    job.fault("link of index 1 cut, no spare", lambda: job.link("down", pod), timeout_s=150)
    assert pod not in job.pods()
    assert f"deleted index 1 (pod {pod} on " in job.log.read_text()
    job.ends_well(1)


@pytest.mark.slow
def test_a_link_is_cut_and_nobody_watches(start: Start) -> None:
    """The pod has to end itself."""
    job = start("--restart", "gang", "--nodes", "2", "--max-restarts", "3")
    job.await_whole(2)
    job.launch.kill()
    pod = job.pod(1)
    job.link("down", pod)
    assert eventually(lambda: job.steps[-1].restarts == 1, 150)
    assert pod not in job.pods()
