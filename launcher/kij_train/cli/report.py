"""kij-train report"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train.arrays import sought, sweepplots
from kij_train.arrays.objective import Objective
from kij_train.cli import output
from kij_train.cli.findings import sought_by
from kij_train.cli.onarray import array_argument
from kij_train.cli.reported import FORMATS, OfArray, Reported, reported
from kij_train.errors import RequestError
from kij_train.paths import shown

if TYPE_CHECKING:
    from kij_train.github.job import Job


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
@click.option(
    "--github",
    is_flag=True,
    help="In a job of GitHub Actions: annotations as well, the report in the step's summary, and "
    "outputs: verdict, exit-code, failed-indexes, missing-indexes.",
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
    github: bool,
    minimize: str | None,
    maximize: str | None,
    plot: Path | None,
    **params: Any,
) -> None:
    """Say what became of an array: counts, causes of failures, durations, what to do.

    Of a sweep also its points, the best one first, and what each parameter did; of an evaluation
    its metrics and the verdict of its gates. Of a job of nodes that train as one, the verdict.

    Also while it runs. Exit code 0 when every item is done and all is well, 1 when one has failed,
    is missing, or is not done yet, 6 when a gate cannot decide.
    """
    from kij_train.github.job import Job

    job = Job.here() if github else None
    objective = sought_by(minimize, maximize)
    found = reported(name, params, objective, with_picture=form == "html")
    if plot is not None:
        _draw(name, found, objective, plot)
    pieces = found.pieces(form)
    if path is None:
        if form != FORMATS[0]:
            output.as_utf8()
        for piece in pieces:
            output.data(piece)
    else:
        _write(path, pieces)
        output.status(f"wrote {shown(str(path))}")
    if form == FORMATS[0] and path is None:
        found.print_more()
    if job is not None:
        _tell(job, found)
    raise click.exceptions.Exit(found.exit_code)


def _tell(job: Job, found: Reported) -> None:
    """Tell GitHub. The runner reads annotations in both streams; only stderr is not data."""
    from kij_train.github import annotations

    sys.stdout.flush()  # the runner takes a command for one only where it begins a line
    for line in annotations.lines(
        found.annotations(), lambda file: job.locate(found.code_dir, file)
    ):
        output.status(line)
    if not job.summarize("".join(found.pieces("markdown"))):
        output.status("the step's summary is full (1 MiB): it has the first line of the report")
    job.put_out(found.outputs())


def _draw(name: str, found: Reported, objective: Objective | None, path: Path) -> None:
    sweep = None
    if isinstance(found, OfArray):
        sweep = sought.sweep_in(found.folder, found.live, objective)
    if sweep is None or not isinstance(found, OfArray):
        raise RequestError(
            f"--plot: {name} seeks no metric",
            hints=(f"name one: kij-train report {name} --min METRIC --plot {path}",),
        )
    base = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    for file in sweepplots.write(sweep, sought.order_of(found.folder), base):
        output.status(f"wrote {shown(str(file))}")


def _write(path: Path, pieces: Iterable[str]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise RequestError(f"--output {shown(str(path))}: {error.strerror}") from None
