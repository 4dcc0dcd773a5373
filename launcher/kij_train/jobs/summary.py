"""What Jobs say by themselves, without their pods: the rows of `list`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import gpus, names
from kij_train.diagnosis import JobState, JobView

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


@dataclass(frozen=True)
class JobSummary:
    """What a Job says without its pods."""

    name: str
    namespace: str
    uid: str
    state: JobState
    created: str
    started: str | None
    ended: str | None
    nodes: int
    gpus: int
    """Of all nodes."""
    restarts: int
    """Pods that have failed and were replaced, as far as the Job counts them."""
    spares: int
    """Of `nodes`, those that stand by when all are there."""
    ready: int
    """Nodes that run; of a job that restarts, those that train."""

    def identity(self) -> dict[str, str]:
        """Which job it is, for scripts."""
        return {"name": self.name, "namespace": self.namespace, "uid": self.uid}

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            **self.identity(),
            "state": self.state.value,
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "nodes": self.nodes,
            "spares": self.spares,
            "ready": self.ready,
            "gpus": self.gpus,
            "restarts": self.restarts,
        }


def summary_of(job: JobView) -> JobSummary:
    """From the Job alone."""
    state, nodes, settings = job.state, job.completions, job.gang_settings
    return JobSummary(
        name=job.name,
        namespace=job.namespace,
        uid=job.uid,
        state=state,
        created=job.created,
        started=job.started,
        ended=job.ended,
        nodes=nodes,
        gpus=nodes * _gpus_per_node(job),
        restarts=0 if state is JobState.FAILED else job.count("failed"),
        spares=0 if settings is None else max(nodes - settings.high, 0),
        ready=job.count("ready"),
    )


def _gpus_per_node(job: JobView) -> int:
    """GPUs of any kind; a MIG slice and a share of a GPU count as one."""
    counted = sum(
        int(count)
        for resource, count in job.limits.items()
        if gpus.of_resource(resource) is not None
    )
    # How many a claim is for stands in its template; a rank drives one GPU.
    claimed = job.ranks_per_node if gpus.CLAIM in job.claims else 0
    return counted + claimed


def list_jobs(
    cluster: Cluster, *, everywhere: bool = False, labels: Mapping[str, str] | None = None
) -> list[JobSummary]:
    """The jobs of kij-train in the namespace, or in all, newest first; no request a job.

    `labels` are those that they must have.
    """
    wanted = {**(labels or {}), names.LABEL_MANAGED_BY: names.MANAGER}
    selector = ",".join(f"{key}={value}" for key, value in wanted.items())
    jobs = map(JobView, cluster.list("Job", everywhere=everywhere, labelSelector=selector))
    return sorted(map(summary_of, jobs), key=lambda one: one.created, reverse=True)
