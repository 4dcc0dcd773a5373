"""`why` on real situations: each was made on the test cluster, by tests/situations.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kij_train import diagnosis, jobs, names, render
from kij_train.diagnosis import Finding, JobView, Phase, Queue, Verdict, causes
from kij_train.pod import gang
from kij_train.pod.status import (
    PREFIX,
    Attempt,
    FetchFault,
    Installing,
    PackagesFault,
    WaitingForRank0,
    no_torch,
)
from kij_train.spec import JobSpec

FOLDER = Path(__file__).parent / "situations"

# Situation → kind of the first finding, and words that the text must have.
EXPECTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "exception-on-one-rank": ("exception", ("rank 1 (index 1", "ValueError: bad batch", "line 5")),
    "exception-on-all-ranks": ("exception", ("ValueError: wrong learning rate", "line 1")),
    "exception-in-one-of-four": ("exception", ("rank 2 (index 1", "KeyError: 'loss'")),
    "exit-code-3": ("exit-code", ("rank 0 exited with code 3",)),
    "out-of-memory": ("oom-killed", ("limit of 400Mi", "--memory")),
    "killed-by-itself": ("killed", ("SIGKILL", "--memory")),
    "segmentation-fault": ("signal", ("SIGSEGV",)),
    "bus-error": ("shared-memory", ("SIGBUS", "--shm")),
    "shm-full": ("disk-full", ("No space left on device", "line 1")),
    "missing-module": ("missing-module", ("no_such_module", "image")),
    "no-gpu-driver": ("cuda", ("Found no NVIDIA driver", "--gpus")),
    "cuda-out-of-memory": ("cuda-out-of-memory", ("Tried to allocate 2.00 GiB", "smaller batch")),
    "nccl-error": ("nccl", ("ncclSystemError", "NCCL_DEBUG=INFO")),
    "nccl-timeout": ("nccl-timeout", ("Watchdog caught", " --all --tail 20")),
    "missing-program": ("code", ("no-such-program: no such program",)),
    "image-without-python": ("no-python", ("ENTRYPOINT", "--env PATH=/opt/venv/bin:")),
    "image-without-torch": ("missing-module", ("torch cannot be imported", "ENTRYPOINT")),
    "rank-0-never-came": ("rendezvous", ("index 1", "rank 0 never came", "port 29500")),
    "contract-broken": ("contract", ("not set or empty: NNODES",)),
    "code-changed": ("code", ("is not what was launched",)),
    "deadline-while-running": ("deadline", ("--timeout of 15 s",)),
    "deadline-while-pending": ("deadline", ("--timeout of 8.0 s", "node selector disk=ssd")),
    "evicted-for-its-disk": ("evicted", ("ephemeral", "--mount pvc")),
    "evicted-by-a-drain": ("pods-gone", ("it is gone",)),
    "pod-deleted": ("pods-gone", ("it is gone",)),
    "preempted": ("preempted", ("a pod of higher priority",)),
    "asks-for-9-gpus": (
        "unschedulable",
        ("2 have too little nvidia.com/gpu", "asked 9, the largest machine has 8", "--gpus"),
    ),
    "asks-for-too-much-memory": ("unschedulable", ("too little memory", "asked 4Ti", "--memory")),
    "asks-for-too-many-cores": ("unschedulable", ("too little cpu", "asked 500", "--cpu")),
    "no-such-node": ("unschedulable", ("do not match the node selector disk=ssd",)),
    "half-a-gang": ("unschedulable", ("1 of 3 nodes", "too little nvidia.com/gpu free")),
    "missing-claim": ("missing-object", ("PersistentVolumeClaim data does not exist",)),
    "unbound-claim": ("volume-unbound", ("has no volume yet",)),
    "image-does-not-exist": ("image-pull", ("image example.test/no/image:1 cannot be pulled",)),
    "image-never-pulled": ("image-pull", ("--image-pull-policy is Never",)),
    "image-name-wrong": ("image-name", ("InvalidImageName", "--image")),
    "missing-secret": ("missing-object", ("Secret wandb does not exist", "kubectl create secret")),
    "missing-secret-mount": ("missing-object", ("Secret keys, which it mounts",)),
    "missing-configmap-mount": ("missing-object", ("ConfigMap settings, which it mounts",)),
    "root-image-as-non-root": ("run-as-root", ("--run-as-user 1000",)),
    "quota-used-up": ("quota", ("exceeded quota: team",)),
    "quota-wants-numbers": ("quota", ("must specify requests.cpu", "--cpu 4")),
    "pod-security": ("pod-security", ('violates PodSecurity "restricted', "--run-as-user 1000")),
    "missing-service-account": ("refused", ('serviceaccount "robot" not found',)),
    "missing-priority-class": ("refused", ("no PriorityClass with name none-such",)),
    "queued": ("queued", ("queue team-a has not admitted it yet",)),
    "kueue-short-of-quota": (
        "queued",
        ("it waits in a queue", "it lacks 300m of cpu in flavor", "holder (1 pod of cpu 500m)"),
    ),
    "kueue-more-than-all": ("queue-quota", ("can never admit it", "2 cpu, and flavor", "1 in all")),
    "kueue-other-resource": ("queue-resource", ("has no quota of memory",)),
    "kueue-no-such-queue": ("queue-missing", ("has no LocalQueue team-b: it has team-a",)),
    "kueue-stopped": ("queue-stopped", ("admits nothing",)),
    "kueue-taint": (
        "queue-flavor",
        ("does not tolerate: spot=yes:NoSchedule", "--toleration spot=yes:NoSchedule"),
    ),
    "kueue-affinity": ("queue-flavor", ("no machines that its --node-selector",)),
    "kueue-no-place": ("queue-topology", ("no one place for all 2 pods", "has room for 1 of them")),
    "kueue-no-level": ("queue-topology", ("does not know the level",)),
    "kueue-preempted": (
        "preempted",
        ("it gave way to another one", "to make room for job holder", "from its checkpoint"),
    ),
    "suspended": ("suspended", ("is suspended", "kij-train resume job -n ")),
    "cancelled": ("cancelled", ("was cancelled", "kij-train resume job -n ")),
    "running": ("", ("job is running, ", "running 1")),
    "succeeded": ("", ("job succeeded in",)),
}


def situation(name: str) -> dict[str, Any]:
    found = json.loads((FOLDER / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


def verdict_of(found: dict[str, Any], **changes: Any) -> Verdict:
    pods = [diagnosis.trimmed(pod) for pod in found["pods"]]
    how = {"now": found["now"], "machines": found["machines"], **changes}
    if "queue" in found:
        how.setdefault("queue", Queue(**found["queue"]))
    return diagnosis.why(JobView(found["job"]), pods, found["events"], **how)


def test_every_recorded_situation_is_expected() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(EXPECTED)
    assert len(EXPECTED) >= 30


@pytest.mark.parametrize("name", EXPECTED)
def test_the_verdict_names_the_cause(name: str) -> None:
    kind, words = EXPECTED[name]
    verdict = verdict_of(situation(name))
    assert (verdict.findings[0].kind if verdict.findings else "") == kind, verdict.text()
    for word in words:
        assert word in verdict.text()
    assert verdict.headline.startswith("job ")
    assert "\n" not in verdict.headline


@pytest.mark.parametrize("name", EXPECTED)
def test_it_says_what_was_seen_when_nothing_else_is_known(name: str) -> None:
    """Without events and machines a verdict is poorer, never an exception or a guess."""
    found = situation(name)
    assert verdict_of({**found, "events": [], "machines": []}).headline
    assert verdict_of({**found, "pods": [], "events": [], "machines": []}).headline


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("train.py ended with exit code 137", "exit-code", "as a shell does after SIGKILL"),
        ("train.py was killed by SIGKILL", "killed", "killed by SIGKILL; the kernel"),
    ],
)
def test_an_exit_code_that_a_command_has_chosen_is_no_signal(
    said: str, kind: str, words: str
) -> None:
    found = situation("exit-code-3")
    for pod in found["pods"]:
        pod["status"]["containerStatuses"][0]["state"] = {
            "terminated": {"exitCode": 137, "reason": "Error", "message": f"kij-train: {said}\n"}
        }
    (finding,) = verdict_of(found).findings
    assert finding.kind == kind
    assert words in finding.summary


def test_phases_follow_a_pod() -> None:
    def phases(name: str) -> list[Phase]:
        found = situation(name)
        nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, found["pods"]))
        return [node.phase for node in nodes]

    assert phases("no-such-node") == [Phase.PENDING]
    assert phases("missing-secret-mount") == [Phase.STARTING]
    assert phases("image-does-not-exist") == [Phase.PULLING]
    assert phases("running") == [Phase.RUNNING]
    assert phases("succeeded") == [Phase.DONE, Phase.DONE]
    assert phases("exception-on-all-ranks") == [Phase.FAILED, Phase.FAILED]
    assert sorted(phases("half-a-gang")) == [Phase.PENDING, Phase.RUNNING, Phase.RUNNING]


def test_nodes_that_run_while_index_0_does_not_wait_for_it() -> None:
    found = situation("succeeded")
    found["job"]["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    first, second = sorted(found["pods"], key=diagnosis.index_of)
    first["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
    }
    started = {"startedAt": "2026-01-01T00:00:00Z"}
    second["status"] = {"phase": "Running", "containerStatuses": [{"state": {"running": started}}]}
    nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, [first, second]))
    assert [node.phase for node in nodes] == [Phase.STARTING, Phase.WAITING]


def test_nodes_of_a_job_that_restarts_stand_by_until_they_are_ready() -> None:
    """And none waits for index 0, which is worth what the others are."""
    found = situation("succeeded")
    found["job"]["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    container = found["job"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "KIJ_GANG", "value": "{}"})
    started = {"startedAt": "2026-01-01T00:00:00Z"}
    ready = ("False", "True")
    for pod, word in zip(found["pods"], ready, strict=True):
        pod["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": word}],
            "containerStatuses": [{"state": {"running": started}}],
        }
    nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, found["pods"]))
    by_word = {node.ready: node.phase for node in nodes}
    assert by_word == {False: Phase.STANDBY, True: Phase.RUNNING}


@pytest.mark.parametrize(
    ("pods", "running"),
    [
        pytest.param([("True", 1, {}), ("True", 1, {}), ("False", 1, {})], [0, 1], id="all well"),
        pytest.param(
            [("True", 5, {}), ("True", 1, {}), ("True", 9, {})], [0, 2], id="a spare has come in"
        ),
        pytest.param(
            [("True", 1, {}), ("True", 1, {}), ("True", 9, {})], [0, 2], id="as old as each other"
        ),
        pytest.param(
            [("True", 1, {"deletionTimestamp": "x"}), ("True", 1, {}), ("True", 9, {})],
            [1, 2],
            id="one is deleted",
        ),
        pytest.param(
            [("False", 9, {}), ("True", 1, {}), ("True", 9, {})], [1, 2], id="one is out of touch"
        ),
    ],
)
def test_no_more_nodes_run_than_the_job_trains(
    pods: list[tuple[str, int, dict[str, str]]], running: list[int]
) -> None:
    """Just after a loss, the pod that is lost and the spare in its place both count as ready."""
    found = situation("succeeded")
    found["job"]["status"] = {"startTime": "2026-01-01T00:00:00Z", "ready": 3}
    found["job"]["spec"] |= {"completions": 3, "parallelism": 3}
    container = found["job"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "KIJ_GANG", "value": '{"high": 2}'})
    started = {"startedAt": "2026-01-01T00:00:00Z"}
    objects = [
        {
            "metadata": {"name": f"a-{index}", "labels": {names.COMPLETION_INDEX: str(index)}}
            | more,
            "status": {
                "phase": "Running",
                "conditions": [
                    {
                        "type": "Ready",
                        "status": ready,
                        "lastTransitionTime": f"2026-01-01T00:00:0{second}Z",
                    },
                    {"type": "ContainersReady", "status": "True"},
                ],
                "containerStatuses": [{"ready": True, "state": {"running": started}}],
            },
        }
        for index, (ready, second, more) in enumerate(pods)
    ]
    job = JobView(found["job"])
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, objects))
    assert [node.index for node in nodes if node.phase is Phase.RUNNING] == running
    assert jobs.summary_of(job).ready == 2


@pytest.mark.parametrize(
    ("exit_code", "phase"), [(143, Phase.CANCELLED), (137, Phase.CANCELLED), (1, Phase.FAILED)]
)
def test_a_pod_that_was_ended_with_its_cancelled_job_has_not_failed(
    exit_code: int, phase: Phase
) -> None:
    """Its pod is there for some moments, until the Job controller lets go of it."""
    found = situation("succeeded")
    found["job"]["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    found["job"]["spec"]["suspend"] = True
    found["job"]["metadata"].setdefault("annotations", {})[names.CANCELLED] = "true"
    ended = {"terminated": {"exitCode": exit_code, "finishedAt": "2026-01-01T00:00:09Z"}}
    for pod in found["pods"]:
        pod["status"] = {"phase": "Failed", "containerStatuses": [{"state": ended}]}
    nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, found["pods"]))
    assert {node.phase for node in nodes} == {phase}


RUNS = [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]


@pytest.mark.parametrize(
    ("condition", "suspended", "cancelled", "phases"),
    [
        (None, False, False, [Phase.ENDING, Phase.PENDING]),
        (None, True, False, [Phase.ENDING, Phase.SUSPENDED]),
        (None, True, True, [Phase.ENDING, Phase.CANCELLED]),
        ("Failed", False, False, [Phase.ENDING, Phase.ENDED]),
        ("Complete", False, False, [Phase.ENDING, Phase.ENDED]),
    ],
)
def test_an_index_that_has_lost_its_pod_is_named_as_its_job_is(
    condition: str | None, suspended: bool, cancelled: bool, phases: list[Phase]
) -> None:
    found = situation("succeeded")
    pod, job = found["pods"][0], found["job"]
    pod["status"] = {"phase": "Running", "containerStatuses": RUNS}
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pod["metadata"]["labels"][names.COMPLETION_INDEX] = "0"
    job["spec"]["suspend"] = suspended
    job["status"] = {"conditions": [{"type": condition, "status": "True"}] if condition else []}
    job["metadata"]["annotations"] = {names.CANCELLED: "true"} if cancelled else {}
    nodes = diagnosis.nodes_of_job(JobView(job), [diagnosis.node_of(pod)])
    assert [node.phase for node in nodes] == phases


def test_a_pod_of_a_job_that_was_just_cancelled_is_ending() -> None:
    found = situation("running")
    found["job"]["spec"]["suspend"] = True
    found["job"]["metadata"]["annotations"] = {names.CANCELLED: "true"}
    nodes = diagnosis.nodes_of_job(JobView(found["job"]), map(diagnosis.node_of, found["pods"]))
    assert {node.phase for node in nodes} == {Phase.ENDING}
    assert "its pods are ending" in verdict_of(found).headline


@pytest.mark.parametrize("name", EXPECTED)
def test_a_verdict_names_the_state_by_the_word_that_list_has(name: str) -> None:
    verdict = verdict_of(situation(name))
    words = verdict.headline.split(":")[0].replace(",", "").split()
    known = {state.value for state in diagnosis.JobState} & set(words)
    assert known == {verdict.state.value}, verdict.headline


def test_a_long_silence_is_said_with_the_last_lines() -> None:
    found = situation("running")
    lines = {0: (found["now"] - 400, "step 7"), 3: (found["now"] - 1, "step 8")}
    quiet = verdict_of(found, last_lines=lines)
    assert [finding.kind for finding in quiet.findings] == ["silent"]
    assert "index 0, 6m40s ago: step 7" in quiet.text() and "step 8" in quiet.text()
    assert verdict_of(found, last_lines={0: (found["now"] - 5, "step 7")}).findings == ()


@pytest.mark.parametrize(
    ("attempt", "hint"),
    [
        (Attempt("job-0.job", "not known", False), "kubectl get service job"),
        (Attempt("10.0.0.1 port 29500", "Connection refused", True), "logs job -n "),
        (Attempt("10.0.0.1 port 29500", "timed out", True), "NetworkPolicy or firewall"),
    ],
)
def test_a_rank_0_that_runs_and_is_not_reached_is_told(attempt: Attempt, hint: str) -> None:
    found = situation("running")
    line = PREFIX + WaitingForRank0(60, attempt).text()
    verdict = verdict_of(found, last_lines={0: (found["now"], "x"), 3: (found["now"], line)})
    (finding,) = verdict.findings
    assert finding.kind == "rank-0-unreachable"
    assert finding.summary == f"index 3 cannot reach rank 0, which runs: {attempt.text()}"
    assert hint in (finding.hint or "")
    old = {0: (found["now"], "step 9"), 3: (found["now"] - 300, line)}
    assert verdict_of(found, last_lines=old).findings == ()


def test_a_node_that_installs_packages_is_told_and_not_those_that_wait_for_it() -> None:
    found = situation("running")
    line = PREFIX + Installing("uv.lock").text()
    waits = PREFIX + WaitingForRank0(60, Attempt("10.0.0.1 port 29500", "refused", True)).text()
    verdict = verdict_of(
        found, last_lines={0: (found["now"] - 200, line), 3: (found["now"], waits)}
    )
    (finding,) = verdict.findings
    assert (finding.kind, finding.summary) == ("installing", "installing: index 0")
    assert finding.evidence == (line,)
    assert "logs job" in (finding.hint or "")


def two_nodes(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A job of two nodes with these pod states; times are those of the situation."""
    found = situation("succeeded")
    found["job"]["status"] = {"startTime": "2026-01-01T00:00:00Z", "ready": 1}
    found["now"] = diagnosis.epoch("2026-01-01T00:10:00Z")
    found["pods"].sort(key=diagnosis.index_of)
    for pod, status in zip(found["pods"], (first, second), strict=True):
        pod["status"] = status
    return found


RUNNING = {
    "phase": "Running",
    "containerStatuses": [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    "conditions": [
        {"type": "Ready", "status": "True"},
        {"type": "ContainersReady", "status": "True"},
    ],
}


def test_nodes_that_wait_long_for_an_index_0_without_a_place_are_told() -> None:
    pending = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    verdict = verdict_of(two_nodes(pending, RUNNING))
    assert [finding.kind for finding in verdict.findings] == ["waiting-for-rank-0"]
    assert "1 node waits for index 0, which is starting" in verdict.text()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_lost_machine_is_named(*, restarts: bool) -> None:
    """In a job that restarts, its pod does not train any more."""
    lost = {
        **RUNNING,
        "conditions": [{"type": "Ready", "status": "False"}, RUNNING["conditions"][1]],
    }
    found = two_nodes(RUNNING, lost)
    if restarts:
        settings = {"low": 2, "high": 2, "spares": 0, "peers": [], "of_another_version": 1}
        settings |= {"max_restarts": 3, "backoff_limit": 3}
        container = found["job"]["spec"]["template"]["spec"]["containers"][0]
        container["env"].append({"name": "KIJ_GANG", "value": json.dumps(settings)})
    machine = found["pods"][1]["spec"]["nodeName"]
    verdict = verdict_of(found)
    assert [finding.kind for finding in verdict.findings] == ["node-lost"]
    assert f"index 1 is on a machine that does not answer: {machine}" in verdict.text()
    assert "kij-train cancel job" in verdict.text()


def test_a_refusal_is_told_when_some_pods_exist() -> None:
    found = two_nodes(RUNNING, RUNNING)
    found["pods"] = found["pods"][:1]
    found["events"] = situation("quota-used-up")["events"]
    verdict = verdict_of(found)
    assert verdict.findings[0].kind == "quota"
    assert "1 of 2 nodes have no pod: the namespace has no quota left" in verdict.text()


def restarts(found: dict[str, Any], max_restarts: int = 2) -> dict[str, Any]:
    """The same, of a job that restarts."""
    settings = gang.Settings(2, 2, 0, ["job-{}.job:1"], max_restarts, max_restarts)
    container = found["job"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "KIJ_GANG", "value": json.dumps(settings._asdict())})
    return found


def ended(at: str, code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": state}}]}


@pytest.mark.parametrize(
    ("lost_at", "kinds"), [("2026-01-01T00:00:00Z", ["quota"]), ("2026-12-01T00:00:00Z", [])]
)
def test_a_lost_pod_that_gets_no_other_is_told(lost_at: str, kinds: list[str]) -> None:
    """By what was said since; what was said before is of the past."""
    found = restarts(two_nodes(RUNNING, ended(lost_at, 137)))
    found["events"] = situation("quota-used-up")["events"]
    verdict = verdict_of(found)
    assert [finding.kind for finding in verdict.findings] == kinds
    said = "1 of 2 nodes have lost their pod, and get no other: the namespace has no quota left"
    assert (said in verdict.text()) == bool(kinds)


def with_reserve(
    pods: list[dict[str, Any]], lost: str | None, state: str | None = None
) -> dict[str, str]:
    """Index → phase of a job of two nodes with three indexes in reserve."""
    spec = JobSpec(script="a.py", namespace="ml", nodes=2, restart="gang")
    job = render.render(spec, name="job", code=render.Code(""))[-1]
    job["status"] = {"failedIndexes": lost}
    if state is not None:
        job["status"]["conditions"] = [{"type": state, "status": "True"}]
    nodes = diagnosis.nodes_of_job(JobView(job), map(diagnosis.node_of, pods))
    return {str(node.index): node.phase.value for node in nodes}


def indexed(index: int, status: dict[str, Any]) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {"metadata": {"name": f"job-{index}", "labels": labels}, "status": status}


def test_indexes_in_reserve_are_told_of_when_they_take_a_place() -> None:
    one, two = indexed(1, RUNNING), indexed(2, RUNNING)
    failed = indexed(0, ended("2026-01-01T00:00:00Z", 137))
    assert with_reserve([], None) == {"0": "pending", "1": "pending"}
    assert with_reserve([one], "0") == {"0": "lost", "1": "running", "2": "pending"}
    assert with_reserve([failed, one, two], "0") == {"0": "lost", "1": "running", "2": "running"}
    assert with_reserve([one, two], "0", "Complete") == {
        "0": "lost",
        "1": "running",
        "2": "running",
    }
    assert with_reserve([failed], "0-3", "Failed")["0"] == "failed"
    assert with_reserve([], "0-1", "Failed") == {"0": "lost", "1": "lost"}


def exhausted(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    found = restarts(two_nodes(first, second))
    condition = {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}
    found["job"]["status"]["conditions"] = [condition]
    return found


def test_a_job_that_lost_too_many_pods_tells_the_newest_first() -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "Usage of EmptyDir exceeds 16Mi"}
    evicted |= ended("2026-01-01T00:00:09Z", 143)
    verdict = verdict_of(exhausted(ended("2026-01-01T00:00:05Z", 137), evicted))
    assert verdict.headline.endswith("more pods were lost than --max-restarts 2 allows")
    assert [finding.kind for finding in verdict.findings] == ["evicted", "killed"]
    assert "index 1, pod" in verdict.findings[0].summary
    hint = "write to a mount: --mount pvc:NAME:/path; or ask for more room: --disk SIZE"
    assert verdict.findings[0].hint == hint


def test_pods_that_the_end_took_along_are_no_losses() -> None:
    taken = ended("2026-01-01T00:00:09Z", 143)
    verdict = verdict_of(exhausted(ended("2026-01-01T00:00:05Z", 137), taken))
    assert [finding.kind for finding in verdict.findings] == ["killed"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [("rank 1 was killed by SIGKILL", "oom-killed"), ("ValueError: bad batch", "exit-code")],
)
def test_only_a_rank_that_was_killed_was_out_of_memory(message: str, kind: str) -> None:
    """The kernel may have killed one of an earlier round, in the same container."""
    record = {"message": {"message": message}, "kij": {"rank": 1, "final": True, "exit_code": 1}}
    last = ended("2026-01-01T00:00:05Z", 1, "OOMKilled", json.dumps(record))
    verdict = verdict_of(exhausted(ended("2026-01-01T00:00:01Z", 143), last))
    assert [finding.kind for finding in verdict.findings] == [kind]


def test_a_long_message_is_shortened_with_the_command_that_shows_all_of_it() -> None:
    record = {"message": {"message": "KeyError: " + "x" * 3000}, "kij": {"rank": 1, "final": True}}
    last = ended("2026-01-01T00:00:05Z", 1, "Error", json.dumps(record))
    (finding,) = verdict_of(exhausted(ended("2026-01-01T00:00:01Z", 143), last)).findings
    assert len(finding.summary) < 600
    assert re.search(
        r"… all of it: kij-train logs \S+ -n \S+ --index 1 --tail 100$", finding.summary
    )


def test_what_is_free_is_said_where_it_is_known() -> None:
    found = situation("half-a-gang")
    pods = [
        {
            "spec": {
                "nodeName": machine["metadata"]["name"],
                "containers": [{"resources": {"requests": {"nvidia.com/gpu": str(taken)}}}],
            }
        }
        for machine, taken in zip(found["machines"], (8, 6, 7), strict=True)
    ]
    gone = {**pods[0], "status": {"phase": "Succeeded"}}
    found["machines"] = diagnosis.with_free(found["machines"], [*pods, gone])
    assert "the most that is free on one is 2)" in verdict_of(found).text()


@pytest.mark.parametrize(
    ("there", "hint"),
    [
        ({}, "what the machines have: kij-train doctor"),
        ({"nvidia.com/gpu": "0"}, "what the machines have: kij-train doctor"),
        (
            {"nvidia.com/mig-1g.5gb": "7"},
            "their GPUs are nvidia.com/mig-1g.5gb (7 a machine): --gpus with --gpu-kind mig-1g.5gb",
        ),
        (
            {"amd.com/gpu": "8"},
            "their GPUs are amd.com/gpu (8 a machine): --gpus with --gpu-kind amd",
        ),
    ],
)
def test_a_resource_that_no_machine_has_is_told_and_less_of_it_is_no_advice(
    there: dict[str, str], hint: str
) -> None:
    found = situation("half-a-gang")
    for machine in found["machines"]:
        machine["status"]["allocatable"] = {"cpu": "8", **there}
    found["machines"] = diagnosis.with_free(found["machines"], [])
    text = verdict_of(found).text()
    assert "no machine has nvidia.com/gpu (asked " in text
    assert hint in text
    assert "0.000000" not in text and "ask for less" not in text


def test_what_is_free_has_no_more_digits_than_it_needs() -> None:
    found = situation("half-a-gang")
    asked = {"cpu": "7500m", "nvidia.com/gpu": "8"}
    machines = [machine["metadata"]["name"] for machine in found["machines"]]
    pods = [
        {"spec": {"nodeName": name, "containers": [{"resources": {"requests": asked}}]}}
        for name in machines
    ]
    found["machines"] = diagnosis.with_free(found["machines"], pods)
    assert "the most that is free on one is 0)" in verdict_of(found).text()


def test_machines_are_looked_at_until_all_is_found() -> None:
    def machines() -> Iterator[dict[str, Any]]:
        yield {"status": {"allocatable": {"nvidia.com/gpu": "8", "rdma/ib": "0"}}}
        yield {"status": {"allocatable": {"rdma/ib": "1"}}}
        raise AssertionError("looked on")

    assert diagnosis.which_nobody_has(["nvidia.com/gpu", "rdma/ib"], machines()) == []
    assert diagnosis.which_nobody_has(["a.b/c"], [{"status": {}}, {}]) == ["a.b/c"]


def test_a_half_scheduled_gang_is_told_with_a_way_out() -> None:
    verdict = verdict_of(situation("half-a-gang"))
    assert [finding.kind for finding in verdict.findings] == ["unschedulable", "half-gang"]
    assert "2 of 3 nodes hold what they have" in verdict.text()
    assert "--queue NAME" in verdict.text()


def test_kueues_words_are_quoted() -> None:
    found = situation("queued")
    words = "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu"
    found["events"] = [
        {
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "reason": "Pending",
            "message": words,
            "source": {"component": "batch/job-kueue-controller"},
        }
    ]
    assert words in verdict_of(found).text()


@pytest.mark.parametrize("active", [True, False])
def test_a_job_that_was_resumed_is_not_told_as_taken_back(*, active: bool) -> None:
    """Kueue leaves the condition of a deactivated Workload there until it is admitted again."""
    found = situation("kueue-preempted")
    workload = found["queue"]["workload"]
    workload["spec"]["active"] = active
    (evicted,) = (one for one in workload["status"]["conditions"] if one["type"] == "Evicted")
    evicted |= {"reason": "Deactivated", "message": "The workload is deactivated"}
    kinds = [finding.kind for finding in verdict_of(found).findings]
    assert kinds == (["queued"] if active else ["evicted", "queued"])


def test_the_json_form_is_stable() -> None:
    shown = diagnosis.as_json(verdict_of(situation("asks-for-9-gpus")))
    assert set(shown) == {"state", "headline", "findings", "accounts"}
    assert isinstance(shown["findings"], list)
    assert set(shown["findings"][0]) == {"kind", "summary", "evidence", "hint"}
    assert Finding("k", "s") == Finding("k", "s", (), None)


# --- one verdict for whoever waits ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("succeeded", None),
        ("running", None),
        ("exception-on-one-rank", 1),
        ("cancelled", 1),
        ("deadline-while-running", 5),
        ("deadline-while-pending", 5),
    ],
)
def test_a_verdict_is_the_same_error_for_whoever_waits(name: str, exit_code: int | None) -> None:
    verdict = verdict_of(situation(name))
    error = verdict.error(("log: see it",))
    if exit_code is None:
        assert error is None
    else:
        assert error is not None
        assert (error.exit_code, error.message) == (exit_code, verdict.text())
        assert error.hints == ("log: see it",)


def test_indexes_wait_for_rank_0_where_their_command_does() -> None:
    job = situation("half-a-gang")["job"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    phases = {}
    for arguments in (["a.py"], ["--no-torchrun", "--await-rank0", "a"], ["--no-torchrun", "a"]):
        container["args"] = arguments
        running = diagnosis.Node(1, Phase.RUNNING)
        phases[" ".join(arguments)] = diagnosis.nodes_of_job(JobView(job), [running])[1].phase
    assert list(phases.values()) == [Phase.WAITING, Phase.WAITING, Phase.RUNNING]


MESSAGES = [
    (FetchFault("not-found", "https://x: HTTP 404").text(), "fetch-not-found"),
    (FetchFault("refused", "HTTP 403").text(), "fetch-refused"),
    (FetchFault("throttled", "HTTP 429").text(), "fetch-throttled"),
    (FetchFault("gone", "it ended early").text(), "fetch-gone"),
    (FetchFault("changed", "https://x").text(), "fetch-changed"),
    (FetchFault("hash", "https://x").text(), "fetch-hash"),
    (FetchFault("full", "/data has 1.0 GiB free").text(), "disk-full"),
    (FetchFault("limit", "60.0 GiB").text(), "fetch-limit"),
    (FetchFault("unwritable", "/data").text(), "fetch-unwritable"),
    (FetchFault("path", "'../x'").text(), "fetch-path"),
    (FetchFault("no-library", "s3://").text(), "fetch-library"),
    (PackagesFault("not-found", "nosuch==1").text(), "package-not-found"),
    (PackagesFault("no-match", "numpy==2.5").text(), "package-no-match"),
    (PackagesFault("conflict", "a needs b==1; b==2").text(), "package-conflict"),
    (PackagesFault("torch", "torchvision needs torch==2.5").text(), "package-torch"),
    (PackagesFault("hash", "a==1").text(), "package-hash"),
    (PackagesFault("python", "uv.lock").text(), "package-python"),
    (PackagesFault("refused", "403").text(), "index-refused"),
    (PackagesFault("insecure", "10.0.0.7").text(), "index-insecure"),
    (PackagesFault("throttled", "429").text(), "index-throttled"),
    (PackagesFault("unreachable", "pypi.org").text(), "index-unreachable"),
    (PackagesFault("full", "[Errno 28] No space left on device").text(), "disk-full"),
    (PackagesFault("no-installer", "python3").text(), "no-installer"),
    (PackagesFault("failed", "it said nothing").text(), "packages"),
    ('exec: "python3": executable file not found in $PATH', "no-python"),
    (no_torch("/usr/bin/python3", ImportError("No module named 'torch'")), "missing-module"),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "cuda-out-of-memory",
    ),
    ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error.", "shared-memory"),
    ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)", "nccl-timeout"),
    ("torch.distributed.DistBackendError: NCCL error, ncclSystemError", "nccl"),
    ("RuntimeError: Found no NVIDIA driver on your system", "cuda"),
    ("OSError: [Errno 28] No space left on device", "disk-full"),
    ("ModuleNotFoundError: No module named 'einops'", "missing-module"),
    ("PreflightError: preflight: index 1 (rank 1) never came, within 60 s", "preflight"),
]


def test_every_cause_is_known_by_a_message() -> None:
    found = [causes.of_message(message) for message, _ in MESSAGES]
    assert [cause and cause.kind for cause in found] == [kind for _, kind in MESSAGES]
    assert found == [cause for _, cause in causes._MESSAGES]


@pytest.mark.parametrize(
    ("message", "exit_code", "hint"),
    [
        ("ModuleNotFoundError: No module named 'einops'", 1, "-m pip install NAME"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", 1, "a smaller batch"),
        ("rank 0 was killed by SIGKILL", -9, "dmesg"),
        ("ValueError: bad batch", 1, None),
    ],
)
def test_what_to_do_on_this_machine_names_no_flag_of_a_cluster(
    message: str, exit_code: int, hint: str | None
) -> None:
    said = diagnosis.hint_here(message, exit_code)
    assert (said is None) if hint is None else (said is not None and hint in said)
    assert not re.search(r"--(memory|shm|mount|gpus|image)\b", said or "")
