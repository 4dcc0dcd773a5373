"""The pods of a job of thousands, in few bytes: what a glance at all of them takes.

A pod is some 8 KiB of JSON. The API server also gives a table, the one that kubectl prints, with
150 bytes a pod: its name, which has the index, its state and its machine. One table for each phase
tells the phase; whole are only pods that are in trouble, or have records that are wanted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kij_train import diagnosis, names
from kij_train.diagnosis import JobView
from kij_train.jobs.asking import pods_of

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MANY = 1000
"""Indexes of an array above which a glance has to do."""
PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
NO_CELL = "<none>"
MOST_GOT = 100
"""Pods that are got one by one, in place of all of that phase."""
_NAME = re.compile(r".*-(\d+)-[a-z0-9]+")


class Row(NamedTuple):
    """A pod, as the table has it."""

    index: int  # type: ignore[assignment] # nobody calls tuple.index
    pod: str
    phase: str
    machine: str
    state: str
    """What kubectl prints: Running, Terminating, ImagePullBackOff."""

    def as_pod(self) -> dict[str, Any]:
        """As much of the object as is known."""
        metadata: dict[str, Any] = {"name": self.pod, "uid": self.pod}
        metadata["labels"] = {names.COMPLETION_INDEX: str(self.index)}
        status: dict[str, Any] = {"phase": self.phase}
        if self.phase == RUNNING:
            status["containerStatuses"] = [{"name": names.CONTAINER, "state": {"running": {}}}]
        elif self.phase == PENDING and self.machine:
            status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        if self.state == "Terminating":
            metadata["deletionTimestamp"] = ""
        spec = {"nodeName": self.machine} if self.machine else {}
        return {"metadata": metadata, "spec": spec, "status": status}


def is_large(job: JobView) -> bool:
    """Whether it is an array of which a glance has to do."""
    return job.array is not None and job.completions > MANY


def rows_of(cluster: Cluster, name: str, phase: str) -> Iterator[Row]:
    """The pods of a job that are in this phase; one request."""
    query = {"labelSelector": f"{names.LABEL_JOB_NAME}={name}"}
    for cells in cluster.table("Pod", **query, fieldSelector=f"status.phase={phase}"):
        found = _NAME.fullmatch(cells.get("Name", ""))
        if found is not None:
            machine = cells.get("Node", NO_CELL)
            machine = "" if machine == NO_CELL else machine
            yield Row(int(found[1]), found[0], phase, machine, cells.get("Status", ""))


def glance(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """All pods of a job, those of an index in the order in which they came.

    Pods that have failed, and the first 500 that wait, are cut as `pods_of` has them; of all others
    there is only what a table has.
    """
    found: dict[str, dict[str, Any]] = {}
    # In the order of a pod's life: one that goes on meanwhile is in two answers, and not in none.
    for phase in (PENDING, RUNNING, SUCCEEDED):
        rows = list(rows_of(cluster, name, phase))
        found.update((row.pod, row.as_pod()) for row in rows)
        if rows and phase == PENDING:
            found.update(_cut(cluster, name, PENDING, most_pages=1))
    found.update(_cut(cluster, name, FAILED))
    # An index has another pod once the one before has failed, and none once one has succeeded.
    order = (FAILED, PENDING, RUNNING, SUCCEEDED)
    return sorted(found.values(), key=lambda pod: (order.index(_phase(pod)), _created(pod)))


def _cut(
    cluster: Cluster, name: str, phase: str, most_pages: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and pods."""
    for pod in pods_of(cluster, name, fields=f"status.phase={phase}", most_pages=most_pages):
        yield str(pod["metadata"]["name"]), pod


def news(cluster: Cluster, name: str, is_needed: Callable[[int], bool]) -> Iterator[dict[str, Any]]:
    """All pods of a job but those that have succeeded and are of an index that is not needed.

    Whole are those that have ended; of the others there is only what a table has.
    """
    from kij_train.cluster.apierrors import GoneError

    for phase in (PENDING, RUNNING):
        yield from (row.as_pod() for row in rows_of(cluster, name, phase))
    needed = [row for row in rows_of(cluster, name, SUCCEEDED) if is_needed(row.index)]
    if len(needed) > MOST_GOT:
        yield from _whole(cluster, name, SUCCEEDED)
    else:
        for row in needed:
            with contextlib.suppress(GoneError):
                yield cluster.get("Pod", row.pod)
    yield from _whole(cluster, name, FAILED)


def _whole(cluster: Cluster, name: str, phase: str) -> Iterator[dict[str, Any]]:
    selector = f"{names.LABEL_JOB_NAME}={name}"
    fields = f"status.phase={phase}"
    for page in cluster.pages("Pod", labelSelector=selector, fieldSelector=fields):
        yield from page.get("items") or []


def _phase(pod: dict[str, Any]) -> str:
    phase = str(pod["status"].get("phase"))
    return phase if phase in (PENDING, RUNNING, SUCCEEDED) else FAILED


def _created(pod: dict[str, Any]) -> float:
    return diagnosis.epoch(pod["metadata"].get("creationTimestamp")) or 0.0
