"""kij-train comment"""

from __future__ import annotations

import os
from pathlib import Path

import click

from kij_train.cli import output
from kij_train.errors import RequestError
from kij_train.paths import shown


@click.command("comment")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--name",
    default="report",
    show_default=True,
    metavar="NAME",
    help="Which comment, where a pull request has several.",
)
@click.option(
    "--pull-request",
    "number",
    type=click.IntRange(1),
    metavar="N",
    help="Which pull request, if not that of the job of GitHub Actions that this runs in.",
)
def command(file: Path, name: str, number: int | None) -> None:
    """Put a report, Markdown in FILE, into the one comment of its name on a pull request.

    \b
      kij-train report NAME --format markdown -o report.md
      kij-train comment report.md --name NAME

    The comment is made, or brought up to date, unless a newer run has reported. It is found again
    by a hidden first line. In a job of GitHub Actions it takes GITHUB_TOKEN, with the permission
    `pull-requests: write`; elsewhere GITHUB_REPOSITORY and --pull-request as well. Where the job is
    of no pull request, nothing is done.
    """
    from kij_train.github import comment, job, pullrequest
    from kij_train.github.api import Repository

    try:
        markdown = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RequestError(f"{shown(str(file))} cannot be read: {error.strerror}") from None
    if not markdown.strip():
        raise RequestError(f"{shown(str(file))} is empty")
    event = job.event_of(os.environ)
    source = comment.Source.of(os.environ, event)
    marker = comment.Marker(comment.check_name(name), (source.number, source.attempt))
    if number is None and not event:
        raise RequestError(
            "this is no job of GitHub Actions, so the pull request is not known",
            hints=(f"say which one: kij-train comment {shown(str(file))} --pull-request N",),
        )
    number = number or pullrequest.number_in(event)
    if number is None and "workflow_run" not in event:
        output.status("this job is of no pull request: nothing to comment on")
        return
    repository = Repository(os.environ)
    number = number or pullrequest.number_of_run(repository, event)
    if number is None:
        output.status("no open pull request has the commit of that run as its head")
        return
    said = comment.put(repository, number, marker, comment.body_of(marker, markdown, source))
    output.status(f"pull request {number}: {said}")
