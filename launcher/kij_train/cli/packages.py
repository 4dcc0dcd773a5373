"""kij-train packages"""

from __future__ import annotations

from typing import Any

import click

from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect
from kij_train.jobs.packages import installed


@click.command("packages")
@job_argument
@output_option("text", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Print the packages that a job has installed beside its image's, a requirement a line.

    The next job gets the same versions, whatever the index has by then:

    \b
      kij-train packages train-x3k9 > lock.txt
      kij-train launch --requirements lock.txt train.py

    They are read from the logs of its pods.
    """
    cluster = connect(params)
    lines = installed(cluster, name)
    for text in cluster.warnings:
        output.warning(text)
    if form == "json":
        output.json_data(list(lines))
        return
    for line in lines:
        output.data(line)
