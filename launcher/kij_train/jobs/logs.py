"""Lines of the logs of a job, of those that are there and of those to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis
from kij_train.errors import no_such_index
from kij_train.jobs.asking import get, pods_of

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogChoice, LogLine
    from kij_train.diagnosis import JobView


def logs(
    cluster: Cluster,
    name: str,
    *,
    indexes: Set[int] | None,
    choice: LogChoice,
    follow: bool = False,
    previous: bool = False,
    note: Callable[[str], None],
) -> Iterator[LogLine]:
    """Lines of the logs of some indexes (None: all) in the order of time.

    With `follow`, until the job ends, waiting for pods that do not run yet, and going on with those
    that replace them. `previous` is the log of the pod before the newest. At most MOST_STREAMS logs
    are read at once: of more than these, not all lines are in order. `note` hears of what has no
    log. Raises RequestError for an index that the job does not have.
    """
    from kij_train.cluster.logs import MOST_STREAMS, merged

    job = get(cluster, name)
    choice = replace(choice, container=str(job.container["name"]))
    nodes = job.completions
    wrong = [index for index in indexes or () if not 0 <= index < nodes]
    if wrong:
        raise no_such_index(name, wrong[0], nodes)
    if follow and not job.state.ended:
        yield from _to_come(cluster, job, indexes, choice, note)
        return
    only = next(iter(indexes)) if indexes is not None and len(indexes) == 1 else None
    by_index: dict[int, list[dict[str, Any]]] = {}
    for pod in pods_of(cluster, name, only):
        by_index.setdefault(diagnosis.index_of(pod), []).append(pod)
    wanted = sorted(indexes) if indexes is not None else sorted(by_index)
    chosen, by_name = [], {}
    for index in wanted:
        pods = by_index.get(index, [])[: -1 if previous else None]
        if pods:
            chosen.append((index, str(pods[-1]["metadata"]["name"])))
            by_name[chosen[-1][1]] = pods[-1]
        elif indexes is not None or previous:
            what = "no earlier pod" if previous else "no pod any more, or none yet"
            if not previous and index >= job.size and index not in job.lost:
                what = "no pod: it is in reserve"
            note(f"index {index} has {what}: {cluster.address.on_job('why', name)}")
    for start in range(0, len(chosen), MOST_STREAMS):
        some = chosen[start : start + MOST_STREAMS]
        yield from merged(cluster, some, choice, note, by_name)


def _to_come(
    cluster: Cluster,
    job: JobView,
    indexes: Set[int] | None,
    choice: LogChoice,
    note: Callable[[str], None],
) -> Iterator[LogLine]:
    from kij_train.cluster.logs import LogLine
    from kij_train.cluster.observe import Note, Observation

    with Observation(
        cluster, job.name, job=job, log_indexes=indexes, log_choice=choice
    ) as observed:
        for event in observed.events():
            if isinstance(event, Note):
                note(event.text)
            elif isinstance(event, LogLine):
                yield event
