"""The only printer: data and the workload's output to stdout, status to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click


def data(text: str) -> None:
    """What was asked for."""
    click.echo(text, nl=not text.endswith("\n"))


def json_data(value: Any) -> None:
    """What was asked for, for machines."""
    data(json.dumps(value, indent=2, ensure_ascii=False))


def status(text: str) -> None:
    """A line about what is going on."""
    click.echo(text, err=True)


def warning(text: str, hints: Iterable[str] = ()) -> None:
    """Something that the user may not want, and that is done nevertheless."""
    _with_label("warning", "yellow", text, hints)


def error(text: str, hints: Iterable[str] = ()) -> None:
    """Why it did not work, and what to do."""
    _with_label("error", "red", text, hints)


def note(text: str, hints: Iterable[str] = ()) -> None:
    """What became of what the user chose, and how to go on."""
    click.echo(text, err=True)
    for hint in hints:
        click.echo(f"  {hint}", err=True)


def verdict(text: str, hints: Iterable[str] = ()) -> None:
    """How a job ended."""
    note("\n" + text, hints)


def _with_label(label: str, colour: str, text: str, hints: Iterable[str]) -> None:
    click.echo(
        f"{click.style(label + ':', fg=colour, bold=True)} {text}", err=True, color=colours()
    )
    for hint in hints:
        click.echo(f"  {hint}", err=True)


def colours() -> bool:
    """Whether stderr takes colours: a terminal, and NO_COLOR is not set (no-color.org)."""
    import os

    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns for people; as wide as they need when stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="")
    for name in header:
        grid.add_column(name.upper(), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(grid)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


LABEL_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")


def log_line(line: str, label: str | None, index: int) -> None:
    """A line of a node's log, with a label in the node's own colour where there are several."""
    import os

    if label is not None:
        shown = click.style(label, fg=LABEL_COLOURS[index % len(LABEL_COLOURS)])
        line = f"{label if os.environ.get('NO_COLOR') else shown} | {line}"
    click.echo(line)


def workload(line: str, *, to_stderr: bool = False) -> None:
    """A line of the workload's output."""
    click.echo(line, err=to_stderr)
