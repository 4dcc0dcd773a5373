"""Jobs in Kueue's queues: what cancelling and resuming change, and what is said of queues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kij_train import names, runs
from kij_train.cluster import Cluster
from kij_train.errors import RefusedError
from kij_train.jobs import change
from kij_train.runs import queues

from tests.unit.test_client import Answer, ApiServer
from tests.unit.test_client import server as server  # a fixture

SITUATIONS = Path(__file__).parent / "situations"
FORBIDDEN = {"reason": "Forbidden", "message": 'User "u" cannot patch resource'}
OF_JOBS = "/apis/batch/v1/namespaces/ns/jobs/job"
OF_KUEUE = f"/apis/{names.KUEUE_GROUP}"


class Kueue:
    """Answers for a queued job and its Workload, and remembers what is changed, in order."""

    def __init__(self, server: ApiServer) -> None:
        self.job = json.loads((SITUATIONS / "queued.json").read_text())["job"]
        self.job["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "kij-train"
        self.workload: dict[str, Any] | None = {
            "apiVersion": f"{names.KUEUE_GROUP}/v1beta2",
            "metadata": {"name": "job-job-1", "uid": "w"},
            "spec": {"active": True},
        }
        self.local_queues: list[dict[str, Any]] = []
        self.installed, self.may_list, self.may_patch = True, True, True
        self.changes: list[tuple[str, dict[str, Any]]] = []
        server.answer = self.answer

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        path, _, query = path.partition("?")
        if path.startswith(OF_KUEUE) and not self.installed:
            return 404, b'{"reason": "NotFound", "message": "no"}'
        if path == OF_KUEUE:
            return 200, b'{"versions": [{"version": "v1beta1"}, {"version": "v1beta2"}]}'
        if path.startswith(OF_KUEUE):
            may = self.may_patch if method == "PATCH" else self.may_list
            if not may:
                return 403, json.dumps(FORBIDDEN).encode()
        if method == "PATCH":
            self.changes.append((path.rpartition("/")[2], body))
            return 200, b"{}"
        if path == OF_JOBS:
            return 200, json.dumps(self.job).encode()
        if path.endswith("/workloads"):
            assert (
                query == f"labelSelector=kueue.x-k8s.io%2Fjob-uid%3D{self.job['metadata']['uid']}"
            )
            return 200, json.dumps({"items": [self.workload] if self.workload else []}).encode()
        assert path.endswith("/localqueues"), path
        return 200, json.dumps({"items": self.local_queues}).encode()


@pytest.fixture
def kueue(server: ApiServer) -> Kueue:
    return Kueue(server)


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return server.cluster()


def test_a_cancelled_job_gives_its_quota_back_and_stays_in_its_queue(
    kueue: Kueue, cluster: Cluster
) -> None:
    """Without its label, Kueue would leave its Workload admitted, and the quota with it."""
    change.cancel(cluster, "job")
    (workload, deactivated), (job, marked) = kueue.changes
    assert (workload, job) == ("job-job-1", "job")
    assert deactivated == {"metadata": {"uid": "w"}, "spec": {"active": False}}
    assert marked["spec"] == {"suspend": True}
    assert marked["metadata"]["annotations"] == {names.CANCELLED: "true"}
    assert "labels" not in marked["metadata"]
    assert cluster.warnings == []


def test_a_job_that_is_resumed_is_queued_again(kueue: Kueue, cluster: Cluster) -> None:
    kueue.job["metadata"]["annotations"] = {names.CANCELLED: "true"}
    assert change.resume(cluster, "job").queue == "team-a"
    (job, unmarked), (workload, activated) = kueue.changes
    assert (job, workload) == ("job", "job-job-1")
    assert "spec" not in unmarked
    assert unmarked["metadata"]["annotations"][names.CANCELLED] is None
    assert activated["spec"] == {"active": True}


@pytest.mark.parametrize("lacking", ["workload", "kueue", "right to read", "right to change"])
def test_a_job_whose_workload_cannot_be_changed_leaves_its_queue(
    kueue: Kueue, cluster: Cluster, lacking: str
) -> None:
    kueue.workload = None if lacking == "workload" else kueue.workload
    kueue.installed = lacking != "kueue"
    kueue.may_list = lacking != "right to read"
    kueue.may_patch = lacking != "right to change"
    change.cancel(cluster, "job")
    ((job, marked),) = kueue.changes
    assert job == "job"
    assert marked["spec"] == {"suspend": True}
    assert marked["metadata"]["labels"] == {names.QUEUE: None}
    assert marked["metadata"]["annotations"][names.CANCELLED_QUEUE] == "team-a"
    said = " ".join(cluster.warnings)
    assert ("Kueue goes on counting it" in said) == (lacking == "right to change")
    assert ("kubectl patch workloads.kueue.x-k8s.io job-job-1" in said) == (
        lacking == "right to change"
    )
    assert ("cannot be read" in said) == (lacking == "right to read")


@pytest.mark.parametrize(
    ("there", "said", "hints"),
    [
        (
            ["team-b", "other"],
            "has no LocalQueue team-a, so the job waits: it has other, team-b",
            ("--queue team-b",),
        ),
        ([], "has no LocalQueue team-a, so the job waits: it has none", ()),
        (["team-a"], None, ()),
        (
            None,
            "the cluster has no Kueue: the job waits in queue team-a for ever",
            ("leave --queue out",),
        ),
    ],
)
def test_a_queue_that_is_not_there_is_told_at_the_launch(
    kueue: Kueue, cluster: Cluster, there: list[str] | None, said: str | None, hints: tuple[str]
) -> None:
    kueue.installed = there is not None
    kueue.local_queues = [{"metadata": {"name": name}} for name in there or ()]
    notes = list(queues.doubts("team-a", cluster))
    assert [note.hints for note in notes] == ([hints] if said else [])
    assert all(str(said) in note.text for note in notes)


def test_nothing_is_said_of_queues_that_may_not_be_read(kueue: Kueue, cluster: Cluster) -> None:
    kueue.may_list = False
    assert list(queues.doubts("team-a", cluster)) == []
    with pytest.raises(RefusedError):
        cluster.custom(names.KUEUE_GROUP, "localqueues")


def test_a_namespace_with_a_queue_for_all_its_jobs_starts_them_itself(server: ApiServer) -> None:
    """Kueue's webhook labels and suspends what names no queue, where one is called default."""
    from kij_train.cluster.submit import submit
    from kij_train.spec import JobSpec
    from kij_train.specfile import Resolved

    spec = JobSpec(module="train", code=False, name="job", network_policy=False)
    plan = runs.plan(Resolved(spec, {}), cwd=Path(), place=runs.OnCluster())
    started: list[dict[str, Any]] = []

    def answer(method: str, path: str, body: dict[str, Any]) -> Answer:
        if method == "PATCH":
            started.append(body)
        elif body.get("kind") == "Job":
            body["metadata"]["labels"][names.QUEUE] = "default"
            body["metadata"]["uid"] = "1"
        return 200, json.dumps(body).encode()

    server.answer = answer
    submit(server.cluster(), plan.objects())
    assert started == [{"metadata": {"uid": "1"}, "spec": {}}]
