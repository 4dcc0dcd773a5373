"""Logs of arrays: each line with the index and the item that it is of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import jobs
from kij_train.arrays.facts import Attempt
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import indexes_of, outcomes_of, trial_nodes
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
    attempts = [attempt_of_job(folder, job)]
    if trial_nodes(folder) > 1 and job.name == folder.name:
        attempts = folder.attempts()
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
    wanted = indexes | of_keys
    if trial_nodes(folder) > 1:
        attempts = _trials(folder, attempts, wanted, asked.follow)
        wanted = set()
    for attempt in attempts:
        numbers = _numbers(folder, attempt, wanted)
        for line in _lines_of(cluster, folder, attempt, numbers, asked, choice):
            if numbers is None or line.index in indexes or line.key in keys:
                yield line


def _trials(
    folder: ArrayFolder, attempts: list[Attempt], indexes: set[int], follow: bool
) -> list[Attempt]:
    """Those of these indexes, all where none is named. Raises RequestError."""
    plan = folder.plan()
    wrong = min((index for index in indexes if not 0 <= index < plan.indexes), default=None)
    if wrong is not None:
        raise no_such_index(folder.name, wrong, plan.indexes)
    chosen = [one for one in attempts if not indexes or indexes & set(indexes_of(one, plan))]
    if follow and len(chosen) > 1:
        raise RequestError(
            f"--follow: {folder.name} has {len(chosen):,} trials, each a Job of its own",
            hints=(
                f"one of them: kij-train logs -f {chosen[-1].job}{folder.about.where.flags}",
                "or all as they go: the command that runs them",
            ),
        )
    return chosen


def _lines_of(
    cluster: Cluster,
    folder: ArrayFolder,
    attempt: Attempt,
    numbers: set[int] | None,
    asked: Asked,
    choice: LogChoice,
) -> Iterator[ItemLine]:
    labels = Labels(folder, attempt)
    for line in jobs.logs(
        cluster,
        attempt.job,
        indexes=numbers,
        choice=choice,
        follow=asked.follow,
        previous=asked.previous,
        note=note,
    ):
        index = labels.index_of(line.index)
        key = labels.key_of(line.pod, line.index, line.text)
        if not results.is_record_line(line.text):
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
