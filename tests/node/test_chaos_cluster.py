"""A job that restarts, while its cluster lacks an API server, DNS, quota or the image."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.faults import Machines, cluster, gang
from tests.kube import Namespace, eventually
from tests.node.conftest import Start

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.own_cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
OWN_TAG = "kij-train.test/torch:taken-away"


def test_the_api_server_is_away(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    worker = job.process(job.training()[-1], "worker")
    cluster("apiserver", "stop")
    try:
        job.fault("SIGKILL of a rank while the API server is away", worker.kill)
    finally:
        cluster("apiserver", "start")
    job.ends_well(1)


def test_dns_is_away(start: Start) -> None:
    job = start(*gang())
    job.await_whole(3)
    cluster("dns", "stop")
    try:
        time.sleep(10)
        first, last = job.training()
        job.fault("SIGKILL of a rank while DNS is away", lambda: job.kill(last, "worker"))
        lost = job.pod(first)
        job.fault("pod of the leader deleted by force, the same", lambda: job.delete(lost, 0))
        time.sleep(40)
        assert job.training() != [first, last]
    finally:
        cluster("dns", "start")
    assert {step.restarts for step in job.steps} == {0, 1, 2}
    job.await_whole(3)
    job.ends_well(2)


def test_a_job_is_suspended_and_resumed(start: Start, ns: Namespace) -> None:
    job = start(*gang())
    job.await_whole(3)

    def suspend(suspended: bool) -> None:
        ns.batch.patch_namespaced_job(job.name, ns.name, {"spec": {"suspend": suspended}})

    suspend(True)
    assert eventually(lambda: not ns.core.list_namespaced_pod(ns.name).items, 60)
    assert "is suspended" in job.why()
    last = job.steps[-1]
    job.fault("job resumed, after it was suspended", lambda: suspend(False), restarts=0)
    first = next(step for step in job.steps if step.time > last.time)
    assert first.step - last.step in (0, 1)
    assert not ns.batch.read_namespaced_job(job.name, ns.name).status.failed
    job.ends_well(0)


def test_quota_is_taken_away_and_given_back(start: Start, ns: Namespace) -> None:
    job = start(*gang())
    job.await_whole(3)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    ns.core.create_namespaced_resource_quota(ns.name, quota)
    counted = ns.core.read_namespaced_resource_quota
    assert eventually(lambda: bool(counted("none", ns.name).status.hard), 30)
    first, last = job.training()
    job.fault(f"pod deleted by force, index {last}, no quota", lambda: job.delete(job.pod(last), 0))
    job.delete(job.pod(first), 0)
    assert eventually(lambda: "no quota left" in job.why(), 60), job.why()
    assert "2 of 3 nodes have no pod" in job.why()
    stopped = job.steps[-1]
    time.sleep(20)
    assert job.steps[-1] == stopped
    job.fault(
        "quota given back",
        lambda: ns.core.delete_namespaced_resource_quota("none", ns.name),
        timeout_s=240,
    )
    job.await_whole(3)
    job.ends_well(2)


@pytest.fixture
def own_tag(image: str) -> Iterator[str]:
    """A name of the image that can be taken away from every machine."""
    machines = Machines()
    machines.ctr("images", "tag", "--force", image, OWN_TAG)
    yield OWN_TAG
    machines.ctr("images", "rm", OWN_TAG)


def test_the_image_is_gone_and_comes_back(own_tag: str, start: Start, image: str) -> None:
    job = start(*gang(), image=own_tag)
    job.await_whole(3)
    machines = Machines()
    machines.ctr("images", "rm", own_tag)
    first, last = job.training()
    job.fault(f"pod deleted by force, index {last}, no image", lambda: job.delete(job.pod(last), 0))
    job.delete(job.pod(first), 0)
    assert eventually(lambda: f"image {own_tag} cannot be pulled" in job.why(), 60), job.why()
    stopped = job.steps[-1]
    time.sleep(10)
    assert job.steps[-1] == stopped
    job.fault(
        "image is there again",
        lambda: machines.ctr("images", "tag", image, own_tag),
        timeout_s=240,
    )
    job.await_whole(3)
    job.ends_well(2)
