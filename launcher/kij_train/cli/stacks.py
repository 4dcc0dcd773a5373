"""kij-train stacks"""

from __future__ import annotations

from typing import Any

import click

from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect
from kij_train.errors import RequestError
from kij_train.jobs import stacks


@click.command("stacks")
@job_argument
@click.option("--rank", type=int, metavar="R", help="Of this rank alone.")
@click.option("--index", type=int, metavar="I", help="Of the ranks of this node.")
@output_option("text", "json")
def command(name: str, rank: int | None, index: int | None, form: str, **params: Any) -> None:
    """Show where every rank is right now: the Python stack of its main thread, newest call first.

    Ranks at the same place are shown together, the smallest group last: in a job that hangs, the
    others usually wait for it. The ranks go on undisturbed. They are asked by SIGUSR2: a script
    that handles this signal itself shows no stack. You need the right to exec.

    With -o json: name, namespace, uid, ranks with all their threads, groups, and silent, the
    indexes of which nothing is known.
    """
    if rank is not None and index is not None:
        raise RequestError("--rank conflicts with --index: give one of them")
    found = stacks.stacks(connect(params), name, rank=rank, index=index)
    if form == "json":
        output.json_data(found.as_json())
        return
    for number, group in enumerate(found.groups):
        output.data(("\n" if number else "") + group.title() + ":")
        for frame in group.frames:
            output.data(f"  {frame}")
    for problem in found.problems():
        output.warning(problem)
