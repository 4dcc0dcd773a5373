"""kij-train report"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kij_train.arrays import report as reports
from kij_train.arrays import sought, sweepplots
from kij_train.arrays.findings import findings_in
from kij_train.arrays.objective import Objective
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli import output
from kij_train.cli.array_end import report_of
from kij_train.cli.findings import exit_code_of, print_findings, sought_by
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
@click.option("--min", "minimize", metavar="METRIC", help="Sort points, the smallest first.")
@click.option("--max", "maximize", metavar="METRIC", help="Sort points, the largest first.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw what a sweep has found, as .png and .svg (needs matplotlib).",
)
def command(
    name: str,
    form: str,
    path: Path | None,
    minimize: str | None,
    maximize: str | None,
    plot: Path | None,
    **params: Any,
) -> None:
    """Say what became of an array: counts, causes of failures, durations, what to do.

    Of a sweep also its points, the best one first, and what each parameter did; of an evaluation
    its metrics and the verdict of its gates.

    Also while it runs. Exit code 0 when every item is done and all is well, 1 when one has failed,
    is missing, or is not done yet, 6 when a gate cannot decide.
    """
    objective = sought_by(minimize, maximize)
    folder, cluster = opened(name, params)
    live = up_to_date(folder, cluster)
    found = report_of(folder, live)
    findings = findings_in(folder, found, live, objective, with_picture=form == "html")
    if plot is not None:
        _draw(folder, live, objective, plot)
    pieces: Iterable[str]
    if form == "junit":
        from kij_train.arrays import junit

        checks = () if findings is None else findings.checks
        pieces = junit.pieces(found, outcomes_of(folder, live), checks)
    elif form == "html":
        from kij_train.arrays import page

        pieces = [page.as_html(found, findings)]
    elif form == "json":
        told = reports.as_json(found)
        if findings is not None:
            told[findings.kind] = findings.json
        text = json.dumps(told, indent=2, ensure_ascii=False)
        pieces = [text.encode("utf-8", "backslashreplace").decode() + "\n"]
    else:
        text = reports.as_markdown(found) if form == "markdown" else reports.as_text(found)
        pieces = [findings.markdown if findings and form == "markdown" else text]
    if path is None:
        if form != "text":
            output.as_utf8()
        for piece in pieces:
            output.data(piece)
    else:
        _write(path, pieces)
        output.status(f"wrote {shown(str(path))}")
    if findings is not None and form == "text" and path is None:
        print_findings(findings)
    raise click.exceptions.Exit(exit_code_of(found, findings))


def _draw(folder: ArrayFolder, live: Live | None, objective: Objective | None, path: Path) -> None:
    found = sought.sweep_in(folder, live, objective)
    if found is None:
        raise RequestError(
            f"--plot: {folder.name} seeks no metric",
            hints=(f"name one: kij-train report {folder.name} --min METRIC --plot {path}",),
        )
    base = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    for file in sweepplots.write(found, sought.order_of(folder), base):
        output.status(f"wrote {shown(str(file))}")


def _write(path: Path, pieces: Iterable[str]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise RequestError(f"--output {shown(str(path))}: {error.strerror}") from None
