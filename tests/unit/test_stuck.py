"""What an attached command says of pods that wait, against a small server with real situations."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from kij_train.arrays.progress import Progress, Rate
from kij_train.cli.array_view import summary
from kij_train.cluster import Observation
from kij_train.diagnosis import JobView, trimmed
from kij_train.diagnosis.kinds import KINDS, STAYING
from kij_train.jobs import stuck
from kij_train.jobs.stuck import Stuck

from tests.unit.test_client import Answer, ApiServer, server
from tests.unit.test_why import situation

__all__ = ["server"]


class Attached:
    """A command that is attached to the job of a situation, and its clock."""

    def __init__(self, server: ApiServer) -> None:
        server.answer = self._answer
        self.now = 1000.0
        self.notes: list[str] = []
        self.asked: list[str] = []
        """Kinds, in the plural."""
        self.may_list_events = True
        self._cluster = server.cluster()
        self._stuck = Stuck(self._cluster, self.notes.append, lambda: self.now)

    def sees(self, name: str, *, after_s: float = 0.0) -> None:
        """The job is as in a situation, some seconds later."""
        self.now += after_s
        self._found: dict[str, Any] = situation(name)
        observed = Observation(self._cluster, self._found["job"]["metadata"]["name"])
        observed.job = JobView(self._found["job"])
        for pod in self._found["pods"]:
            observed._take_pod(trimmed(pod), deleted=False)
        self._stuck.saw(observed)

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        kind = urlsplit(path).path.rpartition("/")[2]
        self.asked.append(kind)
        if kind == "events" and not self.may_list_events:
            status = {"kind": "Status", "reason": "Forbidden", "message": "events is forbidden"}
            return 403, json.dumps({**status, "code": 403}).encode()
        items = {"events": "events", "nodes": "machines"}.get(kind)
        found = [] if items is None else self._found.get(items) or []
        return 200, json.dumps({"kind": "List", "metadata": {}, "items": found}).encode()


@pytest.fixture
def attached(server: ApiServer) -> Attached:
    return Attached(server)


def test_the_cause_is_said_once_with_what_to_try_and_where_there_is_more(
    attached: Attached,
) -> None:
    attached.sees("asks-for-9-gpus")
    attached.sees("asks-for-9-gpus", after_s=stuck.PENDING_S - 1)
    assert attached.asked == attached.notes == []
    attached.sees("asks-for-9-gpus", after_s=stuck.LOOK_S)
    (note,) = attached.notes
    said, hint, more = note.splitlines()
    assert "2 machines fit: 2 have too little nvidia.com/gpu free (asked 9" in said
    assert hint.startswith("  try: ask for less a node: --gpus")
    assert more.startswith("  more: kij-train why ") and more.endswith(" -n ns")
    asked = len(attached.asked)
    for _ in range(20):
        attached.sees("asks-for-9-gpus", after_s=stuck.LOOK_S)
    assert len(attached.asked) == asked
    attached.sees("asks-for-9-gpus", after_s=stuck.AGAIN_S)
    assert len(attached.asked) == 2 * asked, "it may wait for something else meanwhile"
    assert attached.notes == [note]


def test_another_kind_of_cause_is_said_too(attached: Attached) -> None:
    attached.sees("asks-for-9-gpus")
    attached.sees("asks-for-9-gpus", after_s=stuck.PENDING_S)
    attached.sees("image-does-not-exist", after_s=stuck.LOOK_S)
    attached.sees("image-does-not-exist", after_s=stuck.PENDING_S)
    assert len(attached.notes) == 2
    assert "image" in attached.notes[1] and "--image" in attached.notes[1]


@pytest.mark.parametrize(
    "name", ["missing-configmap-mount", "missing-secret", "unbound-claim", "quota-used-up"]
)
def test_what_does_not_go_by_itself_is_said(attached: Attached, name: str) -> None:
    attached.sees(name)
    attached.sees(name, after_s=stuck.PENDING_S)
    (note,) = attached.notes
    assert "\n  more: kij-train why " in note


@pytest.mark.parametrize("name", ["running", "succeeded", "suspended", "exception-on-one-rank"])
def test_a_job_without_pods_that_wait_costs_nothing(attached: Attached, name: str) -> None:
    for _ in range(3):
        attached.sees(name, after_s=stuck.PENDING_S)
    assert attached.asked == attached.notes == []


def test_without_the_right_to_list_events_nothing_is_said_or_asked_again(
    attached: Attached,
) -> None:
    attached.may_list_events = False
    for _ in range(5):
        attached.sees("image-does-not-exist", after_s=10 * stuck.AGAIN_S)
    assert attached.asked == ["events"]
    assert attached.notes == []


def test_the_kinds_that_stay_are_kinds() -> None:
    assert KINDS.keys() >= STAYING


@pytest.mark.parametrize(("running", "told"), [(0, False), (2, True)])
def test_an_array_tells_the_time_that_is_left_while_something_runs(
    running: int, told: bool
) -> None:
    rate = Rate()
    rate.saw(0, 0.0)
    rate.saw(5, 10.0)
    progress = Progress(items=10, done=5, failed=0, missing=0, indexes=4, ended=2, running=running)
    assert ("left" in summary(progress, rate, 20.0)) is told
