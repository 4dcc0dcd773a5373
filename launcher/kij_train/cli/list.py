"""kij-train list"""

from __future__ import annotations

import time
from typing import Any

import click

from kij_train import diagnosis, jobs, units
from kij_train.cli import output
from kij_train.cli.onjob import choice_options, chosen_labels, output_option, where_options
from kij_train.cli.where import connect
from kij_train.diagnosis import JobState

GOING_ON = (JobState.PENDING, JobState.RUNNING)


@click.command("list")
@where_options
@choice_options
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in JobState]),
    multiple=True,
    help="Only those in this state. Repeatable.",
)
@click.option("--all-namespaces", "-A", "everywhere", is_flag=True, help="In all namespaces.")
@output_option("table", "json")
def command(states: tuple[str, ...], everywhere: bool, form: str, **params: Any) -> None:
    """List the jobs that kij-train made, newest first.

    NODES counts spares behind a plus. READY counts the nodes that run; with --restart, that train.
    REPLACED counts the pods that have failed and were replaced, and, with --restart, how many may
    be in all. How often a job has started its ranks again is in status.
    """
    cluster = connect(params)
    found = jobs.list_jobs(cluster, everywhere=everywhere, labels=chosen_labels(params))
    if states:
        found = [job for job in found if job.state.value in states]
    if form == "json":
        output.json_data([job.as_json() for job in found])
        return
    if not found:
        where = "any namespace" if everywhere else f"namespace {cluster.namespace}"
        chosen = " that were asked for" if states or params["labels"] or params["mine"] else ""
        output.status(f"no jobs of kij-train{chosen} in {where}")
        return
    header = ("name", "age", "nodes", "gpus", "state", "ready", "replaced")
    if everywhere:
        output.table(("namespace", *header), ((job.namespace, *_row(job)) for job in found))
    else:
        output.table(header, map(_row, found))


def _row(job: jobs.JobSummary) -> tuple[str, ...]:
    created = diagnosis.epoch(job.created)
    age = "" if created is None else units.format_seconds(max(0.0, time.time() - created))
    wanted = job.nodes - job.spares
    nodes = f"{wanted}+{job.spares}" if job.spares else str(wanted)
    ready = f"{job.ready}/{wanted}" if job.state in GOING_ON else ""
    restarts = str(job.restarts)
    if job.reserve:
        restarts = f"{job.reserve - job.reserve_left} of {job.reserve}"
    counts = job.state.value, ready, restarts
    return job.name, age, nodes, str(job.gpus or "-"), *counts
