"""Where a job stands, and why: from its pods, events, last lines, and the cluster's machines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis
from kij_train.diagnosis import JobState, JobView, Node, Phase, Verdict
from kij_train.errors import RefusedError, UnreachableError
from kij_train.jobs import overview
from kij_train.jobs.asking import events_of, get, pods_of, queue_of
from kij_train.jobs.summary import summary_of
from kij_train.pod import contract

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.pod.gang import History

MOST_ASKED = 8
"""Indexes whose last log line `why` reads."""
MOST_ASKED_ACCOUNTS = 2
"""Pods that are asked what the time was spent on: one may be lost, which is not known yet."""
ACCOUNTS_S = 5.0
"""How long a pod may take to say what the time was spent on."""


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands."""

    job: JobView
    nodes: list[Node]
    """Every index, but for a reserve that is not needed."""
    replaced: Mapping[int, int]
    """Pods that an index had before its newest, as far as they are still there."""
    verdict: Verdict
    items: tuple[int, int] | None = None
    """Of an array, those that are done and that have failed, as far as indexes have ended."""

    @property
    def state(self) -> JobState:
        return self.verdict.state

    def as_json(self) -> dict[str, Any]:
        """The stable form of `status -o json`; times are RFC 3339, as Kubernetes has them."""
        return {
            **replace(summary_of(self.job), state=self.state).as_json(),
            "ranksPerNode": self.job.ranks_per_node,
            "phases": {phase.value: count for phase, count in diagnosis.phases(self.nodes).items()},
            "indexes": [
                {
                    "index": node.index,
                    "phase": node.phase.value,
                    "pod": node.pod,
                    "node": node.node,
                    "reason": node.reason,
                    "exitCode": node.exit_code,
                    "created": _rfc3339(node.created),
                    "since": _rfc3339(node.since),
                    "restarts": self.replaced.get(node.index, 0),
                }
                for node in self.nodes
            ],
            "verdict": diagnosis.as_json(self.verdict),
            **self._items_as_json(),
        }

    def _items_as_json(self) -> dict[str, Any]:
        if self.items is None:
            return {}
        return {"items": {"done": self.items[0], "failed": self.items[1]}}


def _rfc3339(epoch_s: float | None) -> str | None:
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def why(cluster: Cluster, name: str) -> Verdict:
    """Why a job is as it is."""
    job = get(cluster, name)
    return verdict_on(cluster, job, pods_of(cluster, name))


def status(cluster: Cluster, name: str, *, glance: bool = False) -> JobStatus:
    """Where every index stands, and the verdict.

    With `glance`, of an array of thousands only what a glance at its pods tells: which machine and
    since when is known of those in trouble alone, and how many items are done is not.
    """
    job = get(cluster, name)
    if not (glance and overview.is_large(job)):
        return status_of(cluster, job, pods_of(cluster, name))
    return replace(status_of(cluster, job, overview.glance(cluster, name)), items=None)


def status_of(cluster: Cluster, job: JobView, pods: list[dict[str, Any]]) -> JobStatus:
    """Where every index of a job with these pods stands, and the verdict."""
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    replaced = {i: n - 1 for i, n in Counter(map(diagnosis.index_of, pods)).items()}
    items = None if job.array is None else diagnosis.items_of(pods)
    return JobStatus(job, nodes, replaced, verdict_on(cluster, job, pods), items)


def verdict_on(cluster: Cluster, job: JobView, pods: list[dict[str, Any]]) -> Verdict:
    """Why a job with these pods is as it is; what more that takes is asked for."""
    verdict = cause_of(cluster, job, pods)
    if not job.restarts_by_itself:
        return verdict
    if verdict.state.ended:
        return replace(verdict, accounts=diagnosis.accounts_at_the_end(pods))
    accounts = _accounts_now(cluster, job, pods)
    if accounts is None:
        return verdict
    failed = diagnosis.of_rounds(job, accounts, now=time.time(), at=cluster.address)
    return replace(verdict, accounts=accounts, findings=(*verdict.findings, *failed))


def _accounts_now(cluster: Cluster, job: JobView, pods: list[dict[str, Any]]) -> History | None:
    """Asked in pods that train, else in those that stand by; None without any, or that right."""
    from kij_train.cluster.execute import ask

    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    phases = (Phase.RUNNING, Phase.STANDBY)
    there = [str(node.pod) for phase in phases for node in nodes if node.phase is phase]
    command = ["sh", "-c", f"cat {contract.ACCOUNTS_FILE} && echo && date +%s"]
    for answer in ask(cluster, there[:MOST_ASKED_ACCOUNTS], command, timeout_s=ACCOUNTS_S):
        said, _, now = answer.out.strip().rpartition("\n")
        if answer.code == 0 and now.isdigit():
            return diagnosis.accounts_now(said, float(now))
    return None


def cause_of(cluster: Cluster, job: JobView, pods: list[dict[str, Any]]) -> Verdict:
    """The verdict, without what the time was spent on, which pods would be asked for."""
    state, now = job.state, time.time()
    if state in (JobState.SUCCEEDED, JobState.CANCELLED):
        return diagnosis.why(job, pods, (), now=now, at=cluster.address)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    well = {node.phase for node in nodes} <= {Phase.RUNNING, Phase.DONE, Phase.LOST} and not any(
        map(diagnosis.is_out_of_touch, pods)
    )
    if state is not JobState.FAILED and well:
        lines = _last_lines(cluster, nodes, str(job.container["name"]))
        return diagnosis.why(job, pods, (), now=now, last_lines=lines, at=cluster.address)
    events = events_of(cluster, job.name)
    if state is JobState.SUSPENDED and job.queue is not None:
        queue = queue_of(cluster, job)
        return diagnosis.why(job, pods, events, now=now, queue=queue, at=cluster.address)
    unfit = any(event.get("reason") == "FailedScheduling" for event in events)
    machines = _machines(cluster) if unfit else ()
    return diagnosis.why(job, pods, events, now=now, machines=machines, at=cluster.address)


def _machines(cluster: Cluster) -> list[dict[str, Any]]:
    """The cluster's nodes, with what is free on them, as far as the user may know."""
    try:
        machines = cluster.list("Node")
    except (RefusedError, UnreachableError):
        return []
    going = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
    try:
        pages = cluster.pages("Pod", everywhere=True, fieldSelector=going)
        pods = (pod for page in pages for pod in page.get("items") or [])
        return diagnosis.with_free(machines, pods)
    except (RefusedError, UnreachableError):
        return machines


def _last_lines(
    cluster: Cluster, nodes: list[Node], container: str
) -> dict[int, tuple[float, str]]:
    """When some running indexes spoke last, and what; index 0 and others evenly, a request each."""
    from kij_train.cluster.logs import LogChoice, Reader

    running = [node for node in nodes if node.phase is Phase.RUNNING and node.pod]
    asked = running[:: max(1, -(-len(running) // MOST_ASKED))]

    def ask(node: Node) -> tuple[int, float, str] | None:
        choice = LogChoice(tail=1, container=container)
        try:
            lines = list(Reader(cluster, str(node.pod), node.index, choice).read(follow=False))
        except (RefusedError, UnreachableError):
            return None
        at = diagnosis.epoch(lines[-1].time) if lines else None
        return None if at is None else (node.index, at, lines[-1].text)

    # At once: a machine that does not answer takes seconds.
    with ThreadPoolExecutor(MOST_ASKED, thread_name_prefix="log") as pool:
        answers = list(pool.map(ask, asked))
    return {one[0]: one[1:] for one in answers if one is not None}
