"""Apps as plain Jobs. What is asked of a cluster is asked by `jobs` and `runs`, as for the CLI."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Stream
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus

from kij_train import api, diagnosis, jobs, names, runs
from kij_train.diagnosis import JobState, JobView, Phase
from kij_train.diagnosis.tracebacks import first_traceback
from kij_train.errors import RefusedError, RequestError, UnreachableError
from kij_train.jobs import change
from kij_train.pod.contract import WORK_DIR
from kij_train.render.text import to_yaml
from kij_train.specfile import Layer, Location, Origin, resolve
from kij_train.torchx_scheduler import roles
from kij_train.torchx_scheduler.base import (
    BaseScheduler,
    Config,
    check_streams,
    no_role,
    state_of_app,
)
from kij_train.torchx_scheduler.errors import refuses_as_torchx, refusing

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

_log = logging.getLogger(__name__)

WHERE = ("namespace", "context", "kubeconfig")
MOST_REPLICAS = 256
"""Of apps with more, `describe` gives no states of replicas: TorchX asks every second."""
LOG_LINES = 400
"""From the end of a failed replica's log, in which its traceback is looked for."""
OUTAGE_S = 300.0
"""For so long `describe` answers with what was last known when the API server is away."""
REPLICA_STATES = {
    Phase.RUNNING: AppState.RUNNING,
    Phase.ENDING: AppState.RUNNING,
    Phase.DONE: AppState.SUCCEEDED,
    Phase.FAILED: AppState.FAILED,
    Phase.ENDED: AppState.CANCELLED,
}


@dataclass
class JobRequest:
    """One role of an app."""

    role: str
    name: str
    objects: list[dict[str, Any]] = field(repr=False)
    """As they will be sent, the Job last."""


@dataclass
class Request:
    """What `schedule` submits; the objects may be changed before."""

    app_id: str
    where: dict[str, str]
    """namespace, context and kubeconfig, as far as they were said."""
    jobs: list[JobRequest]

    def __str__(self) -> str:
        return to_yaml(body for job in self.jobs for body in job.objects)


class KijTrainScheduler(BaseScheduler):
    """Runs a role as an Indexed Job with a headless Service. Needs nothing in the cluster."""

    def __init__(self, session_name: str) -> None:
        super().__init__("kij_train", session_name)
        self._clusters: dict[str, Cluster] = {}
        self._last: dict[str, tuple[float, DescribeAppResponse]] = {}

    def _host(self, name: str) -> str:
        return name

    def _image_root(self, role: Role) -> str:
        return f"{WORK_DIR}/code" if roles.WORKSPACE in role.metadata else ""

    @refuses_as_torchx
    def _submit_dryrun(self, app: AppDef, cfg: Config) -> AppDryRunInfo:
        app_id, found = self._resolved(app, cfg)
        requests = []
        for index, resolved in enumerate(found):
            plan = runs.plan(resolved, cwd=Path.cwd(), place=runs.OnCluster())
            for note in plan.archive.notes if plan.archive else ():
                _log.warning(note)
            objects = plan.objects()
            roles.mark(objects, app, index, app_id)
            requests.append(JobRequest(app.roles[index].name, plan.name, objects))
        spec = found[0].spec
        where = {
            key: value
            for key in ("namespace", "context", "kubeconfig")
            if (value := getattr(spec, key)) is not None
        }
        return AppDryRunInfo(Request(app_id, where, requests), str)

    @refuses_as_torchx
    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        """Create the Jobs of all roles, or none. Gives namespace:app."""
        request: Request = dryrun_info.request
        where = api.job(**request.where)
        backend = runs.OnCluster()
        cluster, user = backend.cluster(where), runs.user_of(where)
        made = []
        try:
            for job in request.jobs:
                made.append(backend.submit(cluster, job.objects, user))
        except BaseException:
            for run in made:
                run.delete()
            raise
        for warning in backend.warnings:
            _log.warning(warning)
        self._clusters[cluster.namespace] = cluster
        return f"{cluster.namespace}:{request.app_id}"

    def _cluster(self, namespace: str | None = None, cfg: Config | None = None) -> Cluster:
        """From this session, or as -cfg, .torchxconfig, KIJ_* and the project file say."""
        if namespace is not None and namespace in self._clusters:
            return self._clusters[namespace]
        from torchx.runner import config

        options = dict(cfg or {})
        config.apply(scheduler=self.backend, cfg=options)
        wanted = {**options, "namespace": namespace or options.get("namespace")}
        values = {key: wanted[key] for key in WHERE if wanted.get(key)}
        origins: dict[Location, Origin] = {
            (key,): Origin(f"-cfg {key}", names_value=True) for key in values
        }
        layer = Layer(values, origins)
        spec = resolve(layer, environ=os.environ, cwd=Path.cwd()).spec
        cluster = runs.connect(spec)
        self._clusters[cluster.namespace] = cluster
        return cluster

    def _find(self, app_id: str) -> tuple[Cluster, list[JobView]]:
        """The Jobs of an app, in the order of its roles; none where there is no such app."""
        namespace, _, name = app_id.rpartition(":")
        cluster = self._cluster(namespace or None)
        found = cluster.list("Job", labelSelector=f"{names.APP}={name}")
        if not found:
            selector = f"metadata.name={name}"
            found = cluster.list("Job", fieldSelector=selector)
        return cluster, sorted(map(JobView, found), key=roles.role_index_of)

    @refuses_as_torchx
    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """State, roles and replicas, and why it failed; None where there is no such app."""
        try:
            cluster, found = self._find(app_id)
            response = self._described(app_id, cluster, found) if found else None
        except UnreachableError:
            known = self._last.get(app_id)
            if known is None or time.monotonic() - known[0] > OUTAGE_S:
                raise
            return known[1]
        if response is not None:
            self._last[app_id] = (time.monotonic(), response)
        return response

    def _described(
        self, app_id: str, cluster: Cluster, found: list[JobView]
    ) -> DescribeAppResponse:
        pods = {
            job.uid: jobs.pods_of(cluster, job.name) for job in found if job.size <= MOST_REPLICAS
        }
        states = [_state_of(job, pods.get(job.uid, ())) for job in found]
        response = DescribeAppResponse(
            app_id=app_id,
            state=state_of_app(states),
            num_restarts=sum(jobs.summary_of(job).restarts for job in found),
            msg="",
            roles=[roles.role_of(job) for job in found],
        )
        for job, state in zip(found, states, strict=True):
            name = job.name
            if state is JobState.FAILED:
                response.msg = jobs.why(cluster, name).text() + _traceback(cluster, name)
                log = cluster.address.on_job("logs", name, "--all")
                response.msg += f"\n\n  log: {log}"
            elif response.state is AppState.FAILED and not state.ended:
                response.msg += f"\n  it goes on: {cluster.address.on_job('cancel', name)}"
            if job.uid in pods:
                replicas = _replicas(job, pods[job.uid])
                response.roles_statuses.append(RoleStatus(roles.role_name_of(job), replicas))
        return response

    @refuses_as_torchx
    def list(self, cfg: Config | None = None) -> Sequence[ListAppResponse]:
        """The apps of the namespace, newest first, those that kij-train launch made included."""
        cluster = self._cluster(cfg=cfg)
        selector = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
        found = map(JobView, cluster.list("Job", labelSelector=selector))
        apps: dict[str, list[JobState]] = {}
        for job in sorted(found, key=lambda job: job.created, reverse=True):
            apps.setdefault(roles.app_id_of(job), []).append(job.state)
        return [
            ListAppResponse(app_id=f"{cluster.namespace}:{name}", state=state_of_app(states))
            for name, states in apps.items()
        ]

    @refuses_as_torchx
    def _cancel_existing(self, app_id: str) -> None:
        cluster, found = self._find(app_id)
        for job in found:
            change.cancel(cluster, job.name)

    @refuses_as_torchx
    def _delete_existing(self, app_id: str) -> None:
        cluster, found = self._find(app_id)
        for job in found:
            change.delete(cluster, job.name)

    @refuses_as_torchx
    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """Lines of one replica; with `should_tail`, until the job ends, replaced pods included."""
        from kij_train.cluster import LogChoice

        check_streams(streams)
        cluster, found = self._find(app_id)
        by_role = {roles.role_name_of(job): job for job in found}
        job = by_role.get(role_name)
        if job is None:
            raise RequestError(no_role(app_id, role_name, by_role))
        since_s = None if since is None else max(1, int(time.time() - since.timestamp()))
        lines = jobs.logs(
            cluster,
            job.name,
            indexes={k},
            choice=LogChoice(since_s=since_s),
            follow=should_tail,
            note=_log.warning,
        )
        end = None if until is None else until.timestamp()
        return refusing(
            f"{line.text}\n"
            for line in lines
            if (regex is None or re.search(regex, line.text))
            and (end is None or (diagnosis.epoch(line.time) or 0) <= end)
        )


def _traceback(cluster: Cluster, name: str) -> str:
    """The traceback in the log of the pod that failed first, where it left no record of one."""
    from kij_train.cluster import LogChoice
    from kij_train.cluster.logs import Reader

    first = diagnosis.first_failure(diagnosis.failures_of_pods(jobs.pods_of(cluster, name)))
    if first is None or first.callstack or first.pod is None:
        return ""
    try:
        read = Reader(cluster, first.pod, first.index, LogChoice(tail=LOG_LINES)).read(follow=False)
        found = first_traceback(line.text for line in read)
    except (RefusedError, UnreachableError):
        return ""
    return "".join(f"\n    {line}" for line in ["", *found]) if found else ""


def _state_of(job: JobView, pods: Sequence[dict[str, Any]]) -> JobState:
    """Of a job whose pods are held up by containers of somebody else's: what ours have decided."""
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    end = diagnosis.end_while_held(job, nodes, pods, now=time.time())
    return end or diagnosis.state_with(job, nodes)


def _replicas(job: JobView, pods: list[dict[str, Any]]) -> list[ReplicaStatus]:
    failures = {failure.index: failure for failure in diagnosis.failures_of_pods(pods)}
    cancelled = job.state is JobState.CANCELLED
    replicas = []
    for node in diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods)):
        if node.phase is Phase.LOST:
            continue
        state = REPLICA_STATES.get(node.phase, AppState.PENDING)
        status = ReplicaStatus(
            id=node.index,
            role=roles.role_name_of(job),
            state=AppState.CANCELLED if cancelled else state,
            hostname=node.node or "",
        )
        failure = failures.get(node.index)
        if failure is not None and state is AppState.FAILED:
            at = int(failure.time) if failure.time < float("inf") else 0
            details = {"timestamp": str(at), "py_callstack": failure.callstack}
            record = {"message": failure.message, "errorCode": failure.exit_code}
            message = {"message": {**record, "extraInfo": details}}
            status.structured_error_msg = json.dumps(message)
        replicas.append(status)
    return replicas
