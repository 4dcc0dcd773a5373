"""kij-train cancel"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import jobs
from kij_train.arrays import store
from kij_train.arrays.store import ArrayFolder
from kij_train.cli import output
from kij_train.cli.onjob import duration, job_argument, output_option
from kij_train.cli.where import connect
from kij_train.diagnosis import JobState
from kij_train.jobs import JobSummary, array_found, change

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


@click.command("cancel")
@job_argument
@click.option(
    "--grace",
    "grace_s",
    metavar="DURATION",
    callback=duration,
    help="From SIGTERM to SIGKILL, shorter than the job was launched with: 5s, 1m. Takes the right "
    "to delete pods.",
)
@output_option("text", "json")
def command(name: str, grace_s: int | None, form: str, **params: Any) -> None:
    """End the pods of a job; the Job stays, readable as cancelled.

    Every rank gets SIGTERM, and its pod's grace period to save a checkpoint. A job that has ended
    stays as it is, but --grace hastens the pods of one that was cancelled. `kij-train resume`
    starts a cancelled job again. Of a sweep whose trials are Jobs, all are ended.

    With -o json: name, namespace, uid, state and stateBefore, of several trials in a list.
    """
    cluster = connect(params)
    trials = array_found.named(cluster, name)
    with _keeping(cluster, trials):
        found = [change.cancel(cluster, each, grace_s=grace_s) for each in trials]
    for text in cluster.warnings:
        output.warning(text)
    before = found[0]
    hastened = grace_s is not None and before.state is JobState.CANCELLED
    if form == "json":
        told = [_as_json(one) for one in found]
        output.json_data(told if len(told) > 1 else told[0])
    elif len(trials) > 1:
        again = cluster.address.command("rerun", name, "--failed")
        output.status(f"the {len(trials):,} trials of {name} are cancelled, unless they had ended")
        output.status(f"  run the rest: {again}")
    elif before.state.ended and not hastened:
        output.status(f"{name} had ended already: {before.state.value}")
    else:
        output.status(f"{name} is cancelled")
        output.status(f"  start it again: {cluster.address.on_job('resume', name)}")
        output.status(f"  remove it:      {cluster.address.on_job('delete', name)}")


@contextlib.contextmanager
def _keeping(cluster: Cluster, trials: list[str]) -> Iterator[None]:
    """Keep what an array has done whose folder is here, and that runs."""
    known = store.known(Path.cwd())
    job = jobs.get(cluster, trials[0]) if known and len(trials) == 1 else None
    if job is None or job.array not in known or job.state.ended:
        yield
        return
    from kij_train.jobs.array_cancel import keeping

    folder = ArrayFolder.open(Path.cwd(), job.array)
    with keeping(cluster, folder, job.uid, output.warning):
        yield


def _as_json(before: JobSummary) -> dict[str, Any]:
    state = before.state if before.state.ended else JobState.CANCELLED
    return {**before.identity(), "state": state.value, "stateBefore": before.state.value}
