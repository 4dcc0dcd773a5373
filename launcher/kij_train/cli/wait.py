"""kij-train wait"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import duration, job_argument, note, output_option
from kij_train.cli.where import connect


@click.command("wait")
@job_argument
@click.option(
    "--timeout", metavar="DURATION", callback=duration, help="Wait no longer: 90s, 30m, 2h."
)
@output_option("text", "json")
def command(name: str, timeout: int | None, form: str, **params: Any) -> None:
    """Wait until a job has ended, and say how.

    Exit code 0 when it succeeded, 1 when it failed or was cancelled, 5 when the time is over, ours
    or that of the job's own --timeout. With -o json the end is printed with the keys that status
    -o json has, without those of its nodes.
    """
    end = jobs.wait(connect(params), name, timeout_s=timeout, note=note)
    error = end.verdict.error()
    if form == "json":
        output.json_data(end.as_json())
    elif error is None:
        output.status(end.verdict.text())
    else:
        output.verdict(error.message)
    if error is not None:
        raise click.exceptions.Exit(error.exit_code)
