"""kij-train delete"""

from __future__ import annotations

from typing import Any

import click

from kij_train.cli import output
from kij_train.cli.onjob import complete, connect, output_option, where_options
from kij_train.jobs import change


@click.command("delete")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete)
@where_options
@output_option("text", "json")
def command(names: tuple[str, ...], form: str, **params: Any) -> None:
    """Remove jobs with their pods, Services, code and logs.

    With -o json: a list with name, namespace and uid of each, and the state that it was in.
    """
    cluster = connect(params)
    deleted = []
    try:
        for name in names:
            deleted.append(change.delete(cluster, name))
            if form == "text":
                output.status(f"deleted {name}")
    finally:
        for text in cluster.warnings:
            output.warning(text)
        # those before one that is refused are gone all the same
        if form == "json":
            output.json_data([{**job.identity(), "state": job.state.value} for job in deleted])
