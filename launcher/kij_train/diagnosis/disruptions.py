"""What a cluster does to pods that cannot help it: evictions, preemption, lost machines."""

from __future__ import annotations

from collections.abc import Sequence

from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import Object, condition

TOO_MANY_LOST = ("BackoffLimitExceeded", "MaxFailedIndexesExceeded", "FailedIndexes")
"""Why a Job says that it has failed where more pods have than may."""

_DISRUPTIONS = {
    "PreemptionByScheduler": (
        "preempted",
        "a job of higher priority took its place",
        "--priority-class",
    ),
    "DeletionByTaintManager": ("node-lost", "its machine was lost or tainted", None),
    "EvictionByEvictionAPI": ("evicted", "it was evicted, as by a drain of its machine", None),
    "DeletionByPodGC": ("node-lost", "its machine is gone from the cluster", None),
}


def disruption(pod: Object) -> Finding | None:
    """What the cluster did to a pod, which the pod could not help."""
    status = pod.get("status", {})
    said = str(status.get("message") or "")
    if status.get("reason") == "Evicted":
        hint = None
        if any(word in said.lower() for word in ("ephemeral", "emptydir", "disk")):
            hint = "write to a mount: --mount pvc:NAME:/path; or ask for more room: --disk SIZE"
        elif "memory" in said:
            hint = "ask for the memory it takes: --memory"
        return Finding("evicted", "its machine evicted it", (said,) if said else (), hint)
    if status.get("reason") in ("Terminated", "NodeShutdown", "Shutdown"):
        return Finding(
            "node-shutdown",
            "its machine was shut down, as spot machines are",
            (said,) if said else (),
        )
    if status.get("reason") in (
        "NodeLost",
        "NodeAffinity",
        "UnexpectedAdmissionError",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
    ):
        return Finding(
            "node-refused",
            f"its machine did not take it: {status['reason']}",
            (said,) if said else (),
        )
    disrupted = condition(pod, "DisruptionTarget")
    if disrupted is None:
        return None
    words = str(disrupted.get("message") or "")
    if disrupted.get("reason") == "TerminationByKubelet":
        shutdown = "shutdown" in words.lower()
        kind, summary = (
            ("node-shutdown", "its machine was shut down")
            if shutdown
            else ("evicted", "its machine ended it")
        )
        return Finding(kind, summary, (words,) if words else ())
    known = _DISRUPTIONS.get(str(disrupted.get("reason")))
    if known is None:
        return Finding(
            "disrupted",
            f"the cluster ended it: {disrupted.get('reason')}",
            (words,) if words else (),
        )
    return Finding(known[0], known[1], (words,) if words else (), known[2])


_EVENTS = {
    "Preempted": ("preempted", "a pod of higher priority took its place"),
    "TaintManagerEviction": ("node-lost", "its machine was lost or tainted"),
    "NodeNotReady": ("node-lost", "its machine was lost"),
    "Evicted": ("evicted", "its machine evicted it"),
}


def without_pods(ended: Object, events: Sequence[Object]) -> list[Finding]:
    """No pod is there to speak: the events that are still known, else the Job's own words."""
    said = str(ended.get("message") or "")
    for event in events:
        if event.get("reason") in _EVENTS:
            kind, summary = _EVENTS[str(event["reason"])]
            about = event.get("involvedObject", {}).get("name")
            return [Finding(kind, f"pod {about}: {summary}", (str(event.get("message", "")),))]
    if ended.get("reason") in TOO_MANY_LOST:
        return [
            Finding(
                "pods-gone",
                "a pod failed, and it is gone: deleted, or its machine was",
                (said,) if said else (),
            )
        ]
    return [Finding("unknown", f"{ended.get('reason')}: {said}")]
