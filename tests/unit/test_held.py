"""Pods with containers of somebody else's, before or behind ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kij_train import diagnosis, jobs
from kij_train.diagnosis import JobState, JobView, Phase
from kij_train.pod import gang

from tests.unit.test_why import situation

RUNS: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
PROXY = {"name": "proxy", "ready": True, "state": RUNS}
ENDED = {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:01:00Z"}
WORSE = {**ENDED, "exitCode": 7, "reason": "Error", "message": "no route"}


def with_proxy(name: str, place: int, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """A situation whose pods have a container more; it never ends, unless `state` says so."""
    found = copy.deepcopy(situation(name))
    proxy = {**PROXY, "state": state} if state else PROXY
    containers = found["job"]["spec"]["template"]["spec"]["containers"]
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}, "args": ["--no-python"]}
    containers.insert(place, {"name": "proxy", **limits})
    for pod in found["pods"]:
        pod["status"].setdefault("containerStatuses", []).insert(place, proxy)
        if state is None:
            pod["status"]["phase"] = "Running"
    if state is None:
        found["job"]["status"] = {"active": 2, "ready": 0, "startTime": "2026-01-01T00:00:00Z"}
    return found


def end_of(found: dict[str, Any]) -> JobState | None:
    pods = list(map(diagnosis.trimmed, found["pods"]))
    job = JobView(found["job"])
    return diagnosis.own_end(job, diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods)), pods)


def why(found: dict[str, Any], end: JobState | None = None) -> diagnosis.Verdict:
    pods = list(map(diagnosis.trimmed, found["pods"]))
    return diagnosis.why(JobView(found["job"]), pods, found["events"], now=found["now"], end=end)


@pytest.mark.parametrize("place", [0, 1])
def test_a_container_that_never_ends_is_named_and_the_verdict_is_ours(place: int) -> None:
    found = with_proxy("succeeded", place)
    nodes = [diagnosis.node_of(diagnosis.trimmed(pod)) for pod in found["pods"]]
    assert {(node.phase, node.reason) for node in nodes} == {
        (Phase.DONE, "held up by container proxy")
    }
    going = why(found)
    assert (going.state, going.findings[0].kind) == (JobState.RUNNING, "held-up")
    assert "2 of 2 nodes" in going.text()
    assert "proxy in them is not kij-train's" in going.text()
    assert f"kij-train delete job -n {found['job']['metadata']['namespace']}" in going.text()
    assert end_of(found) is JobState.SUCCEEDED
    ended = why(found, JobState.SUCCEEDED)
    assert ended.state is JobState.SUCCEEDED
    assert ended.headline.startswith("job succeeded")
    assert ended.findings[0].kind == "held-up"


@pytest.mark.parametrize("place", [0, 1])
def test_a_failure_that_a_container_holds_up_is_told_with_its_cause(place: int) -> None:
    found = with_proxy("exception-on-one-rank", place)
    assert end_of(found) is JobState.FAILED
    for verdict in (why(found), why(found, JobState.FAILED)):
        assert "ValueError: bad batch" in verdict.text()
        assert [each.kind for each in verdict.findings] == ["exception", "held-up"]


def test_one_node_that_still_trains_is_waited_for() -> None:
    found = with_proxy("succeeded", 0)
    found["pods"][1]["status"]["containerStatuses"][1]["state"] = RUNS
    assert end_of(found) is None
    assert "1 of 2 nodes" in why(found).text()


def test_a_container_that_ends_with_ours_is_no_word_worth() -> None:
    found = with_proxy("succeeded", 0, {"terminated": ENDED})
    assert end_of(found) is None
    assert why(found).findings == ()


@pytest.mark.parametrize("place", [0, 1])
def test_a_container_that_fails_after_the_training_is_blamed(place: int) -> None:
    found = with_proxy("succeeded", place, {"terminated": WORSE})
    for pod in found["pods"]:
        pod["status"]["phase"] = "Failed"
    found["job"]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    verdict = why(found)
    assert verdict.state is JobState.FAILED
    assert "the training ended well; container proxy" in verdict.text()
    assert "no route" in verdict.text()


def test_a_job_whose_pods_are_held_up_is_running_and_ends_when_the_others_had_their_time() -> None:
    found = with_proxy("succeeded", 0)
    pods = list(map(diagnosis.trimmed, found["pods"]))
    job = JobView(found["job"])
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    assert job.state is JobState.PENDING
    assert diagnosis.state_with(job, nodes) is JobState.RUNNING
    ended = max(node.since or 0.0 for node in nodes)
    assert diagnosis.end_while_held(job, nodes, pods, now=ended + 10) is None
    late = ended + diagnosis.HELD_S
    assert diagnosis.end_while_held(job, nodes, pods, now=late) is JobState.SUCCEEDED


def test_a_job_that_waits_for_a_place_stays_pending() -> None:
    job = JobView(situation("asks-for-9-gpus")["job"])
    assert diagnosis.state_with(job, [diagnosis.Node(0, Phase.PENDING)]) is JobState.PENDING


def test_gpus_and_arguments_are_those_of_our_container() -> None:
    found = with_proxy("asks-for-9-gpus", 0, {"terminated": ENDED})
    job = JobView(found["job"])
    assert jobs.summary_of(job).gpus == 9 * job.completions
    assert job.arguments[0] != "--no-python"


def test_another_container_that_is_not_ready_makes_no_node_a_spare() -> None:
    found = with_proxy("running", 0, RUNS)
    settings = {"name": gang.ENV_GANG, "value": "{}"}
    JobView(found["job"]).container["env"].append(settings)
    for pod in found["pods"]:
        pod["status"]["containerStatuses"][0]["ready"] = False
        for condition in pod["status"]["conditions"]:
            if condition["type"] in ("Ready", "ContainersReady"):
                condition["status"] = "False"
    nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, found["pods"]))
    assert {node.phase for node in nodes} == {Phase.RUNNING}


def test_a_container_before_ours_that_does_not_end_is_named() -> None:
    found = copy.deepcopy(situation("running"))
    found["job"]["status"] = {"active": 1, "startTime": "2026-01-01T00:00:00Z"}
    for pod in found["pods"]:
        status = pod["status"]
        status["phase"] = "Pending"
        status["containerStatuses"][0]["state"] = {"waiting": {"reason": "PodInitializing"}}
        status["initContainerStatuses"] = [
            {**PROXY, "name": "mesh", "started": True},
            {**PROXY, "name": "slow", "started": False},
            {"name": "later", "state": {"waiting": {"reason": "PodInitializing"}}},
        ]
        for condition in status["conditions"]:
            if condition["type"] == "Initialized":
                condition["status"] = "False"
    (node,) = [diagnosis.node_of(diagnosis.trimmed(pod)) for pod in found["pods"]]
    assert (node.phase, node.reason) == (Phase.STARTING, "container slow runs first")
    found["now"] += 120
    assert "container slow, which is not kij-train's" in why(found).text()
