"""kij-train exec"""

from __future__ import annotations

import sys
from typing import Any

import click

from kij_train import jobs
from kij_train.cli.onjob import job_argument
from kij_train.cli.where import connect


@click.command("exec")
@job_argument
@click.option("--index", type=int, default=0, metavar="I", help="Of this node; 0 unless given.")
@click.option("--stdin", "-i", is_flag=True, help="Pass stdin on.")
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(name: str, index: int, stdin: bool, words: tuple[str, ...], **params: Any) -> None:
    """Run a command in the pod of an index, and end with its exit code.

    It starts in the folder of the code, /kij/work/code, where the script runs. 127 says that the
    image has no such program, 126 that it cannot be run. Takes the right to exec.

    \b
      kij-train exec NAME -- python3 -c 'import torch; print(torch.__version__)'
      kij-train exec NAME --index 3 -- nvidia-smi
    """
    code = jobs.execute(connect(params), name, index, [words], stdin=stdin, tty=False)
    sys.exit(code)
