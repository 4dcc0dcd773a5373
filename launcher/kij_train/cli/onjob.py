"""What the commands about a job on a cluster share: its name, where it is, how to get there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import jobs, names, runs, units
from kij_train.cli import output
from kij_train.commands import Address
from kij_train.errors import KijError, RequestError, UnreachableError
from kij_train.spec import JobSpec
from kij_train.spec.settings import settings_of
from kij_train.specfile import WHERE, Layer, Origin, Resolved, resolve, split_pair

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

COMPLETION_S = 2.0
"""How long a shell waits for the names of jobs: somebody has pressed a key."""
Function = Callable[..., Any]


def where_options(function: Function) -> Function:
    """Add --namespace, --context and --kubeconfig, as `launch` has them."""
    for field in reversed(WHERE):
        setting = settings_of(JobSpec)[field]
        text = JobSpec.model_fields[field].description
        function = click.option(*setting.flags, field, metavar=setting.metavar, help=text)(function)
    return function


def job_argument(function: Function) -> Function:
    """Add the argument NAME, completed from the jobs that there are, and where_options."""
    argument = click.argument("name", metavar="NAME", callback=job_name, shell_complete=complete)
    return argument(where_options(function))


def job_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The name of a job, names, or None, checked: a callback of click. Raises RequestError."""
    del ctx, param
    for name in (value,) if isinstance(value, str) else value or ():
        jobs.check_name(name)
    return value


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Seconds of an option's value, a callback of click. Raises RequestError."""
    del ctx
    try:
        return None if value is None else units.parse_duration(value)
    except ValueError as error:
        raise RequestError(f"{param.opts[0]} {value} {error}") from None


def output_option(*forms: str) -> Callable[[Function], Function]:
    """Add --output; the first form is the default."""
    return click.option(
        "--output", "-o", "form", type=click.Choice(forms), default=forms[0], help="Format."
    )


def choice_options(function: Function) -> Function:
    """Add --label and --mine, which say which jobs are meant; see `chosen_labels`."""
    function = click.option(
        "--mine", is_flag=True, help=f"Only those that you launched, by their label {names.USER}."
    )(function)
    return click.option(
        "--label",
        "-l",
        "labels",
        metavar="KEY=VALUE",
        multiple=True,
        help="Only those with this label. Repeatable.",
    )(function)


def chosen_labels(params: dict[str, Any]) -> dict[str, str]:
    """The labels that the options of choice_options ask for. Raises RequestError."""
    labels = dict(split_pair(text, "--label") for text in params["labels"])
    try:
        for key, value in labels.items():
            names.check_key(key)
            names.check_label_value(value)
    except ValueError as error:
        raise RequestError(f"--label {error}") from None
    if params["mine"]:
        me = runs.user_of(_resolved(params).spec)
        if me is None:
            raise RequestError(
                "--mine: this machine does not know your name",
                hints=("say it: export USER=...",),
            )
        labels[names.USER] = me
    return labels


def connect(params: dict[str, Any]) -> Cluster:
    """The cluster that flags, KIJ_* and the project file name."""
    spec = _resolved(params).spec
    try:
        return runs.connect(spec)
    except UnreachableError as error:
        error.hints = (*error.hints, jobs.ABOUT_LOCAL)
        raise


def _resolved(params: dict[str, Any]) -> Resolved:
    return resolve(where_layer(params), environ=os.environ, cwd=Path.cwd())


def address(params: dict[str, Any]) -> Address:
    """How commands name the cluster of these flags, before anybody has connected to it."""
    spec = _resolved(params).spec
    return replace(runs.address_of(spec), namespace=spec.namespace or "")


def where_layer(params: dict[str, Any]) -> Layer:
    """The flags of where_options as the highest layer."""
    layer = Layer({})
    for field in WHERE:
        flags = settings_of(JobSpec)[field].flags
        given = params.get(field, params.get(f"spec_{field}"))  # launch calls it so
        if given is not None:
            layer.values[field] = given
            layer.origins[(field,)] = Origin(flags[0], names_value=True, in_command=True)
    return layer


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of jobs that begin so, as far as the cluster says them in COMPLETION_S."""
    del param
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(KijError):  # completion has no place for an error
            found.extend(job.name for job in jobs.list_jobs(connect(ctx.params)))

    # In a thread that nobody waits for: what may hang is a login, a name server, a proxy, a server.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(COMPLETION_S)
    return [name for name in found if name.startswith(incomplete)]


def note(text: str) -> None:
    """A line about the watching itself."""
    output.status(text)
