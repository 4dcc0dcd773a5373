"""Where the ranks are: faulthandler's dumps, parsed, and ranks with the same stack together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kij_train import bootstrap

_HEAD = re.compile(
    r"(?P<current>Current thread|Thread) 0x[0-9a-f]+(?: \[(?P<name>.*)\])?"
    r" \(most recent call first\):"
)
_STARTER = re.compile(
    rf'File "({re.escape(bootstrap.BUNDLE_DIR)}/(\.\.[^/]+/)?bootstrap\.py|<frozen runpy>'
    r'|.*/runpy\.py)",.*'
)
"""A frame that starts a script. The kubelet mounts files through a folder named by the time."""


@dataclass(frozen=True)
class Thread:
    """A thread of a rank."""

    frames: tuple[str, ...]
    """The most recent call first, as faulthandler writes it."""
    current: bool = False
    """Whether it took the signal, as the main thread does."""
    name: str | None = None
    """Where Python tells it (3.14)."""


@dataclass(frozen=True)
class RankStack:
    """Where a rank is."""

    rank: int
    index: int
    pod: str
    threads: tuple[Thread, ...] = ()
    """Empty for one that has not said it."""
    state: str = ""
    """Of its process, as the kernel says it: S (sleeping)."""

    @property
    def main(self) -> Thread | None:
        """The main thread: it takes the signals, and is the last that is told."""
        current = [thread for thread in self.threads if thread.current]
        return (current or [*self.threads])[-1] if self.threads else None

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "rank": self.rank,
            "index": self.index,
            "pod": self.pod,
            "state": self.state,
            "threads": [
                {"name": one.name, "main": one is self.main, "frames": list(one.frames)}
                for one in self.threads
            ],
        }


@dataclass(frozen=True)
class StackGroup:
    """Ranks that are at the same place."""

    ranks: tuple[RankStack, ...]
    """In the order of their numbers."""
    frames: tuple[str, ...]
    """Of the main thread, without those that start the script."""

    def title(self) -> str:
        """Such as "ranks 0-6, 8-15 (15)"; index/rank and the pod of one alone."""
        first = self.ranks[0]
        if len(self.ranks) == 1:
            return f"{first.index}/{first.rank} (pod {first.pod})"
        return f"ranks {spans(one.rank for one in self.ranks)} ({len(self.ranks)})"


def threads_of(dump: str) -> tuple[Thread, ...]:
    """The threads of a dump of faulthandler, in its order."""
    found: list[tuple[re.Match[str], list[str]]] = []
    for line in filter(None, map(str.strip, dump.splitlines())):
        head = _HEAD.fullmatch(line)
        if head is not None:
            found.append((head, []))
        elif found:
            found[-1][1].append(line)
    return tuple(
        Thread(tuple(frames), head["current"] != "Thread", head["name"]) for head, frames in found
    )


def grouped(ranks: Iterable[RankStack]) -> list[StackGroup]:
    """Ranks with the same stack of the main thread together, the most first: the odd ones last."""
    groups: dict[tuple[str, ...], list[RankStack]] = {}
    for rank in sorted(ranks, key=lambda one: one.rank):
        if rank.main is not None:
            groups.setdefault(_of_script(rank.main.frames), []).append(rank)
    found = [StackGroup(tuple(ranks), frames) for frames, ranks in groups.items()]
    return sorted(found, key=lambda group: -len(group.ranks))


def _of_script(frames: Sequence[str]) -> tuple[str, ...]:
    """Without those that start the script, unless there are no others."""
    end = len(frames)
    while end and _STARTER.fullmatch(frames[end - 1]):
        end -= 1
    return tuple(frames[:end] or frames)


def spans(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 → "0-2, 5"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
