"""What has happened to a job, and what its machines cost it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

Json = Dict[str, Any]
MOST_BLAMED = 5


def span(seconds: float) -> str:
    """A duration as people read it."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


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

    def as_json(self) -> Json:
        return dict(vars(self))

    @property
    def goodput(self) -> float:
        """The part of the time that was spent in rounds."""
        whole = self.training_s + self.waiting_s + self.restarting_s
        return self.training_s / whole if whole else 0.0

    def brief(self) -> Json:
        """With the worst machines alone, for a record that must be short."""
        return dict(self.as_json(), blame=dict(self.worst()))

    def worst(self) -> List[Tuple[str, List[float]]]:
        """The machines that cost most: name, restarts and seconds."""
        return sorted(self.blame.items(), key=lambda one: -one[1][1])[:MOST_BLAMED]

    def __str__(self) -> str:
        restarts = max(0, self.rounds - 1)
        text = f"trained {span(self.training_s)} ({100 * self.goodput:.0f} %)"
        text += f", waited {span(self.waiting_s)}"
        if restarts:
            text += (
                f", restarted {restarts} time{'' if restarts == 1 else 's'} in "
                f"{span(self.restarting_s)}"
            )
        for machine, (count, seconds) in self.worst():
            text += (
                f"; {machine} cost {count:.0f} restart{'' if count == 1 else 's'}, {span(seconds)}"
            )
        return text
