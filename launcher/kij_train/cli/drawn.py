"""What is drawn at the bottom of a terminal while a job goes on, below the lines that it prints."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text
from typing_extensions import Self

from kij_train.cli import output

REFRESH_PER_S = 4


def terminal() -> Console | None:
    """The terminal of stderr; None where there is none, or its cursor cannot be moved."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


class Drawn:
    """Base of what is made anew REFRESH_PER_S times a second, by its own `__rich_console__`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(self, console=console, refresh_per_second=REFRESH_PER_S, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        raise NotImplementedError

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _print(self, line: str) -> None:
        """A line of the job: on the same terminal, rich puts it above what is drawn."""
        if sys.stdout.isatty():
            self.note(line)
        else:
            output.workload(line)
