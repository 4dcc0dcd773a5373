"""kij-train from Python: describe a job, launch it, hold on to it.

`job` makes a checked request, `launch` starts it on a cluster or on this machine, `attach` finds a
job on a cluster again. Both give a `Run`. Nothing here prints, installs signal handlers or ends
processes that it did not start; a Run may be used from several threads. Everything that goes wrong
is a KijError (kij_train.errors) with `message` and `hints`.
"""

from __future__ import annotations

import abc
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import jobs, runs, scripts
from kij_train.diagnosis import JobState
from kij_train.errors import (
    InterruptedByUserError,
    JobFailedError,
    KijError,
    RequestError,
    TimedOutError,
    no_such_index,
)
from kij_train.jobs import change
from kij_train.spec import JobSpec
from kij_train.specfile import Layer, Location, Origin, Resolved, check

if TYPE_CHECKING:
    from kij_train import local
    from kij_train.cluster import Cluster

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """A line that a node printed."""

    index: int
    """Of the node."""
    text: str


class Run(abc.ABC):
    """A job that was launched."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the job has succeeded.

        Raises JobFailedError when it failed or was cancelled, with the first failing rank and its
        traceback; TimedOutError at the job's own deadline, or after `timeout_s`, which leaves the
        job running.
        """

    @abc.abstractmethod
    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        """Lines of one node or of all, so far; with `follow`, until the job ends."""

    @abc.abstractmethod
    def status(self) -> JobState:
        """What the job as a whole does."""

    @abc.abstractmethod
    def why(self) -> str:
        """Why it is as it is, and what to do, for people."""

    @abc.abstractmethod
    def cancel(self) -> None:
        """End it, with the grace period for its ranks; it stays readable as cancelled."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Remove it, with its logs."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def job(script: str | None = None, **fields: Any) -> JobSpec:
    """A request: `job("train.py", nodes=2, args=["--lr", "3e-4"])`. Raises RequestError.

    The fields are those of JobSpec, which are also the keys of a spec file.
    """
    values = fields if script is None else {"script": script, **fields}
    origins: dict[Location, Origin] = {(name,): Origin(name, names_value=True) for name in values}
    return check(Layer(dict(values), origins)).spec


def launch(
    spec: JobSpec,
    *,
    local: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> Run:
    """Start a job on the cluster that the spec and the kubeconfig name, or on this machine.

    `cwd` is where the paths of the spec begin: the current folder when not given. `replace` deletes
    a job of that name on the cluster first. A local job ends with this process at the latest.
    """
    if not isinstance(spec, JobSpec):
        raise RequestError(
            f"launch takes a job, not {type(spec).__name__} {spec!r:.100}",
            hints=('make it first: kij_train.job("train.py", nodes=2)',),
        )
    resolved = Resolved(spec, {("script",): Origin(scripts.FROM_FLAGS)})
    here = Path.cwd() if cwd is None else Path(cwd)
    plan = runs.plan(resolved, cwd=here, for_cluster=not local, random_name=True)
    if local:
        return _LocalRun(plan)
    cluster = runs.connect(spec)
    submission = runs.submit(plan, cluster, replace=replace)
    for warning in cluster.warnings:
        _log.warning(warning)
    return _ClusterRun(submission.name, cluster)


def attach(
    name: str,
    *,
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: str | None = None,
) -> Run:
    """A job that is on a cluster already. Raises UnreachableError where there is none."""
    jobs.check_name(name)
    given = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
    cluster = runs.connect(job(**{key: value for key, value in given.items() if value}))
    jobs.get(cluster, name)
    return _ClusterRun(name, cluster)


class _ClusterRun(Run):
    def __init__(self, name: str, cluster: Cluster) -> None:
        super().__init__(name)
        self._cluster = cluster

    def wait(self, timeout_s: float | None = None) -> None:
        ended = jobs.wait(self._cluster, self.name, timeout_s=timeout_s, note=_log.info)
        error = ended.verdict.error()
        if error is not None:
            raise error

    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        from kij_train.cluster import LogChoice

        lines = jobs.logs(
            self._cluster,
            self.name,
            indexes=None if index is None else {index},
            choice=LogChoice(),
            follow=follow,
            note=_log.info,
        )
        return (Line(line.index, line.text) for line in lines)

    def status(self) -> JobState:
        return jobs.get(self._cluster, self.name).state

    def why(self) -> str:
        return jobs.why(self._cluster, self.name).text()

    def cancel(self) -> None:
        change.cancel(self._cluster, self.name)

    def delete(self) -> None:
        change.delete(self._cluster, self.name)


class _LocalRun(Run):
    """A thread that runs the nodes, and what they have printed, all of it in memory."""

    def __init__(self, plan: runs.Plan) -> None:
        from kij_train import local

        super().__init__(plan.name)
        self._plan = plan
        self._environ = dict(os.environ)
        self._stop: local.Stop = local.Stop()
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        # Here, not in the thread: a request that is wrong is an error of launch.
        local.check_machine(plan.spec, self._environ, plan.code_dir)
        self._thread = threading.Thread(target=self._run, name=plan.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from kij_train import local

        try:
            streams = local.Streams(self._take, merged=True)
            runs.run_local(self._plan, environ=self._environ, streams=streams, stop=self._stop)
        except BaseException as error:  # whoever waits gets it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, index: int, stream: str, line: str) -> None:
        del stream
        with self._changed:
            self._lines.append(Line(index, line))
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout_s):
                raise TimedOutError(f"{self.name} has not ended within {timeout_s:g} s; it goes on")
        if isinstance(self._error, InterruptedByUserError):
            raise JobFailedError(f"{self.name} was cancelled") from self._error
        if self._error is not None:
            raise self._error

    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        nodes = self._plan.spec.nodes
        if index is not None and not 0 <= index < nodes:
            raise no_such_index(self.name, index, nodes)
        return self._lines_of(index, follow)

    def _lines_of(self, index: int | None, follow: bool) -> Iterator[Line]:
        shown = 0
        while True:
            with self._changed:
                while follow and not self._ended and len(self._lines) == shown:
                    self._changed.wait()
                lines, ended = self._lines[shown:], self._ended
            yield from (line for line in lines if index in (None, line.index))
            shown += len(lines)
            if ended or not follow:
                return

    def status(self) -> JobState:
        with self._changed:
            if not self._ended:
                return JobState.RUNNING
        if self._error is None:
            return JobState.SUCCEEDED
        if isinstance(self._error, InterruptedByUserError):
            return JobState.CANCELLED
        return JobState.FAILED

    def why(self) -> str:
        if isinstance(self._error, KijError):
            return self._error.message
        return f"{self.name}: {self.status().value}"

    def cancel(self) -> None:
        """Returns when nothing of it is left."""
        self._stop()
        self._thread.join()

    def delete(self) -> None:
        self.cancel()
        with self._changed:
            self._lines.clear()
