"""kij-train delete"""

from __future__ import annotations

import sys
from typing import Any

import click

from kij_train import jobs
from kij_train.cli import completers, output
from kij_train.cli.onjob import (
    choice_options,
    chosen_labels,
    job_name,
    output_option,
    where_options,
)
from kij_train.cli.where import address, connect
from kij_train.diagnosis import JobState
from kij_train.errors import RequestError
from kij_train.jobs import array_found, change

FINISHED = (JobState.SUCCEEDED, JobState.FAILED)


@click.command("delete")
@click.argument(
    "names", metavar="[NAME]...", nargs=-1, callback=job_name, shell_complete=completers.jobs
)
@where_options
@click.option("--finished", is_flag=True, help="All jobs that have succeeded or failed.")
@choice_options
@click.option("--yes", "-y", is_flag=True, help="With --finished: do not ask.")
@output_option("text", "json")
def command(names: tuple[str, ...], finished: bool, yes: bool, form: str, **params: Any) -> None:
    """Remove jobs with their pods, Services, code and logs.

    With -o json: a list with name, namespace and uid of each, and the state that it was in.
    """
    _check(names, finished, yes, params)
    cluster = connect(params)
    if finished:
        found = jobs.list_jobs(cluster, labels=chosen_labels(params))
        names = tuple(job.name for job in found if job.state in FINISHED)
        if not names:
            output.status(f"no finished jobs in namespace {cluster.namespace}")
        elif not yes and not _agrees(names, cluster.namespace):
            return
    deleted = []
    try:
        for name in names:
            for each in [name] if finished else array_found.named(cluster, name):
                deleted.append(change.delete(cluster, each))
                if form == "text":
                    output.status(f"deleted {each}")
    finally:
        for text in cluster.warnings:
            output.warning(text)
        # those before one that is refused are gone all the same
        if form == "json":
            output.json_data([{**job.identity(), "state": job.state.value} for job in deleted])


def _check(names: tuple[str, ...], finished: bool, yes: bool, params: dict[str, Any]) -> None:
    """Names, or a choice that somebody can be asked about. Raises RequestError."""
    if finished and names:
        raise RequestError(f"--finished conflicts with {names[0]}: give one of them")
    if not finished:
        for flag, given in (("--label", params["labels"]), ("--mine", params["mine"])):
            if given:
                raise RequestError(f"{flag} goes with --finished alone")
        if not names:
            raise RequestError("nothing to delete: name jobs, or --finished")
    if finished and not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RequestError(
            "--finished asks before it deletes, and this is no terminal",
            hints=(f"without asking: {_without_asking(params)}",),
        )


def _without_asking(params: dict[str, Any]) -> str:
    """The command as it was given, with --yes."""
    chosen = [word for label in params["labels"] for word in ("--label", label)]
    chosen += ["--mine"] if params["mine"] else []
    return address(params).command("delete", "--finished", *chosen, "--yes")


def _agrees(names: tuple[str, ...], namespace: str) -> bool:
    for name in names:
        output.status(f"  {name}")
    what = f"Delete {'this job' if len(names) == 1 else f'these {len(names)} jobs'}"
    return click.confirm(f"{what} of namespace {namespace}, with their logs?", err=True)
