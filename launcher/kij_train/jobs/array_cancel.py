"""Cancelling an array without losing what its pods have done: they take their logs with them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kij_train import names
from kij_train.arrays.facts import Attempt
from kij_train.arrays.store import ArrayFolder
from kij_train.diagnosis import JobView
from kij_train.errors import KijError
from kij_train.jobs.array_follow import MOST_LOGS, Labels
from kij_train.jobs.collect import Collector
from kij_train.pod import results

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

GRACE_S = 10.0
"""How long to listen to pods that end, whatever their grace period: whoever cancels waits."""


@contextlib.contextmanager
def keeping(
    cluster: Cluster, folder: ArrayFolder, uid: str, note: Callable[[str], None]
) -> Iterator[None]:
    """Around the cancel of a Job: bring what its pods have done into the folder of its array.

    Before it, all their logs; after it, what at most 32 of them say while they end, and the last
    words of all. Does nothing for a Job that the folder does not know. What goes wrong is a note:
    the Job is to be cancelled all the same.
    """
    attempt = next((one for one in folder.attempts() if one.uid == uid), None)
    if attempt is None or folder.about.request.get("results"):  # those on a volume stay there
        yield
        return
    with _telling(folder, note):
        _collect(cluster, folder, attempt)
    yield
    with _telling(folder, note):
        _listen(cluster, folder, attempt)


@contextlib.contextmanager
def _telling(folder: ArrayFolder, note: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KijError as error:
        note(f"not all that {folder.name} has done is kept: {error.message}")


def _collect(cluster: Cluster, folder: ArrayFolder, attempt: Attempt) -> None:
    with Collector(cluster, folder, attempt) as collector:
        for page in cluster.pages("Pod", labelSelector=f"{names.LABEL_JOB_NAME}={attempt.job}"):
            for pod in page.get("items") or []:
                collector.take(pod)
        collector.drain(unfinished=True)


def _listen(cluster: Cluster, folder: ArrayFolder, attempt: Attempt) -> None:
    from kij_train.cluster.logs import LogLine
    from kij_train.cluster.observe import Observation

    labels, until = Labels(folder, attempt), time.monotonic() + GRACE_S
    job = cluster.get("Job", attempt.job)
    if job["metadata"]["uid"] != attempt.uid:  # another one has taken its name by now
        return
    with (
        Collector(cluster, folder, attempt) as collector,
        Observation(
            cluster,
            attempt.job,
            uid=attempt.uid,
            job=JobView(job),
            log_indexes=None,
            most_streams=MOST_LOGS,
            late_logs=False,
            on_pod=lambda pod, deleted: collector.take(pod, deleted=deleted),
        ) as observed,
    ):
        collector.take_job(job)
        for event in observed.events():
            if isinstance(event, LogLine) and results.is_record_line(event.text):
                collector.saw(labels.index_of(event.index), event.pod, event.text)
            if time.monotonic() > until:
                break
        collector.drain(unfinished=True)
