"""kij-train events"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import job_argument, output_option
from kij_train.cli.where import connect

STANDS_BY = {
    "type": "Normal",
    "reason": "Standby",
    "message": "stood by; Kubernetes calls a pod Unhealthy and not ready until it trains",
}


@click.command("events")
@job_argument
@output_option("table", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Show the events about a job and its pods, oldest first; clusters keep them for an hour."""
    cluster = connect(params)
    restarts = jobs.get(cluster, name).restarts_by_itself
    rows = []
    for event in jobs.events_of(cluster, name):
        about = event["involvedObject"]
        row = {
            "time": event.get("lastTimestamp") or event.get("eventTime") or "",
            "type": event.get("type", ""),
            "reason": event.get("reason", ""),
            "object": f"{about['kind']}/{about['name']}",
            "count": event.get("count") or 1,
            "message": event.get("message", ""),
        }
        rows.append({**row, **STANDS_BY} if restarts and _of_readiness(event) else row)
    if form == "json":
        output.json_data(rows)
    else:
        output.table(
            ("time", "type", "reason", "object", "message"),
            (
                (row["time"], row["type"], row["reason"], row["object"], row["message"].strip())
                for row in rows
            ),
        )


def _of_readiness(event: Mapping[str, Any]) -> bool:
    """Whether an event only says that a pod is not ready: in a job that restarts, it stands by."""
    said = str(event.get("message", ""))
    return event.get("reason") == "Unhealthy" and said.startswith("Readiness probe failed")
