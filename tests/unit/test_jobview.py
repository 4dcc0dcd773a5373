"""A Job, read by one module: what it says, and what one of somebody else's does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import names, render
from kij_train.diagnosis import JobState, JobView
from kij_train.spec import JobSpec

CODE = render.Code("print('bootstrap')\n", b"archive", "0" * 64)


def rendered(**fields: Any) -> JobView:
    spec = JobSpec.model_validate({"script": "a.py", "namespace": "ml", **fields})
    return JobView(render.render(spec, name="job", code=CODE)[-1])


def test_what_was_asked_for_is_read_back() -> None:
    job = rendered(
        nodes=3,
        gpus=2,
        memory="4Gi",
        queue="team",
        grace="2m",
        timeout="1h",
        args=["--lr", "3e-4"],
        env={"COLOUR": "red"},
    )
    assert (job.name, job.namespace, job.is_ours, job.queue) == ("job", "ml", True, "team")
    assert (job.completions, job.needed, job.ranks_per_node) == (3, 3, 2)
    assert (job.grace_s, job.deadline_s, job.suspended) == (120, 3600, True)
    assert job.arguments == ["a.py", "--lr", "3e-4"]
    assert job.environment["COLOUR"] == "red"
    assert "NODE_RANK" not in job.environment  # its value is the pod's
    assert job.limits == job.requests == {"nvidia.com/gpu": "2", "memory": "4Gi"}
    assert (job.restarts_by_itself, job.awaits_rank0, job.gang_settings) == (False, True, None)


def test_a_job_that_restarts_needs_the_fewest_nodes_that_train() -> None:
    job = rendered(nodes=5, min_nodes=3, restart="elastic", max_restarts=7)
    settings = job.gang_settings
    assert settings is not None
    assert (settings.low, settings.high, settings.max_restarts) == (3, 5, 7)
    assert (job.size, job.needed, job.awaits_rank0) == (5, 3, False)


@pytest.mark.parametrize(
    ("said", "lost", "left"),
    [(None, set(), 7), ("0,3-5", {0, 3, 4, 5}, 3), ("0-7", set(range(8)), 0)],
)
def test_a_job_that_restarts_has_a_reserve_that_lost_indexes_use_up(
    said: str | None, lost: set[int], left: int
) -> None:
    job = rendered(nodes=2, spares=1, restart="gang", max_restarts=7)
    assert (job.completions, job.size, job.reserve) == (10, 3, 7)
    job = JobView({**job.raw, "status": {"failedIndexes": said}})
    assert (job.lost, job.reserve_left) == (lost, left)


def test_other_jobs_have_no_reserve() -> None:
    job = rendered(nodes=4)
    assert (job.completions, job.size, job.reserve, job.lost) == (4, 4, 0, set())


def test_claims_are_read_where_gpus_are_no_resource() -> None:
    assert rendered(gpus=1, gpu_kind="dra").claims == ["gpus"]


def test_the_job_of_somebody_else_has_the_values_of_kubernetes() -> None:
    template = {"spec": {"containers": [{"name": "main"}]}}
    metadata = {"name": "theirs", "namespace": "ml", "uid": "1"}
    job = JobView({"metadata": metadata, "spec": {"template": template}})
    assert (job.is_ours, job.queue, dict(job.labels), dict(job.annotations)) == (
        False,
        None,
        {},
        {},
    )
    assert (job.completions, job.needed, job.ranks_per_node, job.grace_s) == (1, 1, 1, 30)
    assert (job.arguments, job.environment, job.claims) == ([], {}, [])
    assert (dict(job.limits), dict(job.requests), job.deadline_s) == ({}, {}, 0)
    assert (job.started, job.ended, job.lasted_s, job.completed) == (None, None, None, set())
    assert job.state is JobState.PENDING
    assert job.count("failed") == 0


START, END = "2026-01-01T00:00:00Z", "2026-01-01T00:01:30.5Z"


@pytest.mark.parametrize(
    ("status", "suspend", "cancelled", "state"),
    [
        ({"active": 2}, False, False, JobState.PENDING),
        ({"active": 2, "ready": 1}, False, False, JobState.RUNNING),
        ({"active": 1, "succeeded": 1}, False, False, JobState.RUNNING),
        ({}, True, False, JobState.SUSPENDED),
        ({}, True, True, JobState.CANCELLED),
        ({"conditions": "SuccessCriteriaMet"}, False, False, JobState.SUCCEEDED),
        ({"conditions": "FailureTarget"}, True, True, JobState.FAILED),
    ],
)
def test_the_state_is_told_before_the_last_pod_has_ended(
    status: dict[str, Any], suspend: bool, cancelled: bool, state: JobState
) -> None:
    if kind := status.pop("conditions", None):
        ended = {"type": kind, "status": "True", "lastTransitionTime": END}
        status = {"startTime": START, "conditions": [{"type": "Failed", "status": "False"}, ended]}
    metadata = {"name": "job", "annotations": {names.CANCELLED: "true"} if cancelled else {}}
    job = JobView({"metadata": metadata, "spec": {"suspend": suspend}, "status": status})
    assert job.state is state
    assert job.lasted_s == (90.5 if kind else None)


@given(st.sets(st.integers(0, 40)))
def test_completed_indexes_are_read_as_the_job_controller_writes_them(indexes: set[int]) -> None:
    ranges: list[list[int]] = []
    for index in sorted(indexes):
        if ranges and ranges[-1][-1] == index - 1:
            ranges[-1].append(index)
        else:
            ranges.append([index])
    parts = (f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in ranges)
    job = JobView({"metadata": {}, "spec": {}, "status": {"completedIndexes": ",".join(parts)}})
    assert job.completed == indexes
