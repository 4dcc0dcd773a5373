"""The history of a job: its rounds and failures, how its time was spent, which machines failed.

Every pod has a copy, so that any of them can become the leader.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from kij_train.pod.gang.jsontypes import from_json, to_json

Json = Dict[str, Any]
MOST_BLAMED = 5
MOST_CHARS = 2000
"""The longest message, and the longest stack, that is kept. Most messages carry the history."""
MOST_PLACES = 5
MOST_SLOW = 3
RANGE = 8
"""Indexes in a row that are written as a range, and one."""


def span(seconds: float) -> str:
    """A duration for people: "12.3 s" or "1:02:03"."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def ranges(indexes: Sequence[int]) -> List[List[int]]:
    """Indexes in ascending order as ranges: [0, 1, 2, 5] are [[0, 2], [5, 5]]."""
    found: List[List[int]] = []
    for index in indexes:
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return found


def listed(indexes: Sequence[int]) -> str:
    """Indexes in ascending order for people: "0, 1" or "0-3998, 4001"."""
    return ", ".join(
        f"{first}-{last}" if last - first >= RANGE else ", ".join(map(str, range(first, last + 1)))
        for first, last in ranges(indexes)
    )


def place_taken(lost: int, by: int) -> str:
    """A text: which index replaces which."""
    return f"index {by} took the place of index {lost}"


class Who(NamedTuple):
    """The identity of a supervisor: its index, pod and machine."""

    node: int
    """The completion index of its pod."""
    uid: str
    """A random id of the process. The index is not enough: its pod may be replaced."""
    ip: str
    pod: str
    machine: str

    def __str__(self) -> str:
        machine = f" on {self.machine}" if self.machine else ""
        return f"index {self.node} (pod {self.pod}{machine})"


class SlowRank(NamedTuple):
    """A slow rank of a job, as its history keeps it."""

    rank: int
    node: int
    """The completion index of its pod."""
    machine: str
    text: str
    """By how much."""
    round: int
    since_s: float
    """Seconds into the round at which it began."""
    step: int
    """Its step then."""
    lasted_s: float
    is_now: bool
    """Whether it still was slow when this was written."""

    def __str__(self) -> str:
        at = f" on {self.machine}" if self.machine else ""
        since = f"since step {self.step}, {span(self.since_s)} into round {self.round}"
        if self.is_now:
            return f"rank {self.rank} (index {self.node}{at}) is slow: {self.text}, {since}"
        return (
            f"rank {self.rank} (index {self.node}{at}) was slow for {span(self.lasted_s)}: "
            f"{self.text}, {since}"
        )


class Steps:
    """The steps that the script reports in one round, and the time it spent repeating old ones."""

    def __init__(self, before: Optional[int]) -> None:
        """`before` is the highest step of earlier rounds; None if it is not known."""
        self._before = before
        self.step: Optional[int] = None
        self.again_s = 0.0
        self._behind_since: Optional[float] = None

    def see(self, step: int, now: float) -> None:
        """The script is at `step` now. Call this regularly, also while the step stays the same."""
        self.step = step
        if self._behind_since is not None:
            self.again_s += now - self._behind_since
        is_behind = self._before is not None and step <= self._before
        self._behind_since = now if is_behind else None


@dataclass
class History:
    """What has happened to the job so far. The leader keeps it, and sends it to all members."""

    rounds: int = 0
    failures: int = 0
    waiting_s: float = 0.0
    training_s: float = 0.0
    restarting_s: float = 0.0
    blame: Dict[str, List[float]] = field(default_factory=dict)
    """Machine → how many restarts it has caused, and how many seconds they took."""
    heard: bool = False
    """Whether a rank has given a sign of life in any round."""
    step: Optional[int] = None
    """The highest step that the script has reported; None if it reports none."""
    again_s: float = 0.0
    """The seconds of `training_s` in which steps of earlier rounds were repeated."""
    newest_failure: Json = field(default_factory=dict)
    """Of the last round that failed: the node's index and pod, and its failure record."""
    took_part: List[List[int]] = field(default_factory=list)
    """The indexes that took part in the last round, as ranges of a first and a last one: every pod
    of thousands is told."""
    taken: List[List[int]] = field(default_factory=list)
    """The last replacements, as pairs: the lost index, and the index that took its place."""
    slow: List[SlowRank] = field(default_factory=list)
    """The slow ranks of all rounds, those that were slow the longest; the newest are last."""
    highest: int = 0
    """The highest index that has ever joined. All lower ones have had pods before it."""

    @staticmethod
    def read(said: Any) -> "History":
        """From what `as_json` wrote, perhaps in a pod of another release. Raises MalformedError.

        Fields that this release does not know are left out.
        """
        if isinstance(said, dict):
            known = {each.name for each in fields(History)}
            said = {name: value for name, value in said.items() if name in known}
        return from_json(History, said, "history")

    def copy(self) -> "History":
        """As it is now."""
        return replace(self)

    def as_json(self) -> Json:
        written: Json = to_json(self)
        return written

    def fail(self, who: Optional[Who], record: Json) -> None:
        """Count a failed round. Keep the message, the stack and our own fields of its record."""
        self.failures += 1
        message = record.get("message") or {}
        stack = str((message.get("extraInfo") or {}).get("py_callstack", ""))
        self.newest_failure = {
            "index": None if who is None else who.node,
            "pod": None if who is None else who.pod,
            "record": {
                "message": {
                    "message": str(message.get("message", ""))[:MOST_CHARS],
                    "extraInfo": {"py_callstack": stack[-MOST_CHARS:]},
                },
                "kij": record.get("kij") or {},
            },
        }

    def reach(self, step: Optional[int]) -> None:
        """Note that the script has been at this step."""
        if step is not None:
            self.step = max(step, self.step or 0)

    def train(self, indexes: List[int]) -> List[List[int]]:
        """Note that a round of these indexes begins. Returns the replacements since the last one.

        They are pairs as in `taken`. There are none if the number of nodes has changed, because
        then no index has the place of another.
        """
        before = {at for first, last in self.took_part for at in range(first, last + 1)}
        gone, new = sorted(before.difference(indexes)), sorted(set(indexes) - before)
        places = [[lost, by] for lost, by in zip(gone, new)] if len(gone) == len(new) else []
        self.took_part = ranges(indexes)
        self.taken = (self.taken + places)[-MOST_PLACES:]
        return places

    def learn(self, other: "History") -> None:
        """Merge what another pod knows: signs of life, the highest index, the highest step."""
        self.heard = self.heard or other.heard
        self.highest = max(self.highest, other.highest)
        self.reach(other.step)

    @property
    def goodput(self) -> float:
        """The share of the whole time that was spent in rounds, from 0 to 1."""
        whole = self.training_s + self.waiting_s + self.restarting_s
        return self.training_s / whole if whole else 0.0

    def brief(self) -> Json:
        """A short form for a failure record: only the worst machines, and no failure of its own."""
        return dict(self.as_json(), blame=dict(self.worst()), newest_failure={}, took_part=[])

    def worst(self) -> List[Tuple[str, List[float]]]:
        """The machines that cost the most time: name, and restarts and seconds."""
        return sorted(self.blame.items(), key=lambda one: -one[1][1])[:MOST_BLAMED]

    def _again(self) -> str:
        if self.rounds < 2:
            return ""
        if self.step is None:
            return ", steps that were trained again included"
        part = 100 * self.again_s / self.training_s if self.training_s else 0.0
        return f", {part:.0f} % of it again" if self.again_s else ", none of it again"

    def __str__(self) -> str:
        restarts = max(0, self.rounds - 1)
        text = f"trained {span(self.training_s)} ({100 * self.goodput:.0f} %{self._again()})"
        text += f", waited {span(self.waiting_s)}"
        if restarts:
            text += (
                f", restarted {restarts} time{'' if restarts == 1 else 's'} in "
                f"{span(self.restarting_s)}"
            )
        for lost, by in self.taken:
            text += f"; {place_taken(lost, by)}"
        for machine, (count, seconds) in self.worst():
            text += (
                f"; {machine} cost {count:.0f} restart{'' if count == 1 else 's'}, {span(seconds)}"
            )
        for rank in self.slow:
            text += f"; {rank}"
        return text
