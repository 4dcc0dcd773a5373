"""kij-train top"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from kij_train import extras
from kij_train.cli import output
from kij_train.cli.drawn import Drawn, terminal
from kij_train.cli.onjob import duration, job_argument, output_option
from kij_train.cli.where import connect
from kij_train.errors import RequestError

if TYPE_CHECKING:
    from kij_train.diagnosis.vitals import Board
    from kij_train.jobs.top import Top
    from kij_train.local.watching import LocalTop

GAP = 2
"""Blanks between two columns."""
LEAST_FIRST = (
    *("PCIE", "NVLINK", "CLOCK", "TEMP", "POWER", "MEM", "GPU", "CPU", "GPU MEM", "THROTTLED"),
    *("LATE", "STEP"),
)
"""Columns that a narrow terminal does without, in this order."""


@click.command("top")
@job_argument
@click.option("--local", "is_local", is_flag=True, help="NAME is a run with --local, here.")
@click.option("--index", type=int, metavar="I", help="Of the ranks of this node alone.")
@click.option("--all", "everyone", is_flag=True, help="Look at every pod, not at 8 of many.")
@click.option(
    "--interval",
    metavar="DURATION",
    callback=duration,
    default="2s",
    show_default=True,
    help="Between two looks.",
)
@click.option("--for", "lasts", metavar="DURATION", callback=duration, help="Stay so long.")
@click.option(
    "--record",
    metavar="FILE",
    help="Write every look to FILE as a line of JSON, and a plot beside it in the end.",
)
@output_option("text", "json")
def command(
    name: str,
    is_local: bool,
    index: int | None,
    everyone: bool,
    interval: int,
    lasts: int | None,
    record: str | None,
    form: str,
    **params: Any,
) -> None:
    """Show what every rank does now: cores, memory, its GPU, steps a second, and who is slow.

    On a terminal it stays until Ctrl-C or the job's end; elsewhere it looks once, unless --for or
    --record is given. 100% of CPU is one core. Steps are what the script writes into
    $KIJ_HEARTBEAT_FILE. Nothing is installed in the pods; you need the right to exec.

    With -o json: pods, each with its ranks and gpus, and findings; the last look.

    \b
      kij-train top NAME
      kij-train top NAME --for 5m --record run.jsonl
    """
    if is_local and everyone:
        raise RequestError("--all does not go with --local, which shows all ranks")
    if index is not None and everyone:
        raise RequestError("--index conflicts with --all: give one of them")
    watching = _opened(name, is_local, index, everyone, params)
    with watching, ExitStack() as stack:
        file = None if record is None else stack.enter_context(_created(record))
        watching.first()
        stays = lasts is not None or record is not None
        console = terminal() if form == "text" else None
        until = time.monotonic() + lasts if lasts is not None else float("inf")
        if not stays and console is None:
            until = time.monotonic() + interval + 1  # two looks, for the steps a second
        ended = _watch(watching, interval, until, console, name, _writer(watching.board, file))
    if form == "json":
        output.json_data(watching.board.as_json(time.monotonic()))
    else:
        _print(watching.board)
    if ended:
        output.status(f"{name} has ended")
    if record is not None:
        _plot(record)


def _opened(
    name: str, is_local: bool, index: int | None, everyone: bool, params: dict[str, Any]
) -> Top | LocalTop:
    if is_local:
        from kij_train.local.watching import LocalTop

        return LocalTop(name, index=index)
    from kij_train.jobs.top import Top

    return Top(connect(params), name, index=index, everyone=everyone)


def _watch(
    watching: Top | LocalTop,
    interval: int,
    until: float,
    console: Console | None,
    name: str,
    write: Callable[[], None],
) -> bool:
    """Look until then, Ctrl-C or the job's end; whether it has ended."""
    with ExitStack() as stack:
        if console is not None:
            stack.enter_context(_Live(name, watching, console))
        try:
            while True:
                left = max(0.0, until - time.monotonic())
                goes_on = watching.look(min(interval, max(left, 1.0)))
                write()
                if not goes_on:
                    return True
                if time.monotonic() >= until:
                    return False
        except KeyboardInterrupt:
            return False


def _print(board: Board) -> None:
    output.table(board.columns(), board.rows())
    findings = board.findings(time.monotonic())
    if findings:
        output.data("")
    for finding in findings:
        output.data(finding)


class _Live(Drawn):
    """The table, at the bottom of the terminal."""

    def __init__(self, name: str, watching: Top | LocalTop, console: Console) -> None:
        super().__init__(console)
        self._name, self._watching = name, watching

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield live_table(
            self._name, self._watching.board, self._watching.running, console.height, options
        )


def live_table(
    name: str, board: Board, running: int, height: int, options: ConsoleOptions
) -> Group:
    """What fits the terminal: findings, and as many rows and columns as there is room for."""
    findings = board.findings(time.monotonic())
    most = max(3, height // 3)
    if len(findings) > most:
        findings[most:] = [f"and {len(findings) - most} more: kij-train top {name} -o json"]
    looked_at = len(board.pods)
    head = Text(name, style="bold")
    of_all = f"{looked_at} of {running} running nodes" if looked_at < running else ""
    head.append(f"  {of_all or f'{looked_at} nodes'}", style="not bold")
    room = max(1, height - len(findings) - 4)
    rows = board.rows()
    table = [tuple(title.upper() for title in board.columns()), *rows[:room]]
    fit = columns_that_fit(table, options.max_width)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in (table[0][column] for column in fit):
        grid.add_column(title, no_wrap=True)
    for row in table[1:]:
        grid.add_row(*(Text(row[column]) for column in fit))
    missing = [title for column, title in enumerate(table[0]) if column not in fit]
    notes = [f"and {len(rows) - room} more"] if len(rows) > room else []
    notes += [f"no room for {', '.join(missing)}"] if missing else []
    rest = [Text(", ".join(notes), style="dim")] if notes else []
    return Group(head, grid, *rest, *(Text(finding, style="yellow") for finding in findings))


def columns_that_fit(table: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns to show: of a terminal that is too narrow, first those that tell the least."""
    widths = [max(map(len, column)) + GAP for column in zip(*table, strict=True)]
    kept = list(range(len(widths)))
    for title in LEAST_FIRST:
        if sum(widths[column] for column in kept) - GAP <= width:
            break
        kept = [column for column in kept if table[0][column] != title]
    return kept


# --- records --------------------------------------------------------------------------------------


def _created(record: str) -> TextIO:
    """The file, new. Raises RequestError."""
    try:
        return Path(record).open("x", encoding="utf-8")
    except FileExistsError:
        raise RequestError(
            f"--record {record}: is there already", hints=("name another file, or remove it first",)
        ) from None
    except OSError as error:
        raise RequestError(f"--record {record}: cannot be written: {error.strerror}") from None


def _writer(board: Board, file: TextIO | None) -> Callable[[], None]:
    def write() -> None:
        if file is None:
            return
        look = {"time": round(time.time(), 3), **board.as_json(time.monotonic())}
        try:
            file.write(json.dumps(look) + "\n")
            file.flush()
        except OSError as error:
            raise RequestError(f"--record {file.name}: {error.strerror}") from None

    return write


def _plot(record: str) -> None:
    if not extras.has("matplotlib"):
        output.status(f"wrote {record}")
        output.note("no plot, which needs matplotlib:", (extras.pip_line("matplotlib"),))
        return
    from kij_train.jobs.vitalsplot import plot

    files = plot(Path(record))
    output.status(f"wrote {', '.join([record, *map(str, files)])}")
