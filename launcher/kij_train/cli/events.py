"""kij-train events"""

from __future__ import annotations

from typing import Any

import click

from kij_train import jobs
from kij_train.cli import output
from kij_train.cli.onjob import connect, job_argument, output_option


@click.command("events")
@job_argument
@output_option("table", "json")
def command(name: str, form: str, **params: Any) -> None:
    """Show the events about a job and its pods, oldest first; clusters keep them for an hour."""
    cluster = connect(params)
    jobs.get(cluster, name)
    rows = []
    for event in jobs.events_of(cluster, name):
        about = event["involvedObject"]
        rows.append(
            {
                "time": event.get("lastTimestamp") or event.get("eventTime") or "",
                "type": event.get("type", ""),
                "reason": event.get("reason", ""),
                "object": f"{about['kind']}/{about['name']}",
                "count": event.get("count") or 1,
                "message": event.get("message", ""),
            }
        )
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
