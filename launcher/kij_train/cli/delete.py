"""kij-train delete"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import _complete, connect, where_options


@click.command("delete")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
@where_options
def command(names: tuple[str, ...], **params: Any) -> None:
    """Remove jobs with their pods, Services, code and logs."""
    cluster = connect(params)
    for name in names:
        jobs.delete(cluster, name)
        output.status(f"deleted {name}")
