"""Queues, gangs and claims against a real API server: what it takes, keeps and drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kij_train import render, runs
from kij_train.cluster import Cluster
from kij_train.cluster.submit import dry_run, submit
from kij_train.errors import RefusedError, RequestError
from kij_train.jobs import change
from kij_train.spec import JobSpec

from tests.kube import Namespace, eventually

CODE = render.Code("print('bootstrap')\n")
NO_GANG = r"has no PodGroup|drops schedulingGroup"


@pytest.fixture
def cluster(ns: Namespace) -> Cluster:
    return Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)


def job(**fields: Any) -> list[dict[str, Any]]:
    spec = JobSpec.model_validate({"script": "a.py", "nodes": 2, **fields})
    return render.render(spec, name="job", code=CODE)


def test_a_queued_job_is_whole_before_its_queue_sees_it_and_stays_suspended(
    cluster: Cluster, ns: Namespace
) -> None:
    submit(cluster, job(queue="team-a"))
    assert cluster.requests == 5
    body = ns.batch.read_namespaced_job("job", ns.name)
    assert body.spec.suspend is True
    assert body.metadata.labels["kueue.x-k8s.io/queue-name"] == "team-a"
    # What Kueue's controller sets last is the label's manager: the create did not carry it.
    writers = [one for one in body.metadata.managed_fields if one.operation == "Update"]
    owned = [
        "f:kueue.x-k8s.io/queue-name" in one.fields_v1["f:metadata"].get("f:labels", {})
        for one in writers
        if "f:metadata" in one.fields_v1
    ]
    assert any(owned)
    assert not any(name.startswith("pods/") for name in ns.left())


def test_a_resource_that_no_machine_has_is_known_before_the_launch(
    cluster: Cluster, ns: Namespace, tmp_path: Path
) -> None:
    asked = JobSpec(script="a.py", gpus=1, resources={"example.com/none": 1})
    missing = runs.which_nobody_has(asked, cluster)
    doctor = cluster.address.command("doctor")
    assert missing["example.com/none"] == f"what the machines have: {doctor}"
    before = cluster.requests
    assert runs.which_nobody_has(JobSpec(script="a.py", cpu="1"), cluster) == {}
    assert cluster.requests == before
    user = Cluster.connect(kubeconfig=ns.user("u", [], tmp_path), context=None, namespace=ns.name)
    assert runs.which_nobody_has(asked, user) == {}


def test_a_cancelled_job_leaves_its_queue(cluster: Cluster, ns: Namespace) -> None:
    submit(cluster, job(queue="team-a"))
    change.cancel(cluster, "job")
    body = ns.batch.read_namespaced_job("job", ns.name)
    assert body.spec.suspend is True
    assert "kueue.x-k8s.io/queue-name" not in body.metadata.labels


def test_a_job_that_is_resumed_goes_back_to_its_queue_which_starts_it(
    cluster: Cluster, ns: Namespace
) -> None:
    submit(cluster, job(queue="team-a"))
    change.cancel(cluster, "job")
    assert change.resume(cluster, "job").queue == "team-a"
    body = ns.batch.read_namespaced_job("job", ns.name)
    assert body.spec.suspend is True
    assert body.metadata.labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert not [key for key in body.metadata.annotations if "cancelled" in key]
    with pytest.raises(RequestError, match="waits in queue team-a"):
        change.resume(cluster, "job")


def test_the_server_takes_an_elastic_job_of_any_size_in_its_range(
    cluster: Cluster, ns: Namespace
) -> None:
    submit(cluster, job(nodes="3:5", restart="elastic"))
    for nodes in (3, 5, 4):
        change.scale(cluster, "job", nodes)
        spec = ns.batch.read_namespaced_job("job", ns.name).spec
        assert (spec.completions, spec.parallelism) == (8, nodes)  # 5 nodes, and 3 in reserve


@pytest.mark.parametrize("scheduler", ["coscheduling", "native"])
def test_a_gang_scheduler_that_is_not_there_is_named_and_nothing_is_left(
    cluster: Cluster, ns: Namespace, scheduler: str
) -> None:
    with pytest.raises(RefusedError, match=NO_GANG) as caught:
        dry_run(cluster, job(scheduler=scheduler))
    assert "--scheduler" in caught.value.hints[0]
    with pytest.raises(RefusedError, match=NO_GANG):
        submit(cluster, job(scheduler=scheduler))
    assert eventually(lambda: ns.left() == [], 30)


def test_a_claim_template_goes_with_its_job(cluster: Cluster, ns: Namespace) -> None:
    from kubernetes import client

    submit(cluster, job(gpus=1, gpu_kind="dra"))
    api = client.ResourceV1Api(ns.api)
    (template,) = api.list_namespaced_resource_claim_template(ns.name).items
    assert template.metadata.owner_references[0].name == "job"
    ns.delete_job("job")
    assert eventually(lambda: not api.list_namespaced_resource_claim_template(ns.name).items, 30)


@pytest.mark.parametrize("placement", ["spread", "pack"])
def test_places_reach_the_pods(cluster: Cluster, ns: Namespace, placement: str) -> None:
    submit(cluster, job(placement=placement, topology="zone"))
    assert eventually(lambda: sum(n.startswith("pods/job-") for n in ns.left()) == 2, 30)


def test_without_a_gang_the_user_is_told(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)\n")
    more = ["launch", "-d", "--nodes", "2", "--gpus", "1"]
    result = ns.kij_train(*more, "train.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "warning: no gang scheduling: the 2 pods start one by one" in result.stderr
    result = ns.kij_train(*more, "--queue", "team-a", "train.py", cwd=tmp_path)
    assert "no gang scheduling" not in result.stderr
