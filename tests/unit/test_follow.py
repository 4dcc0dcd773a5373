"""Which pods an attached launch deletes, by what the logs of the others say."""

from __future__ import annotations

import datetime
import io
from typing import Any, cast

import pytest
from kij_train import names
from kij_train.cluster import Cluster
from kij_train.cluster.apierrors import GoneError
from kij_train.cluster.follow import FRESH_S, _Unheard
from kij_train.cluster.logs import LogLine
from kij_train.cluster.observe import Observation
from kij_train.diagnosis import trimmed
from kij_train.errors import RefusedError
from kij_train.pod import status

from tests.unit.test_jobview import rendered

GANG = {"nodes": 2, "restart": "gang", "image": "i", "script": "train.py"}


class Deleting:
    """Takes deletions of pods, or refuses them."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.deleted: list[tuple[str, str, int]] = []
        self.machine_answers = True
        self._refusal = refusal

    def delete(self, kind: str, name: str, *, uid: str, grace_s: int) -> None:
        assert kind == "Pod"
        if self._refusal is not None:
            raise self._refusal
        self.deleted.append((name, uid, grace_s))

    def stream_log(self, pod: str, **query: str) -> io.BytesIO:
        if not self.machine_answers:
            raise RefusedError("dial tcp 10.0.0.1:10250: no route to host")
        return io.BytesIO()


def pod(index: int, *, deleted: bool = False) -> dict[str, Any]:
    """Pod job-0-x, job-1-x, … of the job, with address 10.0.0.0, 10.0.0.1, …"""
    name = f"job-{index}-x"
    labels = {names.COMPLETION_INDEX: str(index)}
    metadata = {"name": name, "uid": f"uid of {name}", "labels": labels}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return trimmed({"metadata": metadata, "status": {"podIP": f"10.0.0.{index}"}})


def seen(*pods: dict[str, Any], **fields: Any) -> Observation:
    """A job with these pods; else with those of indexes 0 and 1."""
    observed = Observation(cast(Cluster, None), "job")
    observed.job = rendered(**{**GANG, **fields})
    for each in pods or (pod(0), pod(1)):
        observed.pods[each["metadata"]["uid"]] = each
    return observed


def says(
    index: int, of: int, *, ip: str = "", ago_s: float = 0.0, may_train: bool = False
) -> LogLine:
    """A line in the log of an index, on another one."""
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago_s)
    text = status.PREFIX + status.Unheard(of, ip or f"10.0.0.{of}", "node-2", may_train).text()
    return LogLine(index, f"job-{index}-x", f"{when:%Y-%m-%dT%H:%M:%S.%f}000Z", text)


def act(cluster: Deleting, line: LogLine, observed: Observation) -> list[str]:
    return list(_Unheard(cast(Cluster, cluster)).take(line, observed))


def test_a_pod_that_is_not_heard_of_is_deleted_once() -> None:
    cluster = Deleting()
    unheard, observed = _Unheard(cast(Cluster, cluster)), seen()
    (note,) = unheard.take(says(0, 1), observed)
    assert note.startswith("deleted index 1 (pod job-1-x on node-2), of which the others hear")
    assert not list(unheard.take(says(0, 1), observed))
    assert cluster.deleted == [("job-1-x", "uid of job-1-x", 0)]


def test_a_pod_that_was_deleted_so_is_not_listened_to() -> None:
    cluster = Deleting()
    unheard, observed = _Unheard(cast(Cluster, cluster)), seen()
    assert list(unheard.take(says(0, 1), observed))
    assert not list(unheard.take(says(1, 0), observed))
    assert len(cluster.deleted) == 1


NOTHING = {
    # Made when they are needed: what lies two minutes ahead is of now two minutes later.
    "long ago": lambda: (says(0, 1, ago_s=FRESH_S + 1), seen()),
    "to come": lambda: (says(0, 1, ago_s=-2 * FRESH_S), seen()),
    "an earlier pod": lambda: (says(0, 1, ip="10.0.0.9"), seen()),
    "itself": lambda: (says(1, 1), seen()),
    "no restarts": lambda: (says(0, 1), seen(restart="never")),
    "ends": lambda: (says(0, 1), seen(pod(0), pod(1, deleted=True))),
    "other words": lambda: (LogLine(0, "job-0-x", "", "loss 0.1"), seen()),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_is_deleted(case: str) -> None:
    line, observed = NOTHING[case]()
    cluster = Deleting()
    assert act(cluster, line, observed) == []
    assert cluster.deleted == []


def test_without_the_right_to_delete_pods_that_is_said() -> None:
    (note,) = act(Deleting(RefusedError("no right")), says(0, 1), seen())
    assert note.endswith("and it cannot be deleted: no right")
    assert act(Deleting(GoneError("gone")), says(0, 1), seen()) == []


@pytest.mark.parametrize("machine_answers", [True, False])
def test_of_the_larger_side_of_a_cut_network_only_pods_of_dead_machines_are_deleted(
    machine_answers: bool,
) -> None:
    cluster = Deleting()
    cluster.machine_answers = machine_answers
    assert bool(act(cluster, says(0, 1, may_train=True), seen())) is not machine_answers
    assert bool(cluster.deleted) is not machine_answers
