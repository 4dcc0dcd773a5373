"""kij-train forward"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.attach import signum_of, sigterm_as_interrupt
from kij_train.cli.onjob import job_argument, note
from kij_train.cli.where import connect
from kij_train.errors import InterruptedByUserError


@click.command("forward")
@job_argument
@click.argument("ports", metavar="PORT...", nargs=-1, required=True)
@click.option(
    "--index",
    type=int,
    metavar="I",
    help="To this index: 0 unless given; of a job that restarts, the one that trains as rank 0.",
)
def command(name: str, ports: tuple[str, ...], index: int | None, **params: Any) -> None:
    """Lead ports of this machine to a pod of a job: TensorBoard, a notebook, a debugger.

    A port is a number, or LOCAL:REMOTE; 0:REMOTE takes any free one. Only programs of this machine
    can connect. When the pod is replaced, new connections go to the next one. It ends with the job,
    or by Ctrl-C. Takes the right to portforward.

    \b
      kij-train forward NAME 6006
      kij-train forward NAME 8080:80 9000 --index 3
    """
    wanted = [jobs.Ports.parse(text) for text in ports]
    cluster = connect(params)
    try:
        with sigterm_as_interrupt():
            jobs.forward(cluster, name, wanted, index=index, note=note)
    except KeyboardInterrupt as interrupt:
        raise InterruptedByUserError(
            f"no port leads to {name} any more; it goes on", signum=signum_of(interrupt)
        ) from None
    output.status(f"{name} needs no ports any more: it has ended, or this index of it")
