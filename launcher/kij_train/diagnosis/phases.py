"""The phase of every node of a job, from its pods and its Job."""

from __future__ import annotations

import enum
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from kij_train import names
from kij_train.diagnosis.jobview import JobState, JobView, Object, condition, epoch, own


class Phase(str, enum.Enum):
    """Where a node is on its way. The values are what users read."""

    PENDING = "pending"
    """No pod yet, or no place for it."""
    STARTING = "starting"
    """On a machine, which prepares its network and volumes."""
    PULLING = "pulling"
    """Its network and volumes are ready; what is left is the image."""
    WAITING = "waiting for rank 0"
    """Runs, while the pod of index 0 does not: the bootstrap waits for it."""
    RUNNING = "running"
    STANDBY = "standby"
    """Of a job that restarts: runs, but does not train; a spare, or one that has lost its place, or
    too few others are there."""
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
    LOST = "lost"
    """Of a job with a reserve: it has lost its pod and gets no other; another one comes instead."""


STARTED = (Phase.RUNNING, Phase.ENDING, Phase.DONE, Phase.FAILED)
"""Of a pod alone: those in which its container runs, or did."""
TOLD_TO_END = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
"""Exit codes of a container that a kubelet has ended, the second one after its grace period."""


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
    ready_since: float | None = None
    """Epoch seconds at which it became ready, where it is."""
    held_by: str | None = None
    """Container of somebody else's that keeps its pod: from ending, or from starting."""

    @property
    def troubled(self) -> bool:
        """Whether the node has failed, or is kept by something that does not pass by itself."""
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


def same_reason(text: str) -> str:
    """With one word for the two that a kubelet writes in turns while an image cannot be pulled."""
    return text.replace("ImagePullBackOff", "ErrImagePull")


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
    wanted = ("phase", "podIP", "reason", "message", "startTime", "conditions", *containers)
    small["status"] = {key: status[key] for key in wanted if key in status}
    return small


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


def foreign(pod: Object) -> list[Object]:
    """Statuses of the containers of a pod that are not ours."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    mine = own(statuses)
    return [each for each in statuses if each is not mine]


def index_of(pod: Object) -> int:
    """The completion index of a pod; -1 for a pod without one."""
    return int(pod["metadata"].get("labels", {}).get(names.COMPLETION_INDEX, -1))


def node_of(pod: Object) -> Node:
    """A pod as a node. Only `nodes_of_job`, which sees index 0 too, tells who waits for rank 0."""
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
        ready_since=_times(pod, "Ready"),
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
    """Why a container waits; None where it is being made, as every container is at first."""
    reason = (state.get("waiting") or {}).get("reason")
    return None if reason in ("ContainerCreating", "PodInitializing") else reason


def _times(pod: Object, kind: str) -> float | None:
    found = condition(pod, kind)
    return None if found is None else epoch(found.get("lastTransitionTime")) or 0.0


def nodes_of_job(job: JobView, nodes: Iterable[Node]) -> list[Node]:
    """Every index of the job, in order; `nodes` come from `node_of`, oldest first.

    Indexes in reserve are left out as long as none of them is to take a lost one's place.
    """
    newest = {node.index: node for node in nodes}
    completed, lost = job.completed, job.lost
    first = newest.get(0)
    rank0_runs = 0 in completed or (first is not None and first.phase in STARTED)
    supervised, without = job.restarts_by_itself, _without_pod(job.state)
    awaits_rank0, suspended = job.awaits_rank0, job.suspended
    found = []
    for index in _indexes_of(job, newest.keys()):
        node = newest.get(index)
        if node is None and index in lost:
            node = Node(index, Phase.LOST)
        elif node is None:
            node = Node(index, Phase.DONE if index in completed else without)
        elif suspended and node.phase is Phase.FAILED and node.exit_code in TOLD_TO_END:
            node = replace(node, phase=without, reason=None)  # the Job controller removes its pod
        elif node.phase is Phase.FAILED and index in lost and job.state is not JobState.FAILED:
            node = replace(node, phase=Phase.LOST)
        elif node.phase is Phase.RUNNING and suspended:
            node = replace(node, phase=Phase.ENDING, since=None)  # the Job controller comes to it
        elif node.phase is Phase.RUNNING and supervised:
            node = node if node.ready else replace(node, phase=Phase.STANDBY)
        elif node.phase is Phase.RUNNING and awaits_rank0 and not rank0_runs:
            node = replace(node, phase=Phase.WAITING)
        found.append(node)
    return _no_more_than(job.at_once, found) if supervised else found


def _no_more_than(most: int, nodes: list[Node]) -> list[Node]:
    """With no more running than train at once: a lost pod counts as ready for some seconds more.

    Those that became ready last have taken a place, so those that have been ready for longest have
    lost theirs; of several since the same second, those of the highest index.
    """
    running = [node for node in nodes if node.phase is Phase.RUNNING]
    if len(running) <= most:
        return nodes
    running.sort(key=lambda node: (node.ready_since or 0.0, -node.index))
    surplus = {node.index for node in running[: len(running) - most]}
    return [replace(node, phase=Phase.STANDBY) if node.index in surplus else node for node in nodes]


def _indexes_of(job: JobView, with_pods: Collection[int]) -> Iterable[int]:
    """Those that are, or were, part of the job: all, but for a reserve that is not needed."""
    if not job.reserve:
        return range(job.completions)
    lost = job.lost
    there = {*lost, *with_pods, *job.completed}
    if not job.state.ended or job.state is JobState.CANCELLED:
        left = (index for index in range(job.completions) if index not in lost)
        there.update(islice(left, job.size))
    return sorted(there)


def _without_pod(state: JobState) -> Phase:
    """The phase of an index that has no pod, and has not completed, in a job of this state."""
    if state in (JobState.SUCCEEDED, JobState.FAILED):
        return Phase.ENDED
    words = {JobState.CANCELLED: Phase.CANCELLED, JobState.SUSPENDED: Phase.SUSPENDED}
    return words.get(state, Phase.PENDING)


def phases(nodes: Iterable[Node]) -> dict[Phase, int]:
    """How many nodes are in each phase, phases in their order, none with zero."""
    counts = dict.fromkeys(Phase, 0)
    for node in nodes:
        counts[node.phase] += 1
    return {phase: count for phase, count in counts.items() if count}
