"""The two backends, and the runs that they give, without a cluster and without torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kij_train import local, names, runs
from kij_train.cluster import Submission
from kij_train.cluster.apierrors import GoneError
from kij_train.diagnosis import JobState
from kij_train.errors import JobFailedError, KijError
from kij_train.spec import JobSpec

from tests.unit.test_client import Answer, ApiServer, Handler

META: dict[str, Any] = {
    "name": "a",
    "namespace": "ns",
    "uid": "1",
    "creationTimestamp": "2026-11-28T00:00:00Z",
    "labels": {names.LABEL_MANAGED_BY: names.MANAGER},
    "annotations": {names.SUBMISSION: "token"},
}
TEMPLATE: dict[str, Any] = {"metadata": {}, "spec": {"containers": [{"name": names.CONTAINER}]}}
JOB: dict[str, Any] = {"metadata": META, "spec": {"template": TEMPLATE}, "status": {}}


class Jobs(ApiServer):
    """Has the job a, takes what is created, and refuses to delete where it `refuses`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if "watch=true" in path:
            return 200, b""
        if method == "GET" and not path.partition("?")[0].endswith("/a"):
            return 200, b'{"metadata": {}, "items": []}'
        if method != "GET":
            self.changes.append((method, body))
        if method == "DELETE" and self.refuses:
            return 500, b'{"kind": "Status", "message": "etcd is away"}'
        answer = body if method == "POST" else JOB
        if method == "POST":
            answer = {**body, "metadata": {**body["metadata"], "uid": "1", "namespace": "ns"}}
        return 200, json.dumps(answer).encode()


@pytest.fixture
def server() -> Iterator[Jobs]:
    with Jobs() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


def run_of(server: Jobs, uid: str) -> runs.ClusterRun:
    return runs.ClusterRun(Submission(server.cluster(), {"metadata": {**META, "uid": uid}}))


def test_a_job_that_took_the_name_of_another_is_left_alone(server: Jobs) -> None:
    run = run_of(server, uid="0")
    for change in (run.cancel, run.delete):
        with pytest.raises(GoneError, match="another one of that name"):
            change()
    assert server.changes == []
    run_of(server, uid="1").cancel()
    assert [method for method, _ in server.changes] == ["PATCH"]


def test_a_job_that_cannot_be_removed_is_told_with_the_command_that_does_it(server: Jobs) -> None:
    server.refuses = True
    with pytest.raises(KijError, match="etcd is away") as caught:
        run_of(server, uid="1").delete()
    assert "it may be left: kij-train delete a -n ns" in caught.value.hints


class OtherPlan:
    """What a cluster must know of a job that is of another kind than training."""

    spec = JobSpec(module="m", labels={names.USER: "ada"})
    facts = {"kij-train/note": "of this machine"}  # noqa: RUF012

    def objects(self) -> list[dict[str, Any]]:
        about = {"name": "a", "namespace": "ns"}
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": about}
        return [config_map, {**job, "spec": {"template": TEMPLATE}}]


def test_a_cluster_starts_whatever_has_objects_and_notes_what_is_of_this_machine(
    server: Jobs,
) -> None:
    run = runs.OnCluster(server.cluster()).start(OtherPlan())
    assert (run.name, run.uid) == ("a", "1")
    assert run.created == {"Job": 1, "ConfigMap": 1}
    (made,) = (body for _, body in server.changes if body.get("kind") == "Job")
    assert made["metadata"]["annotations"]["kij-train/note"] == "of this machine"
    assert made["metadata"]["labels"][names.USER] == "ada"


def test_a_local_run_keeps_lines_by_node_and_stream() -> None:
    def work(streams: local.Streams) -> float:
        assert streams.emit is not None
        streams.emit(1, "stdout", "loss 0.1")
        streams.emit(0, "stderr", "careful")
        return 2.5

    run = runs.LocalRun("a", 2, work, stop=local.Stop(), merged=False)
    followed: list[runs.Line] = []
    assert run.follow(followed.append) == 2.5
    assert followed == [runs.Line(1, "loss 0.1"), runs.Line(0, "careful", is_error=True)]
    assert list(run.logs(index=0)) == followed[1:]
    assert run.status() is JobState.SUCCEEDED


def test_a_local_run_that_is_over_stops_no_other_one_of_the_same_stop() -> None:
    stop = local.Stop()
    run = runs.LocalRun("a", 1, lambda streams: 1.0, stop=stop)
    run.wait()
    run.delete()
    assert stop.calls == 0


def test_whoever_waits_for_a_local_run_gets_its_error() -> None:
    def work(streams: local.Streams) -> float:
        del streams
        raise JobFailedError("rank 3 failed")

    run = runs.LocalRun("a", 1, work, stop=local.Stop())
    for wait in (run.wait, run.follow):
        with pytest.raises(JobFailedError, match="rank 3 failed"):
            wait()
    assert run.status() is JobState.FAILED
    assert run.why() == "rank 3 failed"
