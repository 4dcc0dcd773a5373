"""The phase of every node of a job, and the state of the job, from its pods and its Job."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kij_train import names
from kij_train.pod import contract, gang

Object = Mapping[str, Any]
SUCCEEDED = ("SuccessCriteriaMet", "Complete")
FAILED = ("FailureTarget", "Failed")


class Phase(str, enum.Enum):
    """Where a node is on its way. The values are what users read."""

    PENDING = "pending"
    """No pod yet, or no place for it."""
    STARTING = "starting"
    """On a node, which prepares its network and volumes."""
    PULLING = "pulling"
    """Its network and volumes are ready; what is left is the image."""
    WAITING = "waiting for rank 0"
    """Runs, while the pod of index 0 does not: the bootstrap waits for it."""
    RUNNING = "running"
    STANDBY = "standby"
    """Of a job that restarts: runs, and trains not; a spare, or too few others are there."""
    ENDING = "ending"
    """Runs, and was told to end: its pod is being deleted, or its job was cancelled."""
    DONE = "done"
    FAILED = "failed"
    SUSPENDED = "suspended"
    """No pod, and none comes before the job is resumed, or its queue admits it."""
    CANCELLED = "cancelled"
    """No pod, since the job was cancelled."""
    ENDED = "ended"
    """Its pod is gone, and its job has ended."""


STARTED = (Phase.RUNNING, Phase.ENDING, Phase.DONE, Phase.FAILED)
"""Of a pod alone: those in which its container runs, or did."""


class JobState(str, enum.Enum):
    """What a job as a whole does. The values are what users and scripts read."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays so. A cancelled job can be resumed, but nothing of it runs."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Node:
    """One completion index, by its newest pod."""

    index: int
    phase: Phase
    pod: str | None = None
    node: str | None = None
    """The machine."""
    since: float | None = None
    """Epoch seconds at which the phase began, as far as the pod tells."""
    reason: str | None = None
    """What keeps it: `ErrImagePull`, `Unschedulable`, `OOMKilled`."""
    exit_code: int | None = None
    created: float | None = None
    """Epoch seconds at which the pod was made."""
    ready: bool = True
    """Whether it counts as ready; of a job that restarts, whether it trains."""
    held_by: str | None = None
    """Container of somebody else's that keeps its pod: from ending, or from starting."""

    @property
    def troubled(self) -> bool:
        """Whether it will not go on by itself."""
        return self.phase is Phase.FAILED or self.reason in TROUBLES or self.held_up

    @property
    def held_up(self) -> bool:
        """Whether it has ended, and its pod goes on with a container of somebody else's."""
        return self.held_by is not None and self.phase in (Phase.DONE, Phase.FAILED)


TROUBLES = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "Unschedulable",
    }
)


def trimmed(pod: Object) -> dict[str, Any]:
    """What this package reads of a pod, a tenth of its size: thousands are kept in memory."""
    metadata, status = pod["metadata"], pod.get("status", {})
    kept = ("name", "uid", "creationTimestamp", "deletionTimestamp", "resourceVersion")
    labels = metadata.get("labels", {})
    small: dict[str, Any] = {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {},
        "status": {},
    }
    small["metadata"]["labels"] = {
        key: labels[key] for key in (names.COMPLETION_INDEX,) if key in labels
    }
    if node := pod.get("spec", {}).get("nodeName"):
        small["spec"]["nodeName"] = node
    containers = ("containerStatuses", "initContainerStatuses")
    wanted = ("phase", "reason", "message", "startTime", "conditions", *containers)
    small["status"] = {key: status[key] for key in wanted if key in status}
    return small


def epoch(timestamp: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time in UTC, as Kubernetes writes it."""
    if not timestamp:
        return None
    # Python 3.10 reads neither Z nor nine digits.
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(seconds + "+00:00").timestamp()
    return whole + (float(f"0.{fraction}") if fraction else 0.0)


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of this type that is True."""
    for each in obj.get("status", {}).get("conditions") or []:
        if each["type"] == kind and each["status"] == "True":
            return dict(each)
    return None


def status_of_condition(obj: Object, kind: str) -> str | None:
    """True, False or Unknown; None where there is no condition of this type."""
    for each in obj.get("status", {}).get("conditions") or []:
        if each["type"] == kind:
            return str(each["status"])
    return None


def is_out_of_touch(pod: Object) -> bool:
    """Whether the machine of a pod is not heard of.

    The node controller then sets Ready alone to False, and leaves ContainersReady as it was.
    """
    ready, containers = (status_of_condition(pod, k) for k in ("Ready", "ContainersReady"))
    return ready == "False" and containers == "True"


def terminal_condition(job: Object) -> Object | None:
    """The verdict: FailureTarget and SuccessCriteriaMet come before every pod has ended."""
    for kind in (*SUCCEEDED, *FAILED):
        if found := condition(job, kind):
            return found
    return None


def job_state(job: Object) -> JobState:
    """The state of the job, from the Job alone."""
    ended = terminal_condition(job)
    if ended is not None:
        return JobState.SUCCEEDED if ended["type"] in SUCCEEDED else JobState.FAILED
    if job["spec"].get("suspend"):
        annotations = job["metadata"].get("annotations") or {}
        return JobState.CANCELLED if names.CANCELLED in annotations else JobState.SUSPENDED
    status = job.get("status", {})
    return JobState.RUNNING if status.get("ready") or status.get("succeeded") else JobState.PENDING


def own(containers: Iterable[Object] | None) -> Object:
    """Ours among containers or their statuses: policies add others, before it or behind it.

    The first one of a pod that is not ours; {} where there is none.
    """
    there = list(containers or [])
    named = (each for each in there if each.get("name") == names.CONTAINER)
    return next(named, there[0] if there else {})


def own_container(job: Object) -> Object:
    """Ours in a Job."""
    return own(job["spec"]["template"]["spec"]["containers"])


def foreign(pod: Object) -> list[Object]:
    """Statuses of the containers of a pod that are not ours."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    mine = own(statuses)
    return [each for each in statuses if each is not mine]


def _contract(job: Object, name: str) -> str | None:
    """A variable of the pod contract in the Job."""
    for variable in own_container(job).get("env") or []:
        if variable["name"] == name:
            return str(variable.get("value") or "")
    return None


def ranks_per_node(job: Object) -> int:
    """Processes a node, from the pod contract in the Job; 1 for a Job that is not ours."""
    return int(_contract(job, contract.ENV_NPROC_PER_NODE) or 1)


def restarts_by_itself(job: Object) -> bool:
    """Whether supervisors in the pods start ranks again, so that a failed pod is no failed job."""
    return _contract(job, gang.ENV_GANG) is not None


def gang_settings(job: Object) -> gang.Settings | None:
    """What the supervisors in the pods were told; None for a job that has none."""
    said = _contract(job, gang.ENV_GANG)
    return None if said is None else gang.Settings(**json.loads(said))


def grace_s(job: Object) -> int:
    """The grace period of the pods, from the Job."""
    return int(
        job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds") or contract.GRACE_S
    )


def index_of(pod: Object) -> int:
    """The completion index of a pod; -1 for a pod without one."""
    return int(pod["metadata"].get("labels", {}).get(names.COMPLETION_INDEX, -1))


def node_of(pod: Object) -> Node:
    """The node that this pod is, as if it were alone: WAITING takes the knowledge of index 0."""
    status = pod.get("status", {})
    phase, since, reason, code = _phase(pod)
    held_by = _held_by(pod, phase)
    if held_by is not None and phase in (Phase.DONE, Phase.FAILED):
        reason = ", ".join(filter(None, (reason, f"held up by container {held_by}")))
    elif held_by is not None:
        before = status.get("initContainerStatuses") or []
        state = next(each["state"] for each in before if each["name"] == held_by)
        phase, reason = Phase.STARTING, _waits_for(state) or f"container {held_by} runs first"
    return Node(
        index=index_of(pod),
        phase=phase,
        pod=str(pod["metadata"]["name"]),
        node=pod.get("spec", {}).get("nodeName"),
        since=since,
        reason=reason or status.get("reason"),
        exit_code=code,
        created=epoch(pod["metadata"].get("creationTimestamp")),
        ready=status_of_condition(pod, "Ready") != "False" or _only_others_are_unready(pod),
        held_by=held_by,
    )


def _only_others_are_unready(pod: Object) -> bool:
    """Whether a pod counts as not ready because of containers that are not ours."""
    ready = own(pod.get("status", {}).get("containerStatuses")).get("ready") is True
    return ready and status_of_condition(pod, "ContainersReady") == "False"


def _held_by(pod: Object, phase: Phase) -> str | None:
    """The container that keeps a pod from ending, or from starting ours.

    A Job's pod ends when all of its containers have, but for those of initContainers that run
    beside (restartPolicy Always): these are ended by the kubelet. Others run one after another
    before ours.
    """
    status = pod.get("status", {})
    if phase in (Phase.DONE, Phase.FAILED) and status.get("phase") not in ("Succeeded", "Failed"):
        going = (each for each in foreign(pod) if "terminated" not in (each.get("state") or {}))
        return next((str(each["name"]) for each in going), None)
    if status_of_condition(pod, "Initialized") == "False":
        before = [each for each in status.get("initContainerStatuses") or [] if each.get("state")]
        left = [each for each in before if "terminated" not in each["state"]]
        # One that is to run beside the others lets the next one begin when it has started.
        now = (each for each in left if not (each.get("started") and "running" in each["state"]))
        return next((str(each["name"]) for each in now), None)
    return None


def _phase(pod: Object) -> tuple[Phase, float | None, str | None, int | None]:
    status = pod.get("status", {})
    created = epoch(pod["metadata"].get("creationTimestamp"))
    state = own(status.get("containerStatuses")).get("state") or {}
    ended = state.get("terminated") or {}
    if ended or status.get("phase") in ("Succeeded", "Failed"):
        # The container ends some moments before the pod does.
        done = ended.get("exitCode") == 0 if ended else status["phase"] == "Succeeded"
        phase = Phase.DONE if done else Phase.FAILED
        reason = None if phase is Phase.DONE else ended.get("reason")
        return phase, epoch(ended.get("finishedAt")) or created, reason, ended.get("exitCode")
    if "running" in state and "deletionTimestamp" in pod["metadata"]:
        return Phase.ENDING, None, None, None
    if "running" in state:
        return Phase.RUNNING, epoch(state["running"].get("startedAt")) or created, None, None
    scheduled = _times(pod, "PodScheduled")
    if scheduled is None:
        unschedulable = any(
            each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable"
            for each in status.get("conditions") or []
        )
        return Phase.PENDING, created, "Unschedulable" if unschedulable else None, None
    reason = _waits_for(state)
    sandbox = _times(pod, "PodReadyToStartContainers")
    if sandbox is not None:
        return Phase.PULLING, sandbox, reason, None
    return Phase.STARTING, scheduled, reason, None


def _waits_for(state: Object) -> str | None:
    """What keeps a container that waits; None where that is as usual."""
    reason = (state.get("waiting") or {}).get("reason")
    return None if reason in ("ContainerCreating", "PodInitializing") else reason


def _times(pod: Object, kind: str) -> float | None:
    found = condition(pod, kind)
    return None if found is None else epoch(found.get("lastTransitionTime")) or 0.0


def nodes_of_job(job: Object, nodes: Iterable[Node]) -> list[Node]:
    """Every completion index of the job, in order; `nodes` come from `node_of`, oldest first."""
    newest = {node.index: node for node in nodes}
    completed = _completed(job)
    first = newest.get(0)
    rank0_runs = 0 in completed or (first is not None and first.phase in STARTED)
    supervised, without = restarts_by_itself(job), _without_pod(job)
    awaits_rank0 = not supervised and waits_for_rank0(job)
    suspended = bool(job["spec"].get("suspend"))
    found = []
    for index in range(int(job["spec"].get("completions") or 1)):
        node = newest.get(index)
        if node is None:
            node = Node(index, Phase.DONE if index in completed else without)
        elif node.phase is Phase.RUNNING and suspended:
            node = replace(node, phase=Phase.ENDING, since=None)  # the Job controller comes to it
        elif node.phase is Phase.RUNNING and supervised:
            node = node if node.ready else replace(node, phase=Phase.STANDBY)
        elif node.phase is Phase.RUNNING and awaits_rank0 and not rank0_runs:
            node = replace(node, phase=Phase.WAITING)
        found.append(node)
    return found


def waits_for_rank0(job: Object) -> bool:
    """Whether the indexes of a job that does not restart wait for rank 0: not all commands do."""
    arguments: list[str] = own_container(job).get("args") or []
    return contract.NO_TORCHRUN not in arguments[:1] or contract.AWAIT_RANK0 in arguments[1:2]


def _without_pod(job: Object) -> Phase:
    """The phase of an index that has no pod, and has not completed."""
    state = job_state(job)
    if state in (JobState.SUCCEEDED, JobState.FAILED):
        return Phase.ENDED
    words = {JobState.CANCELLED: Phase.CANCELLED, JobState.SUSPENDED: Phase.SUSPENDED}
    return words.get(state, Phase.PENDING)


def _completed(job: Object) -> set[int]:
    """`1,3-5,7` of status.completedIndexes."""
    done: set[int] = set()
    for part in (job.get("status", {}).get("completedIndexes") or "").split(","):
        low, _, high = part.partition("-")
        if low:
            done.update(range(int(low), int(high or low) + 1))
    return done


def phases(nodes: Iterable[Node]) -> dict[Phase, int]:
    """How many nodes are in each phase, phases in their order, none with zero."""
    counts = dict.fromkeys(Phase, 0)
    for node in nodes:
        counts[node.phase] += 1
    return {phase: count for phase, count in counts.items() if count}
