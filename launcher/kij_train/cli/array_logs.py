"""Logs of arrays: each line with the index and the item that it is of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import jobs
from kij_train.arrays.store import ArrayFolder, Attempt
from kij_train.arrays.view import indexes_of, outcomes_of
from kij_train.cli.array_view import labelled
from kij_train.cli.onarray import opened, unknown_key, up_to_date
from kij_train.cli.onjob import note
from kij_train.errors import RequestError, no_such_index
from kij_train.jobs.array_follow import Labels
from kij_train.pod import results

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogChoice
    from kij_train.diagnosis import JobView


@dataclass(frozen=True)
class Asked:
    """Which lines are wanted; all, where neither indexes, keys nor failed items are named."""

    indexes: frozenset[int]
    """Of the first attempt."""
    keys: frozenset[str]
    failed: bool
    follow: bool
    previous: bool


@dataclass(frozen=True)
class ItemLine:
    """A line of an item, or of its index before and after its items."""

    index: int
    """Of the first attempt."""
    key: str
    """Empty where the line is of no item."""
    pod: str
    time: str
    text: str

    @property
    def label(self) -> str:
        """`3/key`."""
        return labelled(self.index, self.key)


def lines(
    cluster: Cluster, job: JobView, params: dict[str, Any], asked: Asked, choice: LogChoice
) -> Iterator[ItemLine]:
    """The lines that are asked for, without those that carry records. Raises RequestError."""
    assert job.array is not None
    folder, _ = opened(job.array, params)
    live = up_to_date(folder, cluster)
    attempt = attempt_of_job(folder, job)
    keys, indexes = set(asked.keys), set(asked.indexes)
    of_keys: set[int] = set()
    if keys or asked.failed:
        unknown = set(keys)
        for one in outcomes_of(folder, live):
            unknown.discard(one.key)
            if one.key in keys or (asked.failed and one.state.is_lost):
                keys.add(one.key)
                of_keys.add(one.index)
        if unknown:
            raise unknown_key(folder, min(unknown))
        if asked.failed and not of_keys:
            note(f"{job.array}: no item has failed so far")
            return
    numbers = _numbers(folder, attempt, indexes | of_keys)
    labels = Labels(folder, attempt)
    for line in jobs.logs(
        cluster,
        job.name,
        indexes=numbers,
        choice=choice,
        follow=asked.follow,
        previous=asked.previous,
        note=note,
    ):
        index = labels.index_of(line.index)
        key = labels.key_of(line.pod, line.index, line.text)
        if results.is_record_line(line.text):
            continue
        if numbers is None or index in indexes or key in keys:
            yield ItemLine(index, key, line.pod, line.time, line.text)


def _numbers(folder: ArrayFolder, attempt: Attempt, indexes: set[int]) -> set[int] | None:
    """The completion indexes of the Job; None for all. Raises RequestError."""
    if not indexes:
        return None
    there = indexes_of(attempt, folder.plan())
    if isinstance(there, range):
        wrong = [index for index in indexes if index not in there]
        if wrong:
            raise no_such_index(folder.name, wrong[0], len(there))
        return indexes
    found = {number for number, index in enumerate(there) if index in indexes}
    if not found:
        raise RequestError(
            f"{attempt.job} runs nothing of that: it is a rerun of some items",
            hints=(
                f"of the first attempt: kij-train logs {folder.name}{folder.about.where.flags}",
            ),
        )
    return found


def attempt_of_job(folder: ArrayFolder, job: JobView) -> Attempt:
    """The attempt that a Job is. Raises RequestError where the folder is of another array."""
    attempt = next((one for one in folder.attempts() if one.uid == job.uid), None)
    if attempt is None:
        raise RequestError(
            f"{folder.path} is of another array {folder.name} than job {job.name} of the cluster",
            hints=("read that one in another folder",),
        )
    return attempt


def as_json(line: ItemLine) -> str:
    """For scripts."""
    whole = {
        "index": line.index,
        "key": line.key or None,
        "pod": line.pod,
        "time": line.time,
        "text": line.text,
    }
    return json.dumps(whole, ensure_ascii=False)
