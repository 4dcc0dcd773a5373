"""What changes a job that is on a cluster: cancel, resume, scale, delete.

Every function takes the cluster and the job's name, asks for the Job, and leaves alone what was not
made by kij-train. Nothing here prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kij_train import jobs, names, units
from kij_train.diagnosis import JobState, JobView
from kij_train.errors import KijError, RefusedError, RequestError
from kij_train.jobs import JobSummary, array_found, packages

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, Submission


DELETE = ("delete", "job", "{}")


def _ours(
    cluster: Cluster, name: str, what: str, instead: tuple[str, ...], uid: str | None = None
) -> JobView:
    """The Job, which must be one of ours; `instead` is what kubectl does to it all the
    same, with {} for the name.

    With `uid` it must be that one: a name can be taken again.
    """
    from kij_train.cluster.apierrors import GoneError

    job = jobs.get(cluster, name)
    if uid is not None and job.uid != uid:
        raise GoneError(f"job {name} is gone: another one of that name has taken its place")
    if not job.is_ours:
        line = cluster.address.kubectl(*(word.format(name) for word in instead))
        raise RefusedError(
            f"job {name} in namespace {cluster.namespace} was not made by kij-train",
            hints=(f"{what} it all the same: {line}",),
        )
    return job


def submission_of(cluster: Cluster, name: str) -> tuple[Submission, JobView]:
    """A job that is there, as `submit` gives one, to follow; and the Job."""
    from kij_train.cluster import Submission

    job = _ours(cluster, name, "follow", ("logs", "-f", "job/{}"))
    return Submission(cluster, job.raw), job


def cancel(
    cluster: Cluster, name: str, *, grace_s: int | None = None, uid: str | None = None
) -> JobSummary:
    """End a job's pods, with their grace period; the Job stays, readable as cancelled.

    `grace_s` is a shorter grace period, also for pods that a cancel has begun to end already.
    Gives the job as it was before; one that had ended already is left alone. Raises RequestError.
    """
    from kij_train.cluster.submit import cancel, hasten

    job = _ours(cluster, name, "delete", DELETE, uid)
    before = jobs.summary_of(job)
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        return before
    own_s = job.grace_s
    if grace_s is not None and grace_s > own_s:
        own = units.format_seconds(own_s)
        raise RequestError(
            f"{name} was launched with a grace period of {own}, which Kubernetes lets one shorten "
            "only; nothing was done",
            hints=(
                f"with that one: {cluster.address.on_job('cancel', name)}",
                f"the next launch with a longer one: --grace {grace_s}s",
            ),
        )
    if before.state is not JobState.CANCELLED:
        _keep_packages(cluster, job)
        cancel(cluster, name, before.uid, job.queue)
    if grace_s is not None:
        try:
            hasten(cluster, name, before.uid, grace_s)
        except KijError as error:
            own = f"{name} is cancelled, with its own grace period of {units.format_seconds(own_s)}"
            raise type(error)(f"{own}: {error.message}", hints=error.hints) from error
    return before


def _keep_packages(cluster: Cluster, job: JobView) -> None:
    """Before the logs of its pods go: keep what they have installed, for when it is resumed."""
    if packages.lock_of(job) is None:
        return
    try:
        packages.known(cluster, job)
    except KijError as error:
        cluster.warnings.append(
            f"what {job.name} has installed is not known any more when it is resumed: "
            f"{error.message}"
        )


@dataclass(frozen=True)
class Resumed:
    """A job that was let go on."""

    before: JobSummary
    queue: str | None
    """Where it waits again, to be admitted by the queue's controller."""


def resume(cluster: Cluster, name: str) -> Resumed:
    """Let a cancelled or suspended job go on. Raises RequestError for any other one."""
    from kij_train.cluster.submit import resume

    patch = ("patch", "job", "{}", "-p", '{{"spec":{{"suspend":false}}}}')
    job = _ours(cluster, name, "resume", patch)
    before = jobs.summary_of(job)
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise RequestError(
            f"{name} has ended ({before.state.value}), and a Job that has ended never goes on",
            hints=(f"again: {cluster.address.command('launch', '--again', name, '--replace')}",),
        )
    if before.state not in (JobState.CANCELLED, JobState.SUSPENDED):
        raise RequestError(
            f"{name} is not suspended: it is {before.state.value}",
            hints=(f"see: {cluster.address.on_job('status', name)}",),
        )
    if job.queue is not None and before.state is not JobState.CANCELLED:
        raise RequestError(
            f"{name} waits in queue {job.queue}, which starts it when it is admitted",
            hints=(f"what it waits for: {cluster.address.on_job('why', name)}",),
        )
    queue = job.queue or job.annotations.get(names.CANCELLED_QUEUE)
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
    job = _ours(cluster, name, "scale", ("get", "job", "{}"))
    before = jobs.summary_of(job)
    if array_found.is_trial(job):
        raise RequestError(
            f"{name} is a trial of {job.completions} pods, which all are needed; how many trials "
            "run at once is decided by the command that starts them",
            hints=(f"see: {cluster.address.command('report', str(job.array))}",),
        )
    if job.array is not None:
        low, high, unit = 1, job.completions, "indexes at once"
        was, changed = job.parallelism, {"parallelism": size}
    else:
        (low, high), unit, was = _range_of(job), "nodes", before.nodes
        changed = {"parallelism": size}
        if not job.reserve:  # both at once, or the server refuses
            changed["completions"] = size
    if before.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise RequestError(f"{name} has ended: {before.state.value}")
    if not low <= size <= high:
        raise RequestError(
            f"{name} takes {low} to {high} {unit}, as it was launched: {size} is out of that range"
        )
    if size != was:
        cluster.patch("Job", name, {"metadata": {"uid": before.uid}, "spec": changed})
    return Scaled(before, was, unit)


def _range_of(job: JobView) -> tuple[int, int]:
    """Nodes that an elastic job takes, at least and at most. Raises RequestError."""
    settings = job.gang_settings
    if settings is not None and settings.low < settings.high:
        return settings.low, settings.pods
    nodes = job.size if settings is None else settings.high
    raise RequestError(
        f"{job.name} was not launched with a range of nodes: it always trains on {nodes} nodes",
        hints=("a job that scales: kij-train launch --restart elastic --nodes MIN:MAX …",),
    )


def delete(cluster: Cluster, name: str, *, uid: str | None = None) -> JobSummary:
    """Remove a job with its pods, Service and code; the logs go too. Gives it as it was.

    Of one that was applied by kubectl too, as far as the user may; else cluster.warnings tell.
    """
    from kij_train.cluster.adopt import adopt_applied

    job = _ours(cluster, name, "delete", DELETE, uid)
    adopt_applied(cluster, job.raw)
    before = jobs.summary_of(job)
    cluster.delete("Job", name, uid=before.uid)
    return before
