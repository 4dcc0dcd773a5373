"""kij-train results"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import click

from kij_train.arrays import formats
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli import output
from kij_train.cli.onarray import array_argument, opened, up_to_date
from kij_train.errors import RequestError
from kij_train.paths import shown

FORMATS = ("jsonl", "csv", "table")
MOST_NAMED = 10
MOST_ROWS = 1_000
"""Of a table, which people read."""


@click.command("results")
@array_argument
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], help="Form of the results."
)
@click.option("--partial", is_flag=True, help="Those that there are, also while it runs.")
def command(name: str, form: str, partial: bool, **params: Any) -> None:
    """Print the results of an array: the records of its items, in the order of the list.

    Of an item that was run several times, those of its newest success. Exit code 0 when every item
    has left some, else 1, with the missing keys on stderr; with --partial 0.
    """
    folder, cluster = opened(name, params)
    live = up_to_date(folder, cluster, partial=partial)
    if not partial:
        _check_ended(folder, live)
    counter = _Counter()
    outcomes = counter.of(outcomes_of(folder, live))
    output.as_utf8()
    if form == "jsonl":
        for line in formats.jsonl(outcomes):
            output.data(line)
    elif form == "csv":
        fields = formats.fields_of(outcomes_of(folder, live))
        for text in formats.csv_text(outcomes, fields):
            output.data(text)
    else:
        columns = formats.header(formats.fields_of(outcomes_of(folder, live)))
        output.table(columns, formats.rows(_first(outcomes, name), columns))
    if counter.tell(folder, partial):
        raise click.exceptions.Exit(1)


def _check_ended(folder: ArrayFolder, live: Live) -> None:
    """Raise RequestError for an array that goes on."""
    if any(live.values()):
        flags = folder.about.where.flags
        raise RequestError(
            f"{folder.name} has not ended",
            hints=(
                f"what there is so far: kij-train results {folder.name} --partial{flags}",
                f"how far it is: kij-train report {folder.name}{flags}",
            ),
        )


def _first(outcomes: Iterator[Outcome], name: str) -> Iterator[Outcome]:
    """The first MOST_ROWS; the others are only counted."""
    left_out = 0
    for number, one in enumerate(outcomes):
        if number < MOST_ROWS:
            yield one
        else:
            left_out += 1
    if left_out:
        output.status(f"{left_out:,} more items: kij-train results {name} --format csv")


def _on_volume(folder: ArrayFolder) -> list[str]:
    """How to read records that are on a volume of the pods: this machine cannot."""
    request = folder.about.request
    place = f"{str(request.get('results')).rstrip('/')}/{folder.name}"
    hints = [
        f"their records are on a volume, in {place}/attempt-N-…: copy part-*.jsonl from there into "
        f"{folder.path}/attempt-N, and ask again"
    ]
    for mount in request.get("mounts") or ():
        if PurePosixPath(place).is_relative_to(str(mount.get("path"))):
            given = f"{mount['type']}:{mount['source']}:{mount['path']}:ro"
            words = ["kij-train", "launch", "--no-code", "--no-torchrun", "--mount", given]
            words += ["--image", str(request.get("image")), "--no-python", "sh", "-c"]
            line = shlex.join([*words, f"cat {shlex.quote(place)}/attempt-*/part-*.jsonl"])
            flags = folder.about.where.flags
            hints.append(f"or all of them: {line.replace(' launch ', f' launch{flags} ', 1)}")
    return hints


class _Counter:
    """Which items that go by have no record."""

    def __init__(self) -> None:
        self._counts: Counter[State] = Counter()
        self._named: list[str] = []
        self._without = 0

    def of(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """The same outcomes."""
        for one in outcomes:
            if not one.records:
                self._without += 1
                self._counts[one.state] += 1
                if len(self._named) < MOST_NAMED:
                    self._named.append(shown(one.key))
            yield one

    def tell(self, folder: ArrayFolder, partial: bool) -> bool:
        """Name what is missing; whether that is a failure."""
        if not self._without:
            return False
        states = ", ".join(f"{state.value} {count:,}" for state, count in self._counts.items())
        more = f" and {self._without - len(self._named):,} more" * (
            self._without > len(self._named)
        )
        text = (
            f"without a record: {self._without:,} items ({states}): {', '.join(self._named)}{more}"
        )
        flags = folder.about.where.flags
        if partial:
            output.status(text)
            return False
        hints = [f"why: kij-train report {folder.name}{flags}"]
        if self._counts[State.DONE] or self._counts[State.FAILED]:
            hints += _on_volume(folder)
        else:
            hints.append(f"run them again: kij-train rerun {folder.name} --failed{flags}")
        output.warning(text, hints)
        return True
