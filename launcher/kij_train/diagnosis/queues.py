"""What Kueue says of a job that waits in one of its queues: of whom it waits for what.

Kueue makes a Workload of a Job, and writes into its conditions why it is not admitted. The words
are those of Kueue 0.17 (pkg/scheduler and pkg/controller/core there); others are quoted as they
are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kij_train import commands, units
from kij_train.diagnosis import provisioning
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import JobView, Object, condition, epoch
from kij_train.diagnosis.pending import sorted_events

MOST_NAMED = 5

# Another flavor may have its own words behind a comma.
_SHORT = re.compile(r"insufficient unused quota for (\S+) in flavor (\S+), (\S+) more needed")
_NEVER = re.compile(
    r"insufficient quota for (\S+) in flavor (\S+), previously considered podsets requests "
    r"\((\S+)\) \+ current podset request \((\S+)\) > maximum capacity \((\S+)\)"
)
_NO_RESOURCE = re.compile(
    r"resource (\S+) unavailable in ClusterQueue|flavor \S+ does not provide resource (\S+?),?$"
)
_TAINT = re.compile(r"untolerated taint \{(\S+) (\S*) (\w+) .*?\} in flavor [^\s,]+")
"""As Go prints a taint: key, value, effect, and since when."""
_AFFINITY = re.compile(r"flavor ([^\s,]+) doesn't match node affinity")
_FITS = re.compile(
    r'topology "(\S+)" (?:allows to fit only (\d+) out of|doesn\'t allow to fit any of) (\d+) pod'
)
_NO_LEVEL = re.compile(
    r"no requested topology level: (\S+)|does not contain the requested level"
    r"|does not support TopologyAwareScheduling"
)
_GONE = re.compile(
    r"(LocalQueue|ClusterQueue) (\S+) (?:doesn't exist|not found|is terminating or missing)"
)
_STOPPED = re.compile(r"(LocalQueue|ClusterQueue) (\S+) is (?:inactive|stopped)")
_PREEMPTOR = re.compile(r"to accommodate a workload \(UID: \S+, JobUID: ([^\s)]+)\) due to ([^;]+)")
_EVICTED = {
    "Preempted": "gave way to another one",
    "PodsReadyTimeout": "was taken back: its pods were not ready in the time that Kueue gives them",
    "AdmissionCheck": "was taken back: one of the checks of its queue does not hold any more",
    "ClusterQueueStopped": "was taken back: its ClusterQueue was stopped",
    "LocalQueueStopped": "was taken back: its LocalQueue was stopped",
    "NodeFailures": "was taken back: a machine that it ran on has failed",
    "Deactivated": "was taken back, and its Workload deactivated",
}
"""Reasons of the condition Evicted, and what is said of the job."""


@dataclass(frozen=True)
class Queue:
    """What Kueue has of a job, as far as the user may know."""

    workload: Object | None = None
    """Kueue's own object of the job."""
    local_queues: Sequence[Object] | None = None
    """Of the namespace; None where they may not be read."""
    jobs: Sequence[Object] = ()
    """Jobs of the namespace in the same queue."""
    requests: Sequence[Object] = ()
    """ProvisioningRequests of the namespace, where a check of the queue may have made one."""
    installed: bool = True
    """Whether the cluster has Kueue, as far as it says."""


def waiting(
    job: JobView, events: Sequence[Object], queue: Queue, now: float
) -> tuple[str, list[Finding]]:
    """How the headline of a job in a queue goes on, and why it waits there."""
    evicted = condition(queue.workload, "Evicted") if queue.workload else None
    if evicted is not None and evicted.get("reason") == "Deactivated" and _is_active(queue):
        evicted = None  # it was cancelled, and resumed since
    findings = [_not_admitted(job, events, queue)]
    if evicted is None:
        return "it waits in a queue", findings
    at = epoch(str(evicted.get("lastTransitionTime") or ""))
    ago = "" if at is None else f" {units.format_seconds(max(0.0, now - at))} ago"
    said = _EVICTED.get(str(evicted.get("reason")), "was taken back")
    findings.insert(0, _evicted(evicted, queue))
    return f"it {said}{ago}, and waits in its queue again", findings


def _is_active(queue: Queue) -> bool:
    return bool((queue.workload or {}).get("spec", {}).get("active", True))


def _evicted(evicted: Object, queue: Queue) -> Finding:
    """Why a job that ran was suspended."""
    message = str(evicted.get("message") or "")
    preempted = _PREEMPTOR.search(message)
    kind = "preempted" if evicted.get("reason") == "Preempted" else "evicted"
    hint = "when it is admitted again, its pods start anew: a script goes on from its checkpoint"
    if preempted is None:
        return Finding(kind, "Kueue suspended it", (message,), hint)
    others = {str(one["metadata"].get("uid")): JobView(one).name for one in queue.jobs}
    name = others.get(preempted[1])
    whom = "a job outside of this queue" if name is None else f"job {name}"
    summary = f"Kueue suspended it, to make room for {whom}: {preempted[2].strip()}"
    return Finding(kind, summary, (message,), hint)


def _not_admitted(job: JobView, events: Sequence[Object], queue: Queue) -> Finding:
    if not queue.installed:
        return Finding(
            "queue-missing",
            f"the cluster has no Kueue: nothing admits a job into queue {job.queue}",
            hint="launch it without --queue, or with --scheduler volcano, where that is",
        )
    waits = _condition(queue.workload, "QuotaReserved")
    message = str((waits or {}).get("message") or "") or _last_word(events)
    local = _named(queue.local_queues, str(job.queue))
    if queue.local_queues is not None and local is None:
        return _no_local_queue(job, queue.local_queues)
    where = f"queue {job.queue}"
    of_cluster = str((local or {}).get("spec", {}).get("clusterQueue") or "")
    if of_cluster:
        where += f" (ClusterQueue {of_cluster})"
    checked = provisioning.of_checks(queue.workload, queue.requests, where)
    if checked is not None:
        return checked
    known = _known(message, where, job)
    if known is None:
        check = f"what it waits for: {commands.kubectl('get', 'workloads')}"
        return Finding(
            "queued", f"{where} has not admitted it yet", (message,) if message else (), check
        )
    holders = _holders(job, queue.jobs) if known.kind == "queued" else ()
    return Finding(known.kind, known.summary, (message, *holders), known.hint)


def _known(message: str, where: str, job: JobView) -> Finding | None:
    """Words of Kueue that say what it lacks."""
    less = "less of it a node, or fewer --nodes" if job.array is None else "less of it an index"
    short = [
        f"{more} of {what} in flavor {flavor}" for what, flavor, more in _SHORT.findall(message)
    ]
    if short:
        return Finding(
            "queued",
            f"{where} has no room for it yet: it lacks {', or '.join(short)}",
            hint=f"wait until others end, or ask for {less}",
        )
    if (never := _NEVER.search(message)) is not None:
        what, flavor, _, asked, most = never.groups()
        return Finding(
            "queue-quota",
            f"{where} can never admit it: it asks for {asked} {what}, and flavor {flavor} has "
            f"{most} in all",
            hint=f"ask for {less}, or another queue: --queue NAME",
        )
    if (lacks := _NO_RESOURCE.search(message)) is not None:
        return Finding(
            "queue-resource",
            f"{where} has no quota of {lacks[1] or lacks[2]}, which it asks for",
            hint="leave it out, or another queue: --queue NAME",
        )
    if (fits := _FITS.search(message)) is not None:
        topology, some, pods = fits.groups()
        return Finding(
            "queue-topology",
            f"{where} finds no one place for all {pods} pods: topology {topology} has room for "
            f"{some or 'none'} of them in one",
            hint="a wider --topology, or one that is only preferred; fewer --nodes",
        )
    return _misconfigured(message, where)


def _misconfigured(message: str, where: str) -> Finding | None:
    """Words of Kueue about how queue, flavors and job fit together."""
    ask = "ask whoever runs the cluster, or take another queue: --queue NAME"
    if _NO_LEVEL.search(message) is not None:
        return Finding(
            "queue-topology",
            f"{where} does not know the level that --topology asks for",
            hint="another --topology: a label of nodes that is a level of the queue's Topology",
        )
    if (taint := _TAINT.search(message)) is not None:
        key, value, effect = taint.groups()
        known = f"{key}={value}:{effect}" if value else f"{key}:{effect}"
        return Finding(
            "queue-flavor",
            f"{where} has machines with a taint that it does not tolerate: {known}",
            hint=f"--toleration {known}",
        )
    if _AFFINITY.search(message) is not None:
        return Finding(
            "queue-flavor",
            f"{where} has no machines that its --node-selector or affinity allows",
            hint="another --node-selector, or another queue: --queue NAME",
        )
    for pattern, kind, what in (
        (_GONE, "queue-missing", "does not exist"),
        (_STOPPED, "queue-stopped", "admits nothing: it is stopped, or not configured wholly"),
    ):
        if (found := pattern.search(message)) is not None:
            return Finding(kind, f"{found[1]} {found[2]} {what}", hint=ask)
    return None


def _no_local_queue(job: JobView, there: Sequence[Object]) -> Finding:
    known = ", ".join(sorted(str(one["metadata"]["name"]) for one in there))
    has = f"it has {known}" if known else "it has none"
    again = commands.command("launch", "--again", job.name, "--replace", "--queue", "NAME")
    return Finding(
        "queue-missing",
        f"namespace {job.namespace} has no LocalQueue {job.queue}: {has}",
        hint=f"launch it into one that is there: {again}",
    )


def _holders(job: JobView, others: Sequence[Object]) -> tuple[str, ...]:
    """The jobs of the same queue that run, the largest first."""
    running = [
        view
        for view in map(JobView, others)
        if view.uid != job.uid and not view.suspended and view.end is None
    ]
    running.sort(key=lambda view: (-view.parallelism, view.name))
    named = [f"{view.name} ({_size(view)})" for view in running[:MOST_NAMED]]
    if not named:
        return ("what is used, no job of this namespace has by this queue",)
    more = len(running) - len(named)
    return (f"admitted in this queue: {', '.join(named)}" + (f" and {more} more" if more else ""),)


def _size(job: JobView) -> str:
    pods = min(job.parallelism, job.completions)
    asked = ", ".join(f"{what} {much}" for what, much in sorted(job.requests.items()))
    return f"{pods} pod{'' if pods == 1 else 's'}" + (f" of {asked}" if asked else "")


def _named(found: Sequence[Object] | None, name: str) -> Object | None:
    return next((one for one in found or () if one["metadata"]["name"] == name), None)


def _condition(obj: Object | None, kind: str) -> dict[str, Any] | None:
    """The condition of this type, whatever its status."""
    conditions = (obj or {}).get("status", {}).get("conditions") or []
    return next((dict(one) for one in conditions if one["type"] == kind), None)


def _last_word(events: Sequence[Object]) -> str:
    """Kueue's newest event about the job, which needs no right to read Workloads."""
    said = [
        str(event.get("message", ""))
        for event in sorted_events(events)
        if "kueue" in str(event.get("reportingComponent") or event.get("source")).lower()
    ]
    return said[-1] if said else ""
