"""kij-train report"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kij_train.arrays import report as reports
from kij_train.arrays.view import outcomes_of
from kij_train.cli import output
from kij_train.cli.array_end import report_of
from kij_train.cli.onarray import array_argument, opened, up_to_date
from kij_train.errors import RequestError
from kij_train.paths import shown

FORMATS = ("text", "markdown", "json", "junit", "html")


@click.command("report")
@array_argument
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], help="Form of the report."
)
@click.option(
    "--output",
    "-o",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write it there.",
)
def command(name: str, form: str, path: Path | None, **params: Any) -> None:
    """Say what became of an array: counts, causes of failures, durations, what to do.

    Also while it runs. Exit code 0 when every item is done, 1 when one has failed, is missing, or
    is not done yet.
    """
    folder, cluster = opened(name, params)
    live = up_to_date(folder, cluster)
    found = report_of(folder, live)
    pieces: Iterable[str]
    if form == "junit":
        from kij_train.arrays import junit

        pieces = junit.pieces(found, outcomes_of(folder, live))
    elif form == "html":
        from kij_train.arrays import page

        pieces = [page.as_html(found)]
    elif form == "json":
        text = json.dumps(reports.as_json(found), indent=2, ensure_ascii=False)
        pieces = [text.encode("utf-8", "backslashreplace").decode() + "\n"]
    else:
        pieces = [reports.as_markdown(found) if form == "markdown" else reports.as_text(found)]
    if path is None:
        if form != "text":
            output.as_utf8()
        for piece in pieces:
            output.data(piece)
    else:
        _write(path, pieces)
        output.status(f"wrote {shown(str(path))}")
    raise click.exceptions.Exit(found.exit_code)


def _write(path: Path, pieces: Iterable[str]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise RequestError(f"--output {shown(str(path))}: {error.strerror}") from None
