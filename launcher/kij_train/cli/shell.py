"""kij-train shell"""

from __future__ import annotations

import sys
from typing import Any

import click

from kij_train import jobs
from kij_train.cli.onjob import job_argument
from kij_train.cli.where import address, connect
from kij_train.errors import RequestError

SHELLS = (["bash"], ["sh"])


@click.command("shell")
@job_argument
@click.option("--index", type=int, default=0, metavar="I", help="Of this node; 0 unless given.")
def command(name: str, index: int, **params: Any) -> None:
    """Open a shell in the pod of an index: bash, or sh where there is no bash.

    It starts in the folder of the code, /kij/work/code, where the script runs. In an image without
    a shell: kij-train exec -i NAME -- python3. Takes the right to exec.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        instead = address(params).on_job("exec", name, "--", "COMMAND")
        raise RequestError("shell needs a terminal", hints=(f"without one: {instead}",))
    sys.exit(jobs.execute(connect(params), name, index, SHELLS, stdin=True, tty=True))
