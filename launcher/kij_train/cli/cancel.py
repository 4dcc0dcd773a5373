"""kij-train cancel"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import connect, job_argument, output_option
from kij_train.diagnosis import JobState


@click.command("cancel")
@job_argument
@output_option("text", "json")
def command(name: str, form: str, **params: Any) -> None:
    """End the pods of a job; the Job stays, readable as cancelled.

    Every rank gets SIGTERM, and its pod's grace period to save a checkpoint. A job that has ended
    stays as it is. With -o json: name, namespace, uid, state and stateBefore.
    """
    cluster = connect(params)
    before = jobs.cancel(cluster, name)
    if form == "json":
        state = before.state if before.state.ended else JobState.CANCELLED
        states = {"state": state.value, "stateBefore": before.state.value}
        output.json_data({**before.identity(), **states})
    elif before.state.ended:
        output.status(f"{name} had ended already: {before.state.value}")
    else:
        output.status(
            f"{name} is cancelled; remove it: kij-train delete {name} -n {cluster.namespace}"
        )
