"""The state of the leader: its members, and the round that runs.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from kij_train.pod.gang import messages
from kij_train.pod.gang.history import Who
from kij_train.pod.gang.messages import RankStack

Json = Dict[str, Any]


class Member:
    """A pod that is connected to the leader. The leader's own pod is a member too."""

    def __init__(
        self,
        who: Who,
        send: Callable[[messages.Order], None],
        now: float,
        close: Callable[[], None],
    ) -> None:
        """`close` ends the connection; the pod then connects and joins again."""
        self.who = who
        self.send, self.close = send, close
        self.ready = False
        """Whether it can start ranks now."""
        self.leaving = False
        self.silent = False
        """Whether its ranks have given no sign of life for longer than the limit."""
        self.never_heard = False
        """Whether its ranks have given no sign of life at all in this round."""
        self.told_news = False
        self.joined = now


class Failure(NamedTuple):
    """Why the ranks of a round failed or hung."""

    who: Optional[Who]
    """The node, if there is a single one."""
    what: str
    """A text that the verdict on the job begins with."""
    record: Json
    """The failure record (pod/records.py)."""


class Round:
    """One round: the members that take part in it, and what is known of its end."""

    def __init__(self, number: int, members: List[Member], now: float) -> None:
        self.number = number
        self.members = members
        self.began = now
        self.ended: Dict[str, Tuple[int, Json]] = {}
        """uid of a member whose ranks have ended → exit code and failure record."""
        self.judge_at = float("inf")
        self.broken_at: Optional[float] = None
        self.stop_by = float("inf")
        self.hastened = False
        """Whether its ranks have been told to end without a grace period."""
        self.asked_at: Optional[float] = None
        """When the members were asked for the stacks of their ranks; None: they were not."""
        self.stacks: Dict[str, List[RankStack]] = {}
        """uid of a member → the stack of each of its ranks."""
        self.step: Optional[int] = None
        """The step that the script has reported last."""
        self.again_s = 0.0
        """Seconds of this round that repeated steps of earlier rounds."""
        self.failure: Optional[Failure] = None
        """Set if ranks failed or hung. None if a pod was lost."""

    def is_done(self) -> bool:
        """Whether the ranks of all members have ended well, and none because its pod has to end.

        A pod may be lost after that: it has done its part.
        """
        return (
            len(self.ended) == len(self.members)
            and not any(code for code, _ in self.ended.values())
            and not any(member.leaving for member in self.members)
        )
