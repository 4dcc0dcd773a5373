"""kij-train scale"""

from __future__ import annotations

from typing import Any

import click

from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect
from kij_train.diagnosis import JobState
from kij_train.jobs import change


@click.command("scale")
@job_argument
@click.argument("nodes", metavar="N", type=click.IntRange(min=1))
@output_option("text", "json")
def command(name: str, nodes: int, form: str, **params: Any) -> None:
    """Give a job of --restart elastic N nodes, or have an array run N indexes at once.

    A job takes its MIN to its MAX nodes (--nodes MIN:MAX). What is more than MAX, up to the number
    of its spares, stands by. With fewer nodes, those that stand by end first, then those that began
    to train last, and the ranks of the others start again at once. With more, they start again when
    the new nodes have been there for ten seconds: they get SIGTERM, and the job's --grace (30 s)
    for a checkpoint. A suspended job has N nodes when it is resumed.

    Of an array with fewer indexes at once, some of those that run are ended, and begin anew later.

    With -o json: name, namespace, uid, nodes and nodesBefore.
    """
    cluster = connect(params)
    scaled = change.scale(cluster, name, nodes)
    unit = f"{nodes} {scaled.unit}"
    if form == "json":
        output.json_data({**scaled.job.identity(), "nodes": nodes, "nodesBefore": scaled.was})
    elif nodes == scaled.was:
        output.status(f"{name} has {unit} already")
    else:
        changed = f"{name} has {unit} instead of {scaled.was}"
        if scaled.job.state in (JobState.SUSPENDED, JobState.CANCELLED):
            changed += ", once it is resumed"
        output.status(f"{changed}; see: {cluster.address.on_job('status', name)}")
