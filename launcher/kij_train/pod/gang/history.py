"""What has happened to a job, and what its machines cost it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

Json = Dict[str, Any]
MOST_BLAMED = 5
MOST_CHARS = 2000
"""Of a message and of a stack: the history travels with every news."""
MOST_PLACES = 5


def span(seconds: float) -> str:
    """A duration as people read it."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def place_taken(lost: int, by: int) -> str:
    """Who trains for whom."""
    return f"index {by} took the place of index {lost}"


class Who(NamedTuple):
    """A node as others know it."""

    node: int
    """Its completion index."""
    uid: str
    """Of the process: the pod of an index may be replaced."""
    ip: str
    pod: str
    machine: str

    def __str__(self) -> str:
        machine = f" on {self.machine}" if self.machine else ""
        return f"index {self.node} (pod {self.pod}{machine})"


class Steps:
    """How far the script says it is in a round, and how long it does what it has done before."""

    def __init__(self, before: Optional[int]) -> None:
        """`before` is the highest step of the rounds before; None where it is not known."""
        self._before = before
        self.step: Optional[int] = None
        self.again_s = 0.0
        self._behind_since: Optional[float] = None

    def see(self, step: int, now: float) -> None:
        """It is at `step`; to be called now and then, also where it is at none other."""
        self.step = step
        if self._behind_since is not None:
            self.again_s += now - self._behind_since
        is_behind = self._before is not None and step <= self._before
        self._behind_since = now if is_behind else None


class History:
    """What has happened to the job so far; whoever leads has all of it."""

    def __init__(self, said: Optional[Json] = None) -> None:
        said = said or {}
        self.rounds: int = said.get("rounds", 0)
        self.failures: int = said.get("failures", 0)
        self.waiting_s: float = said.get("waiting_s", 0.0)
        self.training_s: float = said.get("training_s", 0.0)
        self.restarting_s: float = said.get("restarting_s", 0.0)
        self.blame: Dict[str, List[float]] = said.get("blame", {})
        """Machine → restarts and seconds that it cost."""
        self.heard: bool = said.get("heard", False)
        """Whether a rank has given a sign of life in any round."""
        self.step: Optional[int] = said.get("step")
        """The highest that the script has said it is at; None where it does not say."""
        self.again_s: float = said.get("again_s", 0.0)
        """Of the time in rounds, what it took to come to that step again."""
        self.newest_failure: Json = said.get("newest_failure", {})
        """Of a round: index and pod of the node, and the record that it left."""
        self.trained: List[int] = said.get("trained", [])
        """Indexes of the last round."""
        self.taken: List[List[int]] = said.get("taken", [])
        """Of the last losses: the index that was lost, and the one that trains in its place."""
        self.highest: int = said.get("highest", 0)
        """Index that was ever there: those below it were, too."""

    def as_json(self) -> Json:
        return dict(vars(self))

    def fail(self, who: Optional[Who], record: Json) -> None:
        """A round has failed. Of what the node has recorded, what people read is kept."""
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
        """The script was at this step."""
        if step is not None:
            self.step = max(step, self.step or 0)

    def train(self, indexes: List[int]) -> List[List[int]]:
        """A round of these indexes begins; gives those of the last one whose places were taken.

        None where the number of nodes varies: no index is in the place of another then.
        """
        gone, new = (
            sorted(set(a) - set(b)) for a, b in ((self.trained, indexes), (indexes, self.trained))
        )
        places = [[lost, by] for lost, by in zip(gone, new)] if len(gone) == len(new) else []
        self.trained = indexes
        self.taken = (self.taken + places)[-MOST_PLACES:]
        return places

    def learn(self, other: "History") -> None:
        """Take over what another node has seen of the script, and of the other indexes."""
        self.heard = self.heard or other.heard
        self.highest = max(self.highest, other.highest)
        self.reach(other.step)

    @property
    def goodput(self) -> float:
        """The part of the time that was spent in rounds."""
        whole = self.training_s + self.waiting_s + self.restarting_s
        return self.training_s / whole if whole else 0.0

    def brief(self) -> Json:
        """With the worst machines alone, for a record that must be short and has its failure."""
        return dict(self.as_json(), blame=dict(self.worst()), newest_failure={}, trained=[])

    def worst(self) -> List[Tuple[str, List[float]]]:
        """The machines that cost most: name, restarts and seconds."""
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
        return text
