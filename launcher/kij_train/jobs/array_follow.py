"""An array's Job as it goes: its records are collected as its pods end, and their lines passed on.

From two watches, a log stream for a bounded number of pods, and a log for each index whose records
do not fit into its termination message. Nothing polls; while pods wait for long, the cluster is
asked why, ever less often.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kij_train.arrays.facts import Attempt
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import indexes_of, items_of, trial_nodes
from kij_train.jobs.collect import Collector
from kij_train.jobs.packages import Keeper
from kij_train.jobs.refresh import ENDS
from kij_train.jobs.stuck import Stuck
from kij_train.pod import results
from kij_train.pod.status import ItemStarts

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogChoice
    from kij_train.diagnosis import JobState, JobView

MOST_LOGS = 32
"""Pods whose lines are passed on at once."""


class Labels:
    """Whose a line of a log is: that of the item which has started last in its pod."""

    def __init__(self, folder: ArrayFolder, attempt: Attempt) -> None:
        self._plan = folder.plan()
        self._positions = items_of(attempt, self._plan)
        self._numbers = indexes_of(attempt, self._plan)
        self._nodes = trial_nodes(folder)
        self._keys: dict[str, str] = {}
        """Pod → key of its item."""

    def index_of(self, number: int) -> int:
        """The index of the first attempt that a completion index of this one stands for."""
        # The pods of an item that is a Job of its own are all of its index.
        return self._numbers[number if self._nodes == 1 else 0]

    def key_of(self, pod: str, number: int, text: str) -> str:
        """The key of the item that a line is of; empty where none has started.

        `pod` printed it as the completion index `number`.
        """
        starts = ItemStarts.read(text)
        if starts is not None:
            positions = self._positions(self.index_of(number))
            place = starts.place - 1
            if place < len(positions):
                self._keys[pod] = self._plan.item(positions[place])[0]
        return self._keys.get(pod, "")


@contextlib.contextmanager
def _keeping_seen(collector: Collector) -> Iterator[None]:
    """Where following breaks off, by Ctrl-C or since the Job is gone, keep what was counted."""
    try:
        yield
    except BaseException:
        collector.keep_seen()
        raise


def follow_array(
    cluster: Cluster,
    folder: ArrayFolder,
    attempt: Attempt,
    *,
    job: JobView | None = None,
    most_logs: int = MOST_LOGS,
    log_choice: LogChoice | None = None,
    on_line: Callable[[int, str, str], None],
    on_change: Callable[[Collector], None],
    on_note: Callable[[str], None],
) -> JobState:
    """Stay until the Job has ended and its records are in the folder; how it ended.

    `on_line` gets index, key and text of the lines of at most `most_logs` pods at once, without
    those that carry records. Raises GoneError where the Job is deleted, RefusedError,
    UnreachableError.
    """
    from kij_train.cluster.logs import LogLine
    from kij_train.cluster.observe import Note, Observation

    labels, keeper = Labels(folder, attempt), Keeper(cluster, attempt.job, on_note)
    stuck = Stuck(cluster, on_note)
    with (
        Collector(cluster, folder, attempt) as collector,
        _keeping_seen(collector),
    ):
        with Observation(
            cluster,
            attempt.job,
            uid=attempt.uid,
            job=job,
            log_indexes=None if most_logs else frozenset(),
            log_choice=log_choice,
            most_streams=most_logs,
            late_logs=False,
            on_pod=lambda pod, deleted: collector.take(pod, deleted=deleted),
        ) as observed:
            for event in observed.events():
                if isinstance(event, Note):
                    on_note(event.text)
                elif isinstance(event, LogLine):
                    index = labels.index_of(event.index)
                    keeper.saw(event.text)
                    if results.is_record_line(event.text):
                        collector.saw(index, event.pod, event.text)
                    else:
                        on_line(
                            index, labels.key_of(event.pod, event.index, event.text), event.text
                        )
                else:
                    assert observed.job is not None
                    collector.take_job(observed.job.raw)
                    on_change(collector)
                    stuck.saw(observed)
        assert observed.job is not None
        state = observed.job.state
        collector.drain(unfinished=True)
        folder.end_attempt(attempt.number, ENDS[state])
        on_change(collector)
        return state
