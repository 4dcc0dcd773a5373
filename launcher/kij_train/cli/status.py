"""kij-train status"""

from __future__ import annotations

import time
from typing import Any

import click

from kij_train import diagnosis, jobs, units
from kij_train.cli import output
from kij_train.cli.onjob import connect, job_argument, output_option

MOST_ROWS = 64


@click.command("status")
@job_argument
@output_option("text", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Show the phase of every node of a job, and the verdict.

    FOR is how long the phase has lasted, AGE how old the pod is. Of a job of more than 64 nodes,
    those that do not run as the rest do; -o json has all.
    """
    found = jobs.status(connect(params), name)
    if form == "json":
        output.json_data(found.as_json())
        return
    rows = [row for row in found.nodes if len(found.nodes) <= MOST_ROWS or row.troubled]
    output.table(
        ("index", "phase", "for", "age", "restarts", "node", "pod", "reason"),
        (_row(node, found) for node in rows[:MOST_ROWS]),
    )
    counts = diagnosis.phases(found.nodes)
    output.data("  ".join(f"{phase.value} {count}" for phase, count in counts.items()))
    output.data("")
    output.data(found.verdict.text())


def _row(node: diagnosis.Node, found: jobs.JobStatus) -> tuple[str, ...]:
    dated = node.since is not None and not found.state.ended
    since = _ago(node.since) if dated else ""
    code = "" if node.exit_code is None else f"exit code {node.exit_code}"
    reason = ", ".join(filter(None, (node.reason, code)))
    restarts = str(found.restarts.get(node.index, 0))
    where = (node.node or "", node.pod or "")
    age = _ago(node.created)
    return str(node.index), node.phase.value, since, age, restarts, *where, reason


def _ago(epoch_s: float | None) -> str:
    return "" if epoch_s is None else units.format_seconds(max(0.0, time.time() - epoch_s))
