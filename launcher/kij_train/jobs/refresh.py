"""A whole array brought up to date: the records of all its attempts that a cluster still has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kij_train import diagnosis, names
from kij_train.arrays.facts import Attempt
from kij_train.arrays.outcomes import State
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, indexes_of
from kij_train.diagnosis import JobState, Object
from kij_train.jobs import overview
from kij_train.jobs.collect import Collector

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

GONE = "been deleted"
ENDS = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "been cancelled",
}
"""How an attempt has ended, after `has`."""


def refresh(
    cluster: Cluster,
    folder: ArrayFolder,
    *,
    partial: bool = False,
    note: Callable[[str], None],
) -> Live:
    """Bring the folder of an array up to date; what its indexes do now.

    With `partial`, also what items have written whose indexes run. An attempt whose Job is gone
    keeps what the folder has of it. Raises UnreachableError, RefusedError.
    """
    from kij_train.jobs import array_found

    there = {}
    if not _is_over(folder):
        there = array_found.attempts_of(cluster, folder.name)
        array_found.add_attempts(cluster, folder, there)
    live: dict[int, dict[int, State]] = {}
    for attempt in folder.attempts():
        job = there.get(attempt.number)
        if job is not None and str(job["metadata"]["uid"]) != attempt.uid:
            job = None  # of a later array of that name
        live[attempt.number] = _refresh_attempt(cluster, folder, attempt, job, partial, note)
    return live


def _is_over(folder: ArrayFolder) -> bool:
    """Whether all attempts have ended with all their records here: no cluster knows more."""
    plan = folder.plan()
    return all(
        attempt.state and len(folder.parts(attempt.number).whole) >= len(indexes_of(attempt, plan))
        for attempt in folder.attempts()
    )


def _refresh_attempt(
    cluster: Cluster,
    folder: ArrayFolder,
    attempt: Attempt,
    job: Object | None,
    partial: bool,
    note: Callable[[str], None],
) -> dict[int, State]:
    with Collector(cluster, folder, attempt) as collector:
        if attempt.state and collector.is_whole:
            return {}
        if job is None:
            if not collector.is_whole and attempt.state != GONE:
                note(f"job {attempt.job} is gone, and with it what was not collected of it")
            folder.end_attempt(attempt.number, attempt.state or GONE)
            return {}
        view = diagnosis.JobView(job)
        state = view.state
        collector.take_job(job)
        for pod in _pods(cluster, view, collector, all_whole=partial):
            collector.take(pod)
        collector.drain(unfinished=partial or state.ended)
        if state.ended:
            folder.end_attempt(attempt.number, ENDS[state])
            return {}
        return collector.live()


def _pods(
    cluster: Cluster, job: diagnosis.JobView, collector: Collector, *, all_whole: bool
) -> Iterator[Object]:
    """The pods of an attempt, as far as they have anything new."""
    if overview.is_large(job) and not all_whole:
        yield from overview.news(cluster, job.name, collector.needs)
        return
    for page in cluster.pages("Pod", labelSelector=f"{names.LABEL_JOB_NAME}={job.name}"):
        yield from page.get("items") or []
