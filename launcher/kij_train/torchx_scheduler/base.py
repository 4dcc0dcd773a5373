"""What both schedulers share: run options, workspaces, and requests from roles."""

from __future__ import annotations

import abc
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Dict, List  # noqa: UP035 - TorchX 0.7 knows an option's type by these

from torchx.schedulers.api import Scheduler, Stream
from torchx.specs import AppDef, AppState, Role, runopts
from torchx.util.types import to_dict
from torchx.workspace.api import WorkspaceMixin

from kij_train import names, runs
from kij_train.diagnosis import JobState
from kij_train.errors import RequestError
from kij_train.spec import MOST_RESTARTS, JobSpec
from kij_train.specfile import Resolved, resolve
from kij_train.torchx_scheduler import roles
from kij_train.torchx_scheduler.errors import UnknownOptionError

Config = Mapping[str, Any]

PROFILE = "profile"
KNOWN_OPTIONS = (*roles.OPTIONS, PROFILE)
STATES = {
    JobState.PENDING: AppState.PENDING,
    JobState.SUSPENDED: AppState.PENDING,
    JobState.RUNNING: AppState.RUNNING,
    JobState.SUCCEEDED: AppState.SUCCEEDED,
    JobState.FAILED: AppState.FAILED,
    JobState.CANCELLED: AppState.CANCELLED,
}


class RunOptions(runopts):
    """Run options that refuse one they do not know."""

    def cfg_from_str(self, cfg_str: str) -> dict[str, Any]:
        """The text of -cfg as values."""
        self._refuse_unknown(to_dict(cfg_str or ""))
        parsed: dict[str, Any] = super().cfg_from_str(cfg_str)
        return parsed

    def resolve(self, cfg: Config) -> dict[str, Any]:
        """All options, with None for those that are not given."""
        self._refuse_unknown(cfg)
        resolved: dict[str, Any] = super().resolve(cfg)
        return resolved

    def _refuse_unknown(self, cfg: Config) -> None:
        for key in cfg:
            if self.get(key) is None:
                raise UnknownOptionError(key, KNOWN_OPTIONS, cfg)


def _type_of(field: str) -> Any:
    """The type that TorchX parses an option to."""
    annotation = str(JobSpec.model_fields[field].annotation)
    if annotation.startswith("dict"):
        return Dict[str, str]  # noqa: UP006 - see above
    if annotation.startswith("tuple"):
        return List[str]  # noqa: UP006 - see above
    return bool if field == "read_only_root" else int if field == "run_as_user" else str


class BaseScheduler(WorkspaceMixin, Scheduler, abc.ABC):
    """What both schedulers share: run options, workspaces, and requests from roles."""

    def __init__(self, backend: str, session_name: str) -> None:
        super().__init__(backend, session_name)
        self._folders: list[tempfile.TemporaryDirectory[str]] = []

    def close(self) -> None:
        """Remove the copies of workspaces."""
        while self._folders:
            self._folders.pop().cleanup()

    def _run_opts(self) -> runopts:
        opts = RunOptions()
        for name in roles.OPTIONS:
            text = JobSpec.model_fields[name].description or ""
            opts.add(name, type_=_type_of(name), help=" ".join(text.split()))
        opts.add(PROFILE, type_=str, help="Named settings: see kij-train profiles.")
        return opts

    def _validate(self, app: AppDef, scheduler: str, cfg: Any = None) -> None:
        """TorchX refuses roles without resources, which pods may well be."""

    def build_workspace_and_update_role(self, role: Role, workspace: str, cfg: Config) -> None:
        """Note the folder to ship; nothing is built."""
        folder = roles.workspace_folder(workspace)
        if folder is None:
            import fsspec

            folder = self._folder()
            filesystem, path = fsspec.core.url_to_fs(workspace)
            filesystem.get(path.rstrip("/") + "/", f"{folder}/", recursive=True)
        role.metadata[roles.WORKSPACE] = str(folder.resolve())

    def caching_build_workspace_and_update_role(
        self, role: Role, cfg: Config, build_cache: dict[object, object]
    ) -> None:
        """As newer versions of TorchX ask for it: several folders become one."""
        workspace = role.workspace
        if not workspace:
            return
        if workspace.is_unmapped_single_project():
            self.build_workspace_and_update_role(role, str(workspace), cfg)
            return
        if workspace not in build_cache:
            folder = self._folder()
            workspace.merge_into(str(folder))
            build_cache[workspace] = folder
        role.metadata[roles.WORKSPACE] = str(build_cache[workspace])

    def _folder(self) -> Path:
        self._folders.append(tempfile.TemporaryDirectory(prefix="kij-train-workspace-"))
        return Path(self._folders[-1].name)

    def _resolved(self, app: AppDef, cfg: Config) -> tuple[str, list[Resolved]]:
        """The app's id, and the checked request of every role. Raises RequestError."""
        suffix = secrets.token_hex(4)[: runs.SUFFIX_CHARS]
        app_id = names.generated_job_name(app.name, suffix, 1)
        # With room for the indexes that a job that restarts has in reserve.
        indexes = [role.num_replicas + MOST_RESTARTS for role in app.roles]
        if len(app.roles) == 1:
            app_id = names.generated_job_name(app.name, suffix, indexes[0])
            job_names = [app_id]
        else:
            job_names = [
                names.generated_job_name(f"{app.name}-{role.name}", suffix, most)
                for role, most in zip(app.roles, indexes, strict=True)
            ]
        for index, name in enumerate(job_names):
            if name in job_names[:index]:
                first = app.roles[job_names.index(name)].name
                raise RequestError(
                    f"roles {first!r} and {app.roles[index].name!r} would both be the job {name}",
                    hints=("give the roles names that differ in letters or digits",),
                )
        rank0 = f"{job_names[0]}-0.{job_names[0]}"
        found = []
        for index, (role, name) in enumerate(zip(app.roles, job_names, strict=True)):
            role = self._placed(role)
            layer = roles.job_layer(
                app,
                role,
                cfg,
                name=name,
                app_id=app_id,
                rank0=self._host(rank0) if index else None,
                image_root=self._image_root(role),
            )
            cwd = Path.cwd()
            found.append(resolve(layer, environ=os.environ, cwd=cwd, profile=cfg.get(PROFILE)))
        return app_id, found

    def _placed(self, role: Role) -> Role:
        """The role as it runs here."""
        return role

    @abc.abstractmethod
    def _host(self, name: str) -> str:
        """How a node reaches the host of that name."""

    @abc.abstractmethod
    def _image_root(self, role: Role) -> str:
        """Where a role's code lies when it runs."""


def check_streams(streams: Stream | None) -> None:
    if streams not in (None, Stream.COMBINED):
        raise RequestError(
            f"there is no log of {Stream(streams).value} alone: a node has one log",
            hints=("leave --streams out, or say --streams combined",),
        )


def no_role(app_id: str, role_name: str, known: Iterable[str]) -> str:
    return f"{app_id} has no role {role_name!r}; it has: {', '.join(known) or 'none'}"


def state_of_app(states: list[JobState]) -> AppState:
    """An app has failed as soon as a role has, and has succeeded when all have."""
    for decisive in (JobState.FAILED, JobState.CANCELLED):
        if decisive in states:
            return STATES[decisive]
    if all(state is JobState.SUCCEEDED for state in states):
        return AppState.SUCCEEDED
    going_on = {JobState.RUNNING, JobState.SUCCEEDED} & set(states)
    return AppState.RUNNING if going_on else AppState.PENDING
