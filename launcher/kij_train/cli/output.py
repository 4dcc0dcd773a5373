"""The only printer: data and the workload's output to stdout, status to stderr.

Data that cannot be written is an error, status is not: nothing that a stream does may keep a
command from its work, or take its exit code. A stream that is broken is not written to again.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

import click

from kij_train.errors import KijError
from kij_train.paths import steers


def prepare() -> None:
    """Let the standard streams take any text, even in a locale that lacks its characters."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # closed: the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_utf8() -> None:
    """What follows on stdout is JSON or YAML, which are UTF-8 in any locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def abandon(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere; Python flushes it at its end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def one_file() -> bool:
    """Whether stdout and stderr are the same terminal, pipe or file."""
    out, err = os.fstat(1), os.fstat(2)
    return (out.st_dev, out.st_ino, out.st_rdev) == (err.st_dev, err.st_ino, err.st_rdev)


def data(text: str) -> None:
    """What was asked for. Raises BrokenPipeError, and KijError for data that got lost."""
    try:
        click.echo(text, nl=not text.endswith("\n"))
    except OSError as error:
        abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise BrokenPipeError("the reader has left") from None  # click takes EPIPE for itself
        raise KijError(f"standard output cannot be written: {error.strerror}") from None


def json_data(value: Any) -> None:
    """What was asked for, for machines."""
    as_utf8()
    data(json.dumps(value, indent=2, ensure_ascii=False))


def yaml_data(text: str) -> None:
    """What was asked for, for machines."""
    as_utf8()
    data(text)


def status(text: str) -> None:
    """A line about what is going on."""
    _tell(text)


def question(text: str) -> None:
    """What is asked, with the answer to come behind it."""
    _tell(text, nl=False)


def _tell(text: str, color: bool | None = None, *, nl: bool = True) -> None:
    try:
        click.echo(text, err=True, color=color, nl=nl)
    except OSError:
        abandon(sys.stderr)


def warning(text: str, hints: Iterable[str] = ()) -> None:
    """Something that the user may not want, and that is done nevertheless."""
    _with_label("warning", "yellow", text, hints)


def error(text: str, hints: Iterable[str] = ()) -> None:
    """Why it did not work, and what to do."""
    _with_label("error", "red", text, hints)


def note(text: str, hints: Iterable[str] = ()) -> None:
    """What came of a choice of the user's, and how to go on."""
    _tell(readable(text))
    for hint in hints:
        _tell(f"  {readable(hint)}")


LAST_WORDS_S = 1.0
"""How long a command that was told to end waits for whoever reads its output."""


def last_words(text: str, hints: Iterable[str], exit_code: int) -> None:
    """Why a command that was told to end has ended.

    Does not return where stdout or stderr stands still: Python's own end would wait for it.
    """

    def say() -> None:
        note(text, hints)
        with suppress(OSError):
            sys.stdout.flush()

    saying = threading.Thread(target=say, name="last words", daemon=True)
    saying.start()
    saying.join(LAST_WORDS_S)
    if saying.is_alive():
        os._exit(exit_code)


def verdict(text: str, hints: Iterable[str] = ()) -> None:
    """How a job ended."""
    note("\n" + text, hints)


def _with_label(label: str, colour: str, text: str, hints: Iterable[str]) -> None:
    _tell(f"{click.style(label + ':', fg=colour, bold=True)} {readable(text)}", colours())
    for hint in hints:
        _tell(f"  {readable(hint)}")


def readable(text: str) -> str:
    """A message that may quote anything: without what steers a terminal, its long words cut."""
    shortened = _LONG_WORD.sub(_cut, text)
    return "".join(_ascii(one) if steers(one) and one not in "\n\t" else one for one in shortened)


LONGEST_WORD = 1000
"""Of a message, in characters: paths and URLs are shorter."""
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def _cut(word: re.Match[str]) -> str:
    length = len(word[0])
    return f"{word[0][:60]}…{word[0][-20:]} ({length:,} characters)"


def _ascii(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else (f"\\x{ord(character):02x}")
    )


def colours() -> bool:
    """Whether stderr takes colours: a terminal, and NO_COLOR is not set (no-color.org)."""
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
        data(line.rstrip() + "\n")


LABEL_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")


def log_line(line: str, label: str | None, index: int) -> None:
    """A line of a node's log, with a label in the node's own colour where there are several."""
    if label is not None:
        shown = click.style(label, fg=LABEL_COLOURS[index % len(LABEL_COLOURS)])
        line = f"{label if os.environ.get('NO_COLOR') else shown} | {line}"
    data(line + "\n")


def workload(line: str, *, to_stderr: bool = False) -> None:
    """A line of the workload's output. Raises BrokenPipeError when its reader has left.

    Where it cannot be written otherwise, it is lost, which is said once; the work goes on.
    """
    try:
        click.echo(line, err=to_stderr)
    except OSError as error:
        abandon(sys.stderr if to_stderr else sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        name = "error" if to_stderr else "output"
        warning(f"standard {name} cannot be written, what comes is lost: {error.strerror}")
