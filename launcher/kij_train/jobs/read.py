"""A job that is on a cluster: status, logs, why, wait, list.

Every function takes the cluster and the job's name, and asks for what it needs: one request for the
Job, one for 500 pods or events. Nothing here prints.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, gpus, names
from kij_train.diagnosis import JobState, Node, Phase, Verdict
from kij_train.errors import (
    RefusedError,
    RequestError,
    TimedOutError,
    UnreachableError,
    no_such_index,
)
from kij_train.pod import contract

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogChoice, LogLine
    from kij_train.pod.gang import History

Object = dict[str, Any]
ABOUT_LOCAL = (
    "a run with --local is in no cluster: its output and verdict are where it was started, and "
    "Ctrl-C or kill ends it"
)
MOST_ASKED = 8
"""Indexes whose last log line `why` reads."""
LOOK_S = 60.0
"""Between two looks of `wait` at pods that are not ready."""
ACCOUNTS_S = 5.0
"""How long a pod may take to say what the time was spent on."""


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands."""

    job: Object
    nodes: list[Node]
    """Every completion index."""
    restarts: Mapping[int, int]
    """Pods that an index had before its newest, as far as they are still there."""
    verdict: Verdict

    @property
    def state(self) -> JobState:
        return self.verdict.state

    def as_json(self) -> dict[str, Any]:
        """The stable form of `status -o json`; times are RFC 3339, as Kubernetes has them."""
        summary = summary_of(self.job)
        return {
            **summary.as_json(),
            "ranksPerNode": diagnosis.ranks_per_node(self.job),
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
                    "restarts": self.restarts.get(node.index, 0),
                }
                for node in self.nodes
            ],
            "verdict": diagnosis.as_json(self.verdict),
        }


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    job: Object
    verdict: Verdict

    @property
    def state(self) -> JobState:
        return self.verdict.state

    def as_json(self) -> dict[str, Any]:
        """What `status -o json` says of the Job and its verdict; its pods are left out."""
        return {**summary_of(self.job).as_json(), "verdict": diagnosis.as_json(self.verdict)}


def _rfc3339(epoch_s: float | None) -> str | None:
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def summary_of(job: Object) -> JobSummary:
    """From the Job alone."""
    status, spec = job.get("status", {}), job["spec"]
    state = diagnosis.job_state(job)
    nodes = int(spec.get("completions") or 1)
    settings = diagnosis.gang_settings(job)
    ended = diagnosis.terminal_condition(job)
    failed = int(status.get("failed") or 0)
    return JobSummary(
        name=str(job["metadata"]["name"]),
        namespace=str(job["metadata"]["namespace"]),
        uid=str(job["metadata"]["uid"]),
        state=state,
        created=str(job["metadata"]["creationTimestamp"]),
        started=status.get("startTime"),
        ended=None if ended is None else ended.get("lastTransitionTime"),
        nodes=nodes,
        gpus=nodes * _gpus_per_node(job),
        restarts=0 if state is JobState.FAILED else failed,
        spares=0 if settings is None else max(nodes - settings.high, 0),
        ready=int(status.get("ready") or 0),
    )


def _gpus_per_node(job: Object) -> int:
    """GPUs of any kind; a MIG slice and a share of a GPU count as one."""
    resources = diagnosis.own_container(job).get("resources") or {}
    counted = sum(
        int(count)
        for resource, count in (resources.get("limits") or {}).items()
        if gpus.of_resource(resource) is not None
    )
    claims = [claim.get("name") for claim in resources.get("claims") or []]
    # How many a claim is for stands in its template; a rank drives one GPU.
    claimed = diagnosis.ranks_per_node(job) if gpus.CLAIM in claims else 0
    return counted + claimed


# --- asking ---------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name of a job that somebody asks about, of whoever made it. Raises RequestError."""
    try:
        return names.check_object_name(name)
    except ValueError:
        unset = () if name else ("is a variable empty or not set?",)
        raise RequestError(
            f"{name!r} is no job name", hints=(*unset, "see what there is: kij-train list")
        ) from None


def get(cluster: Cluster, name: str) -> Object:
    """The Job. Raises UnreachableError when there is none."""
    from kij_train.cluster.apierrors import GoneError

    try:
        return cluster.get("Job", name)
    except GoneError:
        flags = f" -n {cluster.namespace}"
        raise GoneError(
            f"namespace {cluster.namespace} has no job {name}",
            hints=(
                f"see what there is: kij-train list{flags}, or -A for all namespaces",
                ABOUT_LOCAL,
            ),
        ) from None


def pods_of(cluster: Cluster, name: str, index: int | None = None) -> list[Object]:
    """The pods of a job, or of one index, oldest first, cut to what diagnosis reads."""
    selector = f"{names.LABEL_JOB_NAME}={name}"
    if index is not None:
        selector += f",{names.COMPLETION_INDEX}={index}"
    pages = cluster.pages("Pod", labelSelector=selector)
    pods = [diagnosis.trimmed(pod) for page in pages for pod in page.get("items") or []]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def events_of(cluster: Cluster, name: str) -> list[Mapping[str, Any]]:
    """The events of a job and its pods, those that are gone included, oldest first."""
    ours = re.compile(rf"{re.escape(name)}(-\d+-[a-z0-9]{{5}})?")
    found = [
        event
        for event in cluster.list("Event")
        if event["involvedObject"].get("kind") in ("Job", "Pod")
        and ours.fullmatch(str(event["involvedObject"].get("name")))
    ]
    return diagnosis.sorted_events(found)


def why(cluster: Cluster, name: str) -> Verdict:
    """Why a job is as it is."""
    job = get(cluster, name)
    return _why(cluster, job, pods_of(cluster, name))


def status(cluster: Cluster, name: str) -> JobStatus:
    """Where every index stands, and the verdict."""
    job = get(cluster, name)
    pods = pods_of(cluster, name)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    restarts = {i: n - 1 for i, n in Counter(map(diagnosis.index_of, pods)).items()}
    return JobStatus(job, nodes, restarts, _why(cluster, job, pods))


def _why(cluster: Cluster, job: Object, pods: list[Object]) -> Verdict:
    verdict = _cause(cluster, job, pods)
    if not diagnosis.restarts_by_itself(job):
        return verdict
    if verdict.state.ended:
        return replace(verdict, accounts=diagnosis.accounts_at_the_end(pods))
    return replace(verdict, accounts=_accounts_now(cluster, job, pods))


def _accounts_now(cluster: Cluster, job: Object, pods: list[Object]) -> History | None:
    """Asked in a pod that trains, one request; None where none does, or without that right."""
    from kij_train.cluster.execute import ask

    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    there = [str(node.pod) for node in nodes if node.phase is Phase.RUNNING]
    command = ["sh", "-c", f"cat {contract.ACCOUNTS_FILE} && echo && date +%s"]
    for answer in ask(cluster, there[:1], command, timeout_s=ACCOUNTS_S):
        said, _, now = answer.out.strip().rpartition("\n")
        if answer.code == 0 and now.isdigit():
            return diagnosis.accounts_now(said, float(now))
    return None


def _cause(cluster: Cluster, job: Object, pods: list[Object]) -> Verdict:
    state, now = diagnosis.job_state(job), time.time()
    name = str(job["metadata"]["name"])
    if state in (JobState.SUCCEEDED, JobState.CANCELLED):
        return diagnosis.why(job, pods, (), now=now)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    well = {node.phase for node in nodes} <= {Phase.RUNNING, Phase.DONE} and not any(
        map(diagnosis.is_out_of_touch, pods)
    )
    if state is not JobState.FAILED and well:
        lines = _last_lines(cluster, nodes)
        return diagnosis.why(job, pods, (), now=now, last_lines=lines)
    events = events_of(cluster, name)
    unfit = any(event.get("reason") == "FailedScheduling" for event in events)
    machines = _machines(cluster) if unfit else ()
    return diagnosis.why(job, pods, events, now=now, machines=machines)


def _machines(cluster: Cluster) -> list[Object]:
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


def _last_lines(cluster: Cluster, nodes: list[Node]) -> dict[int, tuple[float, str]]:
    """When some running indexes spoke last, and what; index 0 and others evenly, a request each."""
    from kij_train.cluster.logs import LogChoice, Reader

    running = [node for node in nodes if node.phase is Phase.RUNNING and node.pod]
    found = {}
    for node in running[:: max(1, -(-len(running) // MOST_ASKED))]:
        try:
            reader = Reader(cluster, str(node.pod), node.index, LogChoice(tail=1))
            lines = list(reader.read(follow=False))
        except (RefusedError, UnreachableError):
            continue
        at = diagnosis.epoch(lines[-1].time) if lines else None
        if at is not None:
            found[node.index] = (at, lines[-1].text)
    return found


def list_jobs(
    cluster: Cluster, *, everywhere: bool = False, labels: Mapping[str, str] | None = None
) -> list[JobSummary]:
    """The jobs of kij-train in the namespace, or in all, newest first; no request a job.

    `labels` are those that they must have.
    """
    wanted = {**(labels or {}), names.LABEL_MANAGED_BY: names.MANAGER}
    selector = ",".join(f"{key}={value}" for key, value in wanted.items())
    jobs = cluster.list("Job", everywhere=everywhere, labelSelector=selector)
    return sorted(map(summary_of, jobs), key=lambda one: one.created, reverse=True)


# --- staying --------------------------------------------------------------------------------------


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
                count = int(observed.job.get("status", {}).get("failed") or 0)
                if count > failed_pods and diagnosis.restarts_by_itself(observed.job):
                    end_if_decided(cluster, observed.job, pods_of(cluster, name))
                failed_pods = count
                end = held.end(observed.job)
                if end is not None:
                    return end
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOutError(
                    f"{name} has not ended within {timeout_s:.0f} s; it goes on",
                    hints=(f"why: kij-train why {name} -n {cluster.namespace}",),
                )
        job = observed.job
    assert job is not None
    failed = diagnosis.job_state(job) is JobState.FAILED
    return JobEnd(job, _why(cluster, job, pods_of(cluster, name) if failed else []))


class _Held:
    """Looks, now and then, whether other containers keep a job from ending."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._look_at = time.monotonic()
        self._is_held = False

    def end(self, job: Object) -> JobEnd | None:
        """The end of a job that is held up at two looks in succession."""
        status = job.get("status", {})
        unready = int(status.get("active") or 0) > int(status.get("ready") or 0)
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
            return JobEnd(job, diagnosis.why(job, pods, (), now=time.time(), end=own))
        self._is_held = own is not None
        if self._is_held:
            self._look_at = time.monotonic() + diagnosis.HELD_S
        return None


def logs(
    cluster: Cluster,
    name: str,
    *,
    indexes: Set[int] | None,
    choice: LogChoice,
    follow: bool = False,
    previous: bool = False,
    note: Callable[[str], None],
) -> Iterator[LogLine]:
    """Lines of the logs of some indexes (None: all) in the order of time.

    With `follow`, until the job ends, waiting for pods that do not run yet, and going on with those
    that replace them. `previous` is the log of the pod before the newest. `note` hears of what has
    no log. Raises RequestError for an index that the job does not have.
    """
    from kij_train.cluster.logs import MOST_STREAMS, LogLine, merged
    from kij_train.cluster.observe import Note, Observation

    job = get(cluster, name)
    nodes = int(job["spec"].get("completions") or 1)
    wrong = [index for index in indexes or () if not 0 <= index < nodes]
    if wrong:
        raise no_such_index(name, wrong[0], nodes)
    if len(indexes or range(nodes)) > MOST_STREAMS:
        raise RequestError(
            f"{name} has {nodes} nodes; logs of at most {MOST_STREAMS} can be read at once",
            hints=("choose: --index 0 --index 7",),
        )
    if follow and not diagnosis.job_state(job).ended:
        with Observation(
            cluster, name, job=job, log_indexes=indexes, log_choice=choice
        ) as observed:
            for event in observed.events():
                if isinstance(event, Note):
                    note(event.text)
                elif isinstance(event, LogLine):
                    yield event
        return
    only = next(iter(indexes)) if indexes is not None and len(indexes) == 1 else None
    by_index: dict[int, list[Object]] = {}
    for pod in pods_of(cluster, name, only):
        by_index.setdefault(diagnosis.index_of(pod), []).append(pod)
    wanted = sorted(indexes) if indexes is not None else range(nodes)
    chosen, by_name = [], {}
    for index in wanted:
        pods = by_index.get(index, [])[: -1 if previous else None]
        if pods:
            chosen.append((index, str(pods[-1]["metadata"]["name"])))
            by_name[chosen[-1][1]] = pods[-1]
        elif indexes is not None or previous:
            what = "no earlier pod" if previous else "no pod any more, or none yet"
            note(f"index {index} has {what}: kij-train why {name} -n {cluster.namespace}")
    yield from merged(cluster, chosen, choice, note, by_name)
