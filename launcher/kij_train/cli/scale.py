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
    """Give a job of --restart elastic N nodes, from its MIN to its MAX (--nodes MIN:MAX).

    What is more than MAX, up to the number of its spares, stands by. With fewer nodes, those that
    stand by end first, then those that began to train last, and the ranks of the others start
    again at once. With more, they start again when
    the new nodes have been there for ten seconds: they get SIGTERM, and the job's --grace (30 s)
    for a checkpoint. A suspended job has N nodes when it is resumed.

    With -o json: name, namespace, uid, nodes and nodesBefore.
    """
    cluster = connect(params)
    before = change.scale(cluster, name, nodes)
    if form == "json":
        output.json_data({**before.identity(), "nodes": nodes, "nodesBefore": before.nodes})
    elif nodes == before.nodes:
        output.status(f"{name} has {nodes} nodes already")
    else:
        changed = f"{name} has {nodes} nodes instead of {before.nodes}"
        if before.state in (JobState.SUSPENDED, JobState.CANCELLED):
            changed += ", once it is resumed"
        output.status(f"{changed}; see: {cluster.address.on_job('status', name)}")
