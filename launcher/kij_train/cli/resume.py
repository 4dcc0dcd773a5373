"""kij-train resume"""

from __future__ import annotations

from typing import Any

import click

from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect
from kij_train.diagnosis import JobState
from kij_train.jobs import change


@click.command("resume")
@job_argument
@output_option("text", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Start a cancelled or suspended job again, with new pods.

    Its script starts from the beginning, and goes on from where it was if it loads its own
    checkpoint. Indexes that have completed do not run again. A job that was cancelled in a queue
    (--queue) goes back to it, and starts when it is admitted. A --timeout counts anew. With
    -o json: name, namespace, uid, state, stateBefore and queue.
    """
    cluster = connect(params)
    resumed = change.resume(cluster, name)
    for text in cluster.warnings:
        output.warning(text)
    before, queue = resumed.before, resumed.queue
    if form == "json":
        state = JobState.PENDING if queue is None else JobState.SUSPENDED
        states = {"state": state.value, "stateBefore": before.state.value, "queue": queue}
        output.json_data({**before.identity(), **states})
        return
    what = "starts again" if queue is None else f"waits in queue {queue} again"
    output.status(f"{name} {what}; attach: {cluster.address.on_job('attach', name)}")
