"""What Jobs say by themselves, without their pods: the rows of `list`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, gpus, names
from kij_train.diagnosis import JobState, JobView, Node
from kij_train.errors import RefusedError, UnreachableError

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MOST_NAMED = 50
"""Jobs whose names a request has: with more, its URL would be long."""


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
    reserve: int
    """Pods that may be lost in its life, where indexes in reserve take their places."""
    reserve_left: int
    """How many more."""

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
            "reserve": self.reserve,
            "reserveLeft": self.reserve_left,
        }


def summary_of(job: JobView) -> JobSummary:
    """From the Job alone."""
    state, nodes, at_once = job.state, job.size, job.at_once
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
        spares=max(nodes - at_once, 0),
        ready=min(job.count("ready"), at_once),  # a lost pod counts for some seconds more
        reserve=job.reserve,
        reserve_left=job.reserve_left,
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
    """The jobs of kij-train in the namespace, or in all, newest first.

    `labels` are those that they must have. One request for 500 jobs; one more for each MOST_NAMED
    jobs that have pods of which none is ready: these may have done their work, and be held up by
    containers of somebody else's.
    """
    wanted = {**(labels or {}), names.LABEL_MANAGED_BY: names.MANAGER}
    selector = ",".join(f"{key}={value}" for key, value in wanted.items())
    found = list(map(JobView, cluster.list("Job", everywhere=everywhere, labelSelector=selector)))
    nodes = _running_nodes(cluster, found, everywhere)
    summaries = [
        replace(summary_of(job), state=diagnosis.state_with(job, nodes.get(job.uid, ())))
        for job in found
    ]
    return sorted(summaries, key=lambda one: one.created, reverse=True)


def _running_nodes(
    cluster: Cluster, jobs: Iterable[JobView], everywhere: bool
) -> dict[str, list[Node]]:
    """Of jobs that count as pending with pods, those whose pods run, by the job's uid.

    None without the right to see pods.
    """
    unready = [job for job in jobs if job.state is JobState.PENDING and job.count("active")]
    found: dict[str, list[Node]] = {}
    for start in range(0, len(unready), MOST_NAMED):
        some = ",".join(job.name for job in unready[start : start + MOST_NAMED])
        try:
            pods = cluster.list(
                "Pod",
                everywhere=everywhere,
                labelSelector=f"{names.LABEL_JOB_NAME} in ({some})",
                fieldSelector="status.phase=Running",
            )
        except (RefusedError, UnreachableError):
            return {}
        for pod in pods:
            uid = str(pod["metadata"]["labels"].get(names.CONTROLLER_UID))
            found.setdefault(uid, []).append(diagnosis.node_of(pod))
    return found
