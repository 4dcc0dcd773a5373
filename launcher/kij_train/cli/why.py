"""kij-train why"""

from __future__ import annotations

from typing import Any

import click

from kij_train import diagnosis, jobs
from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect


@click.command("why")
@job_argument
@output_option("text", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Say why a job failed, waits or hangs: the verdict, the evidence, and what to do."""
    cluster = connect(params)
    verdict = jobs.why(cluster, name)
    if form == "json":
        output.json_data(diagnosis.as_json(verdict))
    else:
        output.data(verdict.text())
        if verdict.state is diagnosis.JobState.RUNNING and not verdict.findings:
            stacks = cluster.address.on_job("stacks", name)
            output.status(f"  if it makes no progress: {stacks}")
