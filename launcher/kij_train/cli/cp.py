"""kij-train cp"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kij_train import jobs, units
from kij_train.cli import completers, output
from kij_train.cli.attach import signum_of, sigterm_as_interrupt
from kij_train.cli.drawn import terminal
from kij_train.cli.onjob import where_options
from kij_train.cli.where import connect
from kij_train.errors import InterruptedByUserError, RequestError
from kij_train.jobs import Place

LINE_EVERY_S = 10.0
"""Without a terminal."""


@click.command("cp")
@click.argument("source", shell_complete=completers.places)
@click.argument("target", shell_complete=completers.places)
@where_options
def command(source: str, target: str, **params: Any) -> None:
    """Copy a file or a folder from the pod of an index, or to it, or for all indexes that run.

    In a pod, a path is NAME:INDEX:PATH; relative ones begin in the folder of the code,
    /kij/work/code. NAME:/PATH is that path in every pod: what comes from index 3 goes into
    TARGET/3. A folder's content goes into TARGET itself; a file becomes TARGET, or a file in
    it if that is a folder. What is there already, of the same size and time, is not copied again,
    and what was interrupted goes on when the command is run again. Links stay links; those that
    lead out of the folder are left out. Takes the right to exec, and a pod that runs.

    \b
      kij-train cp NAME:0:/tmp/out ./out
      kij-train cp ./prompts.jsonl NAME:3:/tmp/
      kij-train cp NAME:/tmp/out ./out           # ./out/0, ./out/1, …
    """
    places = Place.parse(source), Place.parse(target)
    there = places[0] or places[1]
    if there is None or all(places):
        both = "both are in pods" if there else "neither is in a pod"
        raise RequestError(
            f"one of the two paths is to be in a pod, and {both}",
            hints=(
                "from a pod: kij-train cp NAME:0:/tmp/out ./out",
                "to a pod: kij-train cp ./in NAME:0:/tmp/in",
            ),
        )
    jobs.check_name(there.job)
    cluster = connect(params)
    shown = _Shown()
    try:
        with sigterm_as_interrupt(), shown.drawing:
            summary = (jobs.copy_all if there.index is None else jobs.copy)(
                cluster,
                places[0] or source,
                places[1] or target,
                progress=shown.progress,
                note=output.status,
            )
    except KeyboardInterrupt as interrupt:
        raise InterruptedByUserError(
            f"interrupted after {units.format_bytes(shown.done)}",
            signum=signum_of(interrupt),
            hints=("the same command again goes on from there",),
        ) from None
    _say(summary)


def _say(summary: jobs.Summary) -> None:
    files, kept = summary.files, summary.kept
    text = f"copied {files:,} file{'' if files == 1 else 's'}, "
    text += units.format_bytes(summary.size_bytes)
    output.status(text + (f"; {kept:,} more were there already" if kept else ""))
    for problem in summary.problems:
        output.warning(f"not copied: {problem}")
    if summary.more_problems:
        output.warning(f"not copied: {summary.more_problems:,} more")
    if summary.problems:
        raise click.exceptions.Exit(1)


class _Shown:
    """How far it is: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        self.done = 0
        self._said_at = time.monotonic()
        self._bar: Progress | None = None
        console = terminal()
        if console is not None:
            columns = (BarColumn(), DownloadColumn(True), TransferSpeedColumn())
            self._bar = Progress(
                *columns,
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)

    @property
    def drawing(self) -> AbstractContextManager[object]:
        return self._bar or nullcontext()

    def progress(self, done: int, total: int, name: str) -> None:
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=name)
        elif time.monotonic() - self._said_at > LINE_EVERY_S:
            self._said_at = time.monotonic()
            of_all = f"{units.format_bytes(done)} of {units.format_bytes(total)}"
            output.status(f"{of_all}, {done * 100 // max(total, 1)} %: {name}")
