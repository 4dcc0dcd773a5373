"""Where the ranks are: faulthandler's dumps, parsed, and ranks with the same stack together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kij_train.pod import stacks
from kij_train.pod.gang.hang import Thread, main_thread, spans, threads_of

__all__ = ["RankStack", "StackGroup", "Thread", "grouped", "spans", "threads_of"]


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
        return main_thread(self.threads)

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


def grouped(ranks: Iterable[RankStack]) -> list[StackGroup]:
    """Ranks with the same stack of the main thread together, the most first: the odd ones last."""
    groups: dict[tuple[str, ...], list[RankStack]] = {}
    for rank in sorted(ranks, key=lambda one: one.rank):
        if rank.main is not None:
            groups.setdefault(_of_script(rank.main.frames), []).append(rank)
    found = [StackGroup(tuple(ranks), frames) for frames, ranks in groups.items()]
    return sorted(found, key=lambda group: -len(group.ranks))


def _of_script(frames: Sequence[str]) -> tuple[str, ...]:
    """The frames without those that start the script, unless there are no others."""
    end = len(frames)
    while end and _starts(frames[end - 1]):
        end -= 1
    return tuple(frames[:end] or frames)


def _starts(frame: str) -> bool:
    match = stacks.DUMP_FRAME.match(frame)
    return match is not None and stacks.STARTS.search(match.group(1)) is not None
