"""What became of every item of an array: records of all its attempts, merged by key.

An item's newest success wins; without one, its newest failure. An item that has no record is
pending, running, or missing: missing is one whose index has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kij_train.pod import itemrecords

Record = Mapping[str, Any]


class State(str, enum.Enum):
    """What became of an item. The values are what users and scripts read."""

    DONE = "done"
    FAILED = "failed"
    MISSING = "missing"
    """Its index has ended without a word about it."""
    RUNNING = "running"
    """Its index runs, and has not said that the item is done."""
    PENDING = "pending"

    @property
    def is_lost(self) -> bool:
        """Whether it takes a rerun."""
        return self in (State.FAILED, State.MISSING)


@dataclass(frozen=True)
class Standing:
    """Where an index stands: what is said of its items that have no record."""

    state: State
    error: str = ""
    """How it ended, where it did not say so itself: `OOMKilled`, `its log is damaged: …`."""
    exit_code: int | None = None
    machine: str = ""


@dataclass(slots=True)
class Outcome:
    """What became of one item. Nobody changes one: not frozen, since that takes a million items
    four seconds."""

    position: int
    """In the list of items."""
    key: str
    index: int
    state: State
    error: str = ""
    """One line; empty where nothing went wrong."""
    exit_code: int | None = None
    machine: str = ""
    attempt: int | None = None
    """The one that counts; None without a record."""
    seconds: float | None = None
    records: tuple[Record, ...] = ()
    """Of that attempt, as the item wrote them, with ours."""

    @property
    def error_at(self) -> str:
        """The line of the code where it failed, `train.py:118`; empty where that is not known."""
        return next((str(one["error_at"]) for one in self.records if one.get("error_at")), "")


def merged(
    index: int,
    items: Iterable[tuple[int, str]],
    records: Iterable[Record],
    standing_of: Callable[[int], Standing],
) -> Iterator[Outcome]:
    """The outcome of each item, (position, key), of an index, in their order.

    `records` are those of the index in all attempts, the first attempt first. Those of keys that
    the index does not have are left out. `standing_of` is asked about positions without a record.
    """
    best: dict[str, tuple[Record, ...]] = {}
    for group in _groups(records):
        key = str(group[0]["key"])
        if key not in best or _rank(group) >= _rank(best[key]):
            best[key] = group
    for position, key in items:
        if key in best:
            yield _of_records(position, key, index, best[key])
        else:
            said = standing_of(position)
            yield Outcome(
                position, key, index, said.state, said.error, said.exit_code, said.machine
            )


def _of_records(position: int, key: str, index: int, group: tuple[Record, ...]) -> Outcome:
    bad = None
    for record in group:
        if itemrecords.failed(record):
            bad = record
            break
    get = (group[0] if bad is None else bad).get
    return Outcome(
        position,
        key,
        index,
        State.DONE if bad is None else State.FAILED,
        "" if bad is None else str(bad.get("error") or f"exit code {bad.get('exit_code')}"),
        get("exit_code") or 0,
        str(get("machine") or ""),
        get("attempt") or 0,
        float(get("seconds") or 0.0),
        group,
    )


def _rank(group: tuple[Record, ...]) -> tuple[bool, int]:
    return not any(map(itemrecords.failed, group)), int(group[0].get("attempt") or 0)


def _groups(records: Iterable[Record]) -> Iterator[tuple[Record, ...]]:
    """The records of one item of one attempt belong together: their `line` goes 0, 1, 2 …"""
    group: list[Record] = []
    for record in records:
        follows = (
            group
            and "line" in record
            and record["line"] == len(group)
            and all(record.get(name) == group[0].get(name) for name in ("key", "attempt"))
        )
        if group and not follows:
            yield tuple(group)
            group = []
        group.append(record)
    if group:
        yield tuple(group)
