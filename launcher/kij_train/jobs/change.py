"""What changes a job that is on a cluster: cancel, resume, scale, delete.

Every function takes the cluster and the job's name, asks for the Job, and leaves alone what was not
made by kij-train. Nothing here prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kij_train import diagnosis, jobs, names, units
from kij_train.diagnosis import JobState
from kij_train.errors import KijError, RefusedError, RequestError
from kij_train.jobs import JobSummary, Object

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, Submission


def _ours(cluster: Cluster, name: str, what: str, instead: str, uid: str | None = None) -> Object:
    """The Job, which must be one of ours; `instead` is what kubectl does to it all the same.

    With `uid` it must be that one: a name can be taken again.
    """
    from kij_train.cluster.apierrors import GoneError

    job = jobs.get(cluster, name)
    if uid is not None and job["metadata"]["uid"] != uid:
        raise GoneError(f"job {name} is gone: another one of that name has taken its place")
    if (job["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY) != names.MANAGER:
        line = f"kubectl {instead.format(name)} -n {cluster.namespace}"
        raise RefusedError(
            f"job {name} in namespace {cluster.namespace} was not made by kij-train",
            hints=(f"{what} it all the same: {line}",),
        )
    return job


def submission_of(cluster: Cluster, name: str) -> tuple[Submission, Object]:
    """A job that is there, as `submit` gives one, to follow or to cancel; and the Job."""
    from kij_train.cluster import Submission

    job = _ours(cluster, name, "follow", "logs -f job/{}")
    return Submission(cluster, job, _queue_of(job)), job


def cancel(
    cluster: Cluster, name: str, *, grace_s: int | None = None, uid: str | None = None
) -> JobSummary:
    """End a job's pods, with their grace period; the Job stays, readable as cancelled.

    `grace_s` is a shorter grace period, also for pods that a cancel has begun to end already.
    Gives the job as it was before; one that had ended already is left alone. Raises RequestError.
    """
    from kij_train.cluster.submit import cancel, hasten

    job = _ours(cluster, name, "delete", "delete job {}", uid)
    before = jobs.summary_of(job)
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        return before
    own_s = diagnosis.grace_s(job)
    if grace_s is not None and grace_s > own_s:
        own = units.format_seconds(own_s)
        raise RequestError(
            f"{name} was launched with a grace period of {own}, which Kubernetes lets one shorten "
            "only; nothing was done",
            hints=(
                f"with that one: kij-train cancel {name} -n {cluster.namespace}",
                f"the next launch with a longer one: --grace {grace_s}s",
            ),
        )
    if before.state is not JobState.CANCELLED:
        cancel(cluster, name, before.uid, _queue_of(job))
    if grace_s is not None:
        try:
            hasten(cluster, name, before.uid, grace_s)
        except KijError as error:
            own = f"{name} is cancelled, with its own grace period of {units.format_seconds(own_s)}"
            raise type(error)(f"{own}: {error.message}", hints=error.hints) from error
    return before


def _queue_of(job: Object) -> str | None:
    return (job["metadata"].get("labels") or {}).get(names.QUEUE)


@dataclass(frozen=True)
class Resumed:
    """A job that was let go on."""

    before: JobSummary
    queue: str | None
    """Where it waits again, to be admitted by the queue's controller."""


def resume(cluster: Cluster, name: str) -> Resumed:
    """Let a cancelled or suspended job go on. Raises RequestError for any other one."""
    from kij_train.cluster.submit import resume

    patch = """patch job {} -p '{{"spec":{{"suspend":false}}}}'"""
    job = _ours(cluster, name, "resume", patch)
    before = jobs.summary_of(job)
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise RequestError(
            f"{name} has ended ({before.state.value}), and a Job that has ended never goes on",
            hints=(f"again: kij-train launch --again {name} --replace -n {cluster.namespace}",),
        )
    if before.state not in (JobState.CANCELLED, JobState.SUSPENDED):
        raise RequestError(
            f"{name} is not suspended: it is {before.state.value}",
            hints=(f"see: kij-train status {name} -n {cluster.namespace}",),
        )
    waits_in = _queue_of(job)
    if waits_in is not None:
        raise RequestError(
            f"{name} waits in queue {waits_in}, which starts it when it is admitted",
            hints=(f"what it waits for: kij-train why {name} -n {cluster.namespace}",),
        )
    queue = (job["metadata"].get("annotations") or {}).get(names.CANCELLED_QUEUE)
    resume(cluster, name, before.uid, queue)
    return Resumed(before, queue)


@dataclass(frozen=True)
class Scaled:
    """A job that was given another size."""

    job: JobSummary
    """As it was before."""
    was: int
    """Its size before."""
    unit: str
    """What is counted: nodes, or, of an array, indexes at once."""


def scale(cluster: Cluster, name: str, size: int) -> Scaled:
    """Give an elastic job another number of nodes, or have an array run more or fewer at once.

    Raises RequestError for a job that is neither, and for a number that it does not take.
    """
    job = _ours(cluster, name, "scale", "get job {}")
    before = jobs.summary_of(job)
    if names.ARRAY in (job["metadata"].get("labels") or {}):
        low, high, unit = 1, int(job["spec"]["completions"]), "indexes at once"
        was, changed = int(job["spec"]["parallelism"]), {"parallelism": size}
    else:
        (low, high), unit, was = _range_of(job), "nodes", before.nodes
        # Both at once, or the server refuses.
        changed = {"completions": size, "parallelism": size}
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise RequestError(f"{name} has ended: {before.state.value}")
    if not low <= size <= high:
        raise RequestError(
            f"{name} takes {low} to {high} {unit}, as it was launched: {size} is out of that range"
        )
    if size != was:
        cluster.patch("Job", name, {"metadata": {"uid": before.uid}, "spec": changed})
    return Scaled(before, was, unit)


def _range_of(job: Object) -> tuple[int, int]:
    """Nodes that an elastic job takes, at least and at most. Raises RequestError."""
    name, settings = str(job["metadata"]["name"]), diagnosis.gang_settings(job)
    if settings is not None and settings.low < settings.high:
        return settings.low, settings.pods
    nodes = int(job["spec"].get("completions") or 1) if settings is None else settings.high
    raise RequestError(
        f"{name} was not launched with a range of nodes: it always trains on {nodes} nodes",
        hints=("a job that scales: kij-train launch --restart elastic --nodes MIN:MAX …",),
    )


def delete(cluster: Cluster, name: str, *, uid: str | None = None) -> JobSummary:
    """Remove a job with its pods, Service and code; the logs go too. Gives it as it was.

    Of one that was applied by kubectl too, as far as the user may; else cluster.warnings tell.
    """
    from kij_train.cluster.adopt import adopt_applied

    job = _ours(cluster, name, "delete", "delete job {}", uid)
    adopt_applied(cluster, job)
    before = jobs.summary_of(job)
    cluster.delete("Job", name, uid=before.uid)
    return before
