"""kij-train cancel"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import connect, job_argument


@click.command("cancel")
@job_argument
def command(name: str, **params: Any) -> None:
    """End the pods of a job; the Job stays, readable as cancelled.

    Every rank gets SIGTERM, and its pod's grace period to save a checkpoint.
    """
    cluster = connect(params)
    before = jobs.cancel(cluster, name)
    if before.ended:
        output.status(f"{name} had ended already: {before.value}")
    else:
        output.status(
            f"{name} is cancelled; remove it: kij-train delete {name} -n {cluster.namespace}"
        )
