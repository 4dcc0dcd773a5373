"""kij-train from Python: describe a job, launch it, hold on to it.

`job` makes a checked request, `launch` starts it on a cluster or on this machine, `attach` finds a
job on a cluster again. Both give a `Run`. Nothing here prints, installs signal handlers or ends
processes that it did not start; a Run may be used from several threads. Everything that goes wrong
is a KijError (kij_train.errors) with `message` and `hints`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from kij_train import jobs, runs
from kij_train.errors import RequestError
from kij_train.runs import Line, Run
from kij_train.spec import JobSpec
from kij_train.specfile import Layer, Location, Origin, Resolved, check

__all__ = ["Line", "Run", "attach", "job", "launch"]

_log = logging.getLogger(__name__)


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
    runs.check_not_imported("launch")
    if not isinstance(spec, JobSpec):
        raise RequestError(
            f"launch takes a job, not {type(spec).__name__} {spec!r:.100}",
            hints=('make it first: kij_train.job("train.py", nodes=2)',),
        )
    resolved = Resolved(spec, {("script",): Origin("script", in_command=True)})
    here = Path.cwd() if cwd is None else Path(cwd)
    backend: runs.Backend = runs.OnMachine() if local else runs.OnCluster(replace=replace)
    run = backend.start(runs.plan(resolved, cwd=here, place=backend, random_name=True))
    for warning in backend.warnings:
        _log.warning(warning)
    return run


def attach(
    name: str,
    *,
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: str | None = None,
) -> Run:
    """A job that is on a cluster already. Raises UnreachableError where there is none."""
    from kij_train.cluster import Submission

    jobs.check_name(name)
    given = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
    cluster = runs.connect(job(**{key: value for key, value in given.items() if value}))
    return runs.ClusterRun(Submission(cluster, jobs.get(cluster, name).raw))
