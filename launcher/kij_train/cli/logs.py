"""kij-train logs"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kij_train import jobs
from kij_train.cli import array_logs, output
from kij_train.cli.onjob import duration, job_argument, note, output_option
from kij_train.cli.where import connect
from kij_train.diagnosis import JobView
from kij_train.errors import RequestError

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogLine


@click.command("logs")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Stay until the job ends; waits for its pods.")
@click.option(
    "--index", "indexes", type=int, multiple=True, metavar="I", help="Of this node. Repeatable."
)
@click.option(
    "--rank",
    "ranks",
    type=int,
    multiple=True,
    metavar="R",
    help="Of the node of this rank; not with --restart, where ranks move. Repeatable.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Of this item of an array. Repeatable.",
)
@click.option("--failed", is_flag=True, help="Of the items of an array that are not done.")
@click.option("--all", "everybody", is_flag=True, help="Of all nodes, by time.")
@click.option(
    "--since", metavar="DURATION", callback=duration, help="Only lines younger than 90s, 10m, 1h."
)
@click.option(
    "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each node."
)
@click.option("--grep", "pattern", metavar="REGEX", help="Only lines in which this is found.")
@click.option("--timestamps", is_flag=True, help="Begin lines with their time, as kubectl does.")
@click.option(
    "--previous", "-p", is_flag=True, help="Of the pod before the newest, where one was replaced."
)
@output_option("text", "json")
def command(
    name: str,
    follow: bool,
    indexes: tuple[int, ...],
    ranks: tuple[int, ...],
    keys: tuple[str, ...],
    failed: bool,
    everybody: bool,
    since: int | None,
    tail: int | None,
    pattern: str | None,
    timestamps: bool,
    previous: bool,
    form: str,
    **params: Any,
) -> None:
    """Print the log of a job: of index 0, of some nodes, or of all.

    Lines of several nodes begin with index/ranks, those of an array with index/key; of an array all
    logs are printed unless some are chosen. With -o json every line is an object with index,
    ranks, pod, time and text. Of a job that restarts, whose ranks move, lines begin with the index
    alone, and ranks is null.
    """
    from kij_train.cluster import LogChoice

    if everybody and (indexes or ranks):
        raise RequestError("--all conflicts with --index and --rank: give one of them")
    is_wanted = _filter(pattern)
    cluster = connect(params)
    job = jobs.get(cluster, name)
    if job.array is not None:
        asked = array_logs.Asked(frozenset(indexes), frozenset(keys), failed, follow, previous)
        for one in array_logs.lines(cluster, job, params, asked, LogChoice(since, tail)):
            if is_wanted(one.text):
                text = f"{one.time} {one.text}" if timestamps else one.text
                shown = array_logs.as_json(one) if form == "json" else text
                output.log_line(shown, one.label if form == "text" else None, one.index)
        return
    if keys or failed:
        flag = "--key" if keys else "--failed"
        raise RequestError(f"{flag}: {name} is no array, and has no items")
    nproc, anywhere = job.ranks_per_node, job.restarts_by_itself
    if anywhere and ranks:
        raise _ranks_move(cluster, name, ranks[0])
    chosen = _indexes(job, nproc, indexes, ranks)
    if anywhere and not (indexes or ranks):
        everybody = True  # rank 0 may be on any of them
    lines = jobs.logs(
        cluster,
        name,
        indexes=None if everybody else chosen,
        choice=LogChoice(since, tail),
        follow=follow,
        previous=previous,
        note=note,
    )
    several = everybody or len(chosen) > 1
    if form == "json":
        output.as_utf8()
    for line in lines:
        if is_wanted(line.text):
            text = f"{line.time} {line.text}" if timestamps else line.text
            output.log_line(
                _json(line, None if anywhere else nproc) if form == "json" else text,
                _label(line.index, nproc, anywhere) if several and form == "text" else None,
                line.index,
            )


def _filter(pattern: str | None) -> Callable[[str], object]:
    """Whether a line is to be shown. Raises RequestError."""
    try:
        return (lambda _: True) if pattern is None else re.compile(pattern).search
    except re.error as error:
        raise RequestError(f"--grep {pattern!r} is no regular expression: {error}") from None


def _ranks_move(cluster: Cluster, name: str, rank: int) -> RequestError:
    return RequestError(
        f"--rank {rank}: ranks of {name} move between nodes when it restarts",
        hints=(
            f"of every node: {cluster.address.on_job('logs', name, '--all')}",
            "where a rank is now: " + cluster.address.on_job("stacks", name, "--rank", str(rank)),
        ),
    )


def _indexes(
    job: JobView, nproc: int, indexes: tuple[int, ...], ranks: tuple[int, ...]
) -> set[int]:
    world = nproc * job.completions
    for rank in ranks:
        if not 0 <= rank < world:
            raise RequestError(f"--rank {rank}: the job has {world} ranks, from 0 on")
    return set(indexes) | {rank // nproc for rank in ranks} or {0}


def _label(index: int, nproc: int, anywhere: bool) -> str:
    """Where ranks may be anywhere, the index alone."""
    return str(index) if anywhere else label_of(index, nproc)


def label_of(index: int, nproc: int) -> str:
    """`3/12-15`: the index, and the ranks that print there."""
    first, last = index * nproc, (index + 1) * nproc - 1
    return f"{index}/{first}" if first == last else f"{index}/{first}-{last}"


def _json(line: LogLine, nproc: int | None) -> str:
    """`nproc` is None where ranks may be anywhere."""
    ranks = nproc and list(range(line.index * nproc, (line.index + 1) * nproc))
    whole = {
        "index": line.index,
        "ranks": ranks,
        "pod": line.pod,
        "time": line.time,
        "text": line.text,
    }
    return json.dumps(whole, ensure_ascii=False)
