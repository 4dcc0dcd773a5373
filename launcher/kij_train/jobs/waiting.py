"""Stay until a job has ended: `wait`, and what the Python API waits with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis
from kij_train.diagnosis import JobState, JobView, Verdict
from kij_train.errors import RefusedError, TimedOutError, UnreachableError
from kij_train.jobs.asking import get, pods_of
from kij_train.jobs.status import verdict_on
from kij_train.jobs.summary import summary_of

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

LOOK_S = 60.0
"""Between two looks of `wait` at pods that are not ready."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    job: JobView
    verdict: Verdict

    @property
    def state(self) -> JobState:
        return self.verdict.state

    def as_json(self) -> dict[str, Any]:
        """What `status -o json` says of the Job and its verdict; its pods are left out."""
        summary = replace(summary_of(self.job), state=self.state)
        return {**summary.as_json(), "verdict": diagnosis.as_json(self.verdict)}


def wait(
    cluster: Cluster, name: str, *, timeout_s: float | None = None, note: Callable[[str], None]
) -> JobEnd:
    """Block until a job has ended; gives its verdict. Raises TimedOutError.

    Three requests, and one every 50 s; the pods are asked for at the end, when the job has failed,
    and once a minute while some of them are not ready: those may have ended, held up by containers
    of somebody else's. Then the verdict is what ours have decided.
    """
    from kij_train.cluster.follow import end_if_decided
    from kij_train.cluster.observe import Note, Observation

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    failed_pods = 0
    held = _Held(cluster, name)
    with Observation(cluster, name, job=get(cluster, name), pods=False) as observed:
        for event in observed.events():
            if isinstance(event, Note):
                note(event.text)
            elif observed.job is not None:
                count = observed.job.count("failed")
                if count > failed_pods and observed.job.restarts_by_itself:
                    end_if_decided(cluster, observed.job, pods_of(cluster, name))
                failed_pods = count
                end = held.end(observed.job)
                if end is not None:
                    return end
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOutError(
                    f"{name} has not ended within {timeout_s:.0f} s; it goes on",
                    hints=(f"why: {cluster.address.on_job('why', name)}",),
                )
        job = observed.job
    assert job is not None
    failed = job.state is JobState.FAILED
    return JobEnd(job, verdict_on(cluster, job, pods_of(cluster, name) if failed else []))


class _Held:
    """Looks, now and then, whether other containers keep a job from ending."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._look_at = time.monotonic()
        self._is_held = False

    def end(self, job: JobView) -> JobEnd | None:
        """The end of a job that is held up at two looks in succession."""
        unready = job.count("active") > job.count("ready")
        if not unready or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_S
        try:
            pods = pods_of(self._cluster, self._name)
        except (RefusedError, UnreachableError):
            return None  # without that right, and while nobody answers, the Job's own end counts
        nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
        own = diagnosis.own_end(job, nodes, pods)
        if own is not None and self._is_held:
            at = self._cluster.address
            return JobEnd(job, diagnosis.why(job, pods, (), now=time.time(), end=own, at=at))
        self._is_held = own is not None
        if self._is_held:
            self._look_at = time.monotonic() + diagnosis.HELD_S
        return None
