"""Apps as processes of this machine."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Stream
from torchx.specs import AppDef, AppDryRunInfo, ReplicaStatus, Role, RoleStatus

from kij_train import api
from kij_train.diagnosis import JobState
from kij_train.diagnosis.tracebacks import first_traceback
from kij_train.errors import RequestError
from kij_train.local.machine import free_port
from kij_train.render.text import to_yaml
from kij_train.spec import JobSpec
from kij_train.torchx_scheduler import roles
from kij_train.torchx_scheduler.base import (
    STATES,
    BaseScheduler,
    Config,
    check_streams,
    no_role,
    state_of_app,
)
from kij_train.torchx_scheduler.errors import refuses_as_torchx


@dataclass
class LocalRequest:
    """What the local scheduler runs."""

    app_id: str
    specs: dict[str, JobSpec]
    """By role."""

    def __str__(self) -> str:
        shown = [
            {"role": role, **spec.model_dump(mode="json", exclude_defaults=True)}
            for role, spec in self.specs.items()
        ]
        return to_yaml(shown)


def _why(run: api.Run) -> str:
    """The verdict, and the traceback among what was printed, which a torchrun does not hand on."""
    found = first_traceback(line.text for line in run.logs())
    return "\n    ".join([run.why(), *found])


@dataclass
class _LocalApp:
    roles: list[Role]
    runs: dict[str, api.Run]


class LocalKijTrainScheduler(BaseScheduler):
    """Runs every replica as processes of this machine, which end with this process.

    Its name begins with "local": that makes `torchx run` wait for the app and print its log.
    """

    def __init__(self, session_name: str) -> None:
        super().__init__("local_kij_train", session_name)
        self._apps: dict[str, _LocalApp] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End what still runs."""
        for app in self._apps.values():
            for run in app.runs.values():
                run.cancel()
        super().close()

    def _placed(self, role: Role) -> Role:
        placed = copy.deepcopy(role)
        roles.at_port(placed, free_port())
        return placed

    def _host(self, name: str) -> str:
        return "localhost"

    def _image_root(self, role: Role) -> str:
        return str(role.metadata.get(roles.WORKSPACE, Path.cwd()))

    @refuses_as_torchx
    def _submit_dryrun(self, app: AppDef, cfg: Config) -> AppDryRunInfo:
        app_id, found = self._resolved(app, cfg)
        specs = {role.name: resolved.spec for role, resolved in zip(app.roles, found, strict=True)}
        if len(specs) < len(app.roles):
            raise RequestError("two roles of the app have the same name")
        return AppDryRunInfo(LocalRequest(app_id, specs), str)

    @refuses_as_torchx
    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        """Start all roles, or none."""
        request: LocalRequest = dryrun_info.request
        app = getattr(dryrun_info, "app", None) or dryrun_info._app
        started: dict[str, api.Run] = {}
        try:
            for role, spec in request.specs.items():
                folder = spec.code_dir if spec.code else None
                started[role] = api.launch(spec, local=True, cwd=folder)
        except BaseException:
            for run in started.values():
                run.cancel()
            raise
        with self._lock:
            self._apps[request.app_id] = _LocalApp(app.roles, started)
        return request.app_id

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """State and roles; None for an app of another process."""
        app = self._apps.get(app_id)
        if app is None:
            return None
        states = {role: run.status() for role, run in app.runs.items()}
        failed = [_why(run) for role, run in app.runs.items() if states[role] is JobState.FAILED]
        replicas = [
            RoleStatus(
                role.name,
                [
                    ReplicaStatus(index, STATES[states[role.name]], role.name, "localhost")
                    for index in range(role.num_replicas)
                ],
            )
            for role in app.roles
        ]
        return DescribeAppResponse(
            app_id=app_id,
            state=state_of_app([*states.values()]),
            num_restarts=0,
            msg="\n".join(failed),
            roles=app.roles,
            roles_statuses=replicas,
        )

    def list(self, cfg: Config | None = None) -> Sequence[ListAppResponse]:
        """The apps of this process."""
        return [
            ListAppResponse(app_id=app_id, state=described.state)
            for app_id in self._apps
            if (described := self.describe(app_id)) is not None
        ]

    def _cancel_existing(self, app_id: str) -> None:
        for run in self._apps[app_id].runs.values():
            run.cancel()

    def _delete_existing(self, app_id: str) -> None:
        self._cancel_existing(app_id)
        with self._lock:
            del self._apps[app_id]

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
        """Lines of one replica; `since` and `until` are not known of a local log."""
        check_streams(streams)
        app = self._apps[app_id]
        if role_name not in app.runs:
            raise RequestError(no_role(app_id, role_name, app.runs))
        lines = app.runs[role_name].logs(index=k, follow=should_tail)
        return (f"{line.text}\n" for line in lines if regex is None or re.search(regex, line.text))
