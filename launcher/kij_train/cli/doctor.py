"""kij-train doctor"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kij_train import doctor
from kij_train.cli import output
from kij_train.cli.onjob import output_option, where_options
from kij_train.cli.where import where_layer
from kij_train.doctor import Check, Result
from kij_train.errors import RefusedError
from kij_train.specfile import resolve

MARKS = {Result.OK: "ok", Result.WARNING: "!", Result.FAILED: "NO", Result.SKIPPED: "-"}


@click.command("doctor")
@where_options
@output_option("text", "json")
def command(form: str, **params: Any) -> None:
    """Check, before the first launch, what this machine has and a cluster lets you do.

    Changes nothing. Exit code 0 when a job could be launched, 3 when the cluster would refuse it,
    4 when there is no way to it: a kubeconfig, a credential plugin, an answer is missing.
    """
    resolved = resolve(where_layer(params), environ=os.environ, cwd=Path.cwd())
    checks = [*doctor.of_this_machine(), *doctor.of_cluster(resolved)]
    if form == "json":
        output.json_data([_json(check) for check in checks])
    else:
        output.table(("check", "", "detail"), map(_row, checks))
    cause = checks[-1].cause
    if cause is not None:
        output.error("a launch would not get that far, see above")
        raise click.exceptions.Exit(cause.exit_code)
    if any(check.result is Result.FAILED for check in checks):
        raise RefusedError("this cluster would refuse a launch, see above")


def _row(check: Check) -> tuple[str, str, str]:
    detail = check.detail + (f"\ntry: {check.hint}" if check.hint else "")
    return check.name, MARKS[check.result], detail


def _json(check: Check) -> dict[str, str | None]:
    return {
        "name": check.name,
        "result": check.result.value,
        "detail": check.detail,
        "hint": check.hint,
    }
