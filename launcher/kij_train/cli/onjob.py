"""What the commands about a job on a cluster share: its name, where it is, how to get there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from kij_train import names, runs, units
from kij_train.cli import completers, output
from kij_train.cli.where import resolved_where
from kij_train.errors import RequestError
from kij_train.spec import JobSpec
from kij_train.spec.settings import settings_of
from kij_train.specfile import WHERE, split_pair

Function = Callable[..., Any]


def where_options(function: Function) -> Function:
    """Add --namespace, --context and --kubeconfig, as `launch` has them."""
    for field in reversed(WHERE):
        setting = settings_of(JobSpec)[field]
        text = JobSpec.model_fields[field].description
        function = click.option(
            *setting.flags,
            field,
            metavar=setting.metavar,
            help=text,
            shell_complete=completers.OF_FIELDS.get(field),
        )(function)
    return function


def job_argument(function: Function) -> Function:
    """Add the argument NAME, completed from the jobs that there are, and where_options."""
    argument = click.argument(
        "name", metavar="NAME", callback=job_name, shell_complete=completers.jobs
    )
    return argument(where_options(function))


def job_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The name of a job, names, or None, checked: a callback of click. Raises RequestError."""
    from kij_train.jobs import check_name

    del ctx, param
    for name in (value,) if isinstance(value, str) else value or ():
        check_name(name)
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
        me = runs.user_of(resolved_where(params).spec)
        if me is None:
            raise RequestError(
                "--mine: this machine does not know your name",
                hints=("say it: export USER=...",),
            )
        labels[names.USER] = me
    return labels


def note(text: str) -> None:
    """A line about the watching itself."""
    output.status(text)
