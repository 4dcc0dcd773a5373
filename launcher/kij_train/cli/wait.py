"""kij-train wait"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs, units
from kij_train.cli import output
from kij_train.cli.onjob import connect, job_argument, note
from kij_train.diagnosis import JobState
from kij_train.errors import RequestError


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    del ctx, param
    try:
        return None if value is None else units.parse_duration(value)
    except ValueError as error:
        raise RequestError(f"--timeout {value} {error}") from None


@click.command("wait")
@job_argument
@click.option(
    "--timeout", metavar="DURATION", callback=_duration, help="Wait no longer: 90s, 30m, 2h."
)
def command(name: str, timeout: int | None, **params: Any) -> None:
    """Wait until a job has ended.

    Exit code 0 when it succeeded, 1 when it failed or was cancelled, 5 when the time is over.
    """
    verdict = jobs.wait(connect(params), name, timeout_s=timeout, note=note)
    if verdict.state is JobState.SUCCEEDED:
        output.status(verdict.text())
        return
    output.verdict(verdict.text())
    raise click.exceptions.Exit(1)
