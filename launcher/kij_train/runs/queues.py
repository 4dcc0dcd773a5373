"""Whether a queue that a job asks for is there, before it is launched into it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kij_train import names
from kij_train.errors import RefusedError, UnreachableError
from kij_train.runs.plan import Note

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


def doubts(queue: str, cluster: Cluster) -> Iterator[Note]:
    """What speaks against Kueue admitting anything into it; nothing where the user may not know."""
    try:
        found = cluster.custom(names.KUEUE_GROUP, "localqueues")
    except (RefusedError, UnreachableError):
        return
    if found is None:
        yield Note(
            f"the cluster has no Kueue: the job waits in queue {queue} for ever",
            ("leave --queue out",),
        )
        return
    there = sorted(str(one["metadata"]["name"]) for one in found)
    if queue in there:
        return
    close = difflib.get_close_matches(queue, there, n=1)
    known = f"it has {', '.join(there)}" if there else "it has none"
    yield Note(
        f"namespace {cluster.namespace} has no LocalQueue {queue}, so the job waits: {known}",
        (f"--queue {(close or there)[0]}",) if there else (),
    )
