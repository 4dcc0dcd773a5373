"""kij-train wait"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import duration, job_argument, note, output_option
from kij_train.cli.where import connect
from kij_train.jobs import array_found
from kij_train.jobs.waiting import JobEnd

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


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
    -o json has, without those of its nodes. Of a sweep whose trials are Jobs, all are waited for.
    """
    cluster = connect(params)
    end, *more = _ends(cluster, name, timeout)
    error = end.verdict.error()
    for other in more:
        error = error or other.verdict.error()
    if form == "json":
        output.json_data(end.as_json())
    elif error is None and more:
        output.status(f"the {1 + len(more):,} trials of {name} have succeeded")
    elif error is None:
        output.status(end.verdict.text())
    else:
        output.verdict(error.message)
    if error is not None:
        raise click.exceptions.Exit(error.exit_code)


def _ends(cluster: Cluster, name: str, timeout_s: int | None) -> list[JobEnd]:
    """How the Jobs have ended that a name means."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    ends = []
    for each in array_found.named(cluster, name):
        left = None if until is None else max(0.0, until - time.monotonic())
        ends.append(jobs.wait(cluster, each, timeout_s=left, note=note))
    return ends
