"""kij-train status"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from kij_train import diagnosis, jobs, units
from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect
from kij_train.errors import RequestError
from kij_train.jobs import array_found

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MOST_ROWS = 64


@click.command("status")
@job_argument
@click.option(
    "--watch", "-w", is_flag=True, help="Stay, with a live table, until the job has ended."
)
@output_option("text", "json")
def command(name: str, watch: bool, form: str, **params: Any) -> None:
    """Show the phase of every node of a job, and the verdict.

    FOR is how long the phase has lasted, AGE how old the pod is, REPLACED how many pods the index
    had before. Of a job of more than 64 nodes, only those in trouble are shown; -o json
    has all. Of a sweep whose trials are Jobs, `trials` has a row for each.
    """
    cluster = connect(params)
    if watch:
        if form == "json":
            raise RequestError(
                "--watch does not go with -o json",
                hints=(f"the end as JSON: {cluster.address.on_job('wait', name, '-o', 'json')}",),
            )
        _watch(cluster, name)
    found = jobs.status(cluster, name, glance=form == "text")
    if form == "json":
        said = found.as_json()
        if array_found.is_trial(found.job):
            trials = array_found.trials_of(cluster, str(found.job.array))
            said["trials"] = [jobs.summary_of(job).as_json() for job in trials]
        output.json_data(said)
        return
    rows = [row for row in found.nodes if len(found.nodes) <= MOST_ROWS or row.troubled]
    output.table(
        ("index", "phase", "for", "age", "replaced", "machine", "pod", "reason"),
        (_row(node, found) for node in rows[:MOST_ROWS]),
    )
    counts = diagnosis.phases(found.nodes)
    output.data("  ".join(f"{phase.value} {count}" for phase, count in counts.items()))
    if found.job.reserve:
        left = f"{found.job.reserve_left} of {found.job.reserve}"
        output.data(f"in reserve, for pods that may be lost: {left} indexes")
    if array_found.is_trial(found.job):
        _print_trials(cluster, str(found.job.array))
    elif found.items is not None:
        done, failed = found.items
        every = cluster.address.command("report", str(found.job.array))
        output.data(f"items done {done:,}, failed {failed:,}; every one: {every}")
    elif found.job.array is not None:
        output.data(f"every item: {cluster.address.command('report', found.job.array)}")
    output.data("")
    output.data(found.verdict.text())


def _print_trials(cluster: Cluster, array: str) -> None:
    """The Jobs of a sweep whose trials are Jobs; the table above is of one of them."""
    trials = array_found.trials_of(cluster, array)
    output.data("")
    output.table(
        ("trial", "state", "age"),
        (
            (job.name, job.state.value, _ago(diagnosis.epoch(job.created)))
            for job in trials[:MOST_ROWS]
        ),
    )
    counts = Counter(job.state.value for job in trials)
    said = "  ".join(f"{state} {count}" for state, count in counts.items())
    every = cluster.address.command("report", array)
    output.data(f"trials: {said}; every one: {every}")


def _watch(cluster: Cluster, name: str) -> None:
    from kij_train.cli.view import view
    from kij_train.cluster.observe import Note, Observation

    job = jobs.get(cluster, name)
    with view(name, job) as shown, Observation(cluster, name, job=job) as observed:
        for event in observed.events():
            if isinstance(event, Note):
                shown.note(event.text)
            else:
                shown.change(observed)


def _row(node: diagnosis.Node, found: jobs.JobStatus) -> tuple[str, ...]:
    dated = node.since is not None and not found.state.ended
    since = _ago(node.since) if dated else ""
    code = "" if node.exit_code is None else f"exit code {node.exit_code}"
    reason = ", ".join(filter(None, (node.reason, code)))
    replaced = str(found.replaced.get(node.index, 0))
    where = (node.node or "", node.pod or "")
    age = _ago(node.created)
    return str(node.index), node.phase.value, since, age, replaced, *where, reason


def _ago(epoch_s: float | None) -> str:
    return "" if epoch_s is None else units.format_seconds(max(0.0, time.time() - epoch_s))
