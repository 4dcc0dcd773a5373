"""Which pods an attached launch deletes, by what the logs of the others say."""

from __future__ import annotations

import datetime
from typing import Any, cast

import pytest
from kij_train.cluster import Cluster
from kij_train.cluster.apierrors import GoneError
from kij_train.cluster.follow import FRESH_S, _Unheard
from kij_train.cluster.logs import LogLine
from kij_train.cluster.observe import Observation
from kij_train.errors import RefusedError
from kij_train.pod import status

from tests.unit.test_jobview import rendered

GANG = {"nodes": 2, "restart": "gang", "image": "i", "script": "train.py"}


class Deleting:
    """Takes deletions of pods, or refuses them."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.deleted: list[tuple[str, str, int]] = []
        self._refusal = refusal

    def delete(self, kind: str, name: str, *, uid: str, grace_s: int) -> None:
        assert kind == "Pod"
        if self._refusal is not None:
            raise self._refusal
        self.deleted.append((name, uid, grace_s))


def seen(*pods: dict[str, Any], **fields: Any) -> Observation:
    """A job with pods 0-a, 1-b."""
    observed = Observation(cast(Cluster, None), "job")
    observed.job = rendered(**{**GANG, **fields})
    for name in ("job-0-a", "job-1-b"):
        observed.pods[f"uid of {name}"] = {"metadata": {"name": name, "uid": f"uid of {name}"}}
    for pod in pods:
        observed.pods[pod["metadata"]["uid"]] = pod
    return observed


def says(pod: str, of: str, *, ago_s: float = 0.0) -> LogLine:
    """A line of a pod's log, on another one."""
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago_s)
    text = status.PREFIX + status.Unheard(1, of, "node-2").text()
    return LogLine(0, pod, f"{when:%Y-%m-%dT%H:%M:%S.%f}000Z", text)


def act(cluster: Deleting, line: LogLine, observed: Observation) -> list[str]:
    return list(_Unheard(cast(Cluster, cluster)).take(line, observed))


def test_a_pod_that_is_not_heard_of_is_deleted_once() -> None:
    cluster = Deleting()
    unheard, observed = _Unheard(cast(Cluster, cluster)), seen()
    (note,) = unheard.take(says("job-0-a", "job-1-b"), observed)
    assert note.startswith("deleted index 1 (pod job-1-b on node-2), of which the others hear")
    assert not list(unheard.take(says("job-0-a", "job-1-b"), observed))
    assert cluster.deleted == [("job-1-b", "uid of job-1-b", 0)]


def test_a_pod_that_was_deleted_so_is_not_listened_to() -> None:
    cluster = Deleting()
    unheard, observed = _Unheard(cast(Cluster, cluster)), seen()
    assert list(unheard.take(says("job-0-a", "job-1-b"), observed))
    assert not list(unheard.take(says("job-1-b", "job-0-a"), observed))
    assert len(cluster.deleted) == 1


@pytest.mark.parametrize(
    ("line", "observed"),
    [
        (says("job-0-a", "job-1-b", ago_s=FRESH_S + 1), seen()),
        (says("job-0-a", "job-1-b", ago_s=-2 * FRESH_S), seen()),
        (says("job-0-a", "somebody-elses"), seen()),
        (says("job-1-b", "job-1-b"), seen()),
        (says("job-0-a", "job-1-b"), seen(restart="never")),
        (
            says("job-0-a", "job-1-b"),
            seen(
                {"metadata": {"name": "job-1-b", "uid": "uid of job-1-b", "deletionTimestamp": "t"}}
            ),
        ),
        (LogLine(0, "job-0-a", "", "loss 0.1"), seen()),
    ],
    ids=["long ago", "to come", "not of the job", "itself", "no restarts", "ends", "other words"],
)
def test_nothing_is_deleted(line: LogLine, observed: Observation) -> None:
    cluster = Deleting()
    assert act(cluster, line, observed) == []
    assert cluster.deleted == []


def test_without_the_right_to_delete_pods_that_is_said() -> None:
    (note,) = act(Deleting(RefusedError("no right")), says("job-0-a", "job-1-b"), seen())
    assert note.endswith("and it cannot be deleted: no right")
    assert act(Deleting(GoneError("gone")), says("job-0-a", "job-1-b"), seen()) == []
