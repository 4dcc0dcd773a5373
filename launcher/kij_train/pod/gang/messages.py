"""The messages between the supervisors of a job, and between a supervisor and its ranks' process.

A message is a line: a JSON object that has the name of its class here as `type`, and its fields.
All pods of a job run the same code, so an unknown type or field is an error. So is a line that is
longer than LONGEST_LINE.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Type, TypeVar, Union

from kij_train.pod.contract import Node
from kij_train.pod.gang.history import History, SlowRank, Who
from kij_train.pod.gang.jsontypes import MalformedError, from_json, to_json
from kij_train.pod.gang.pace import Beat

LONGEST_LINE = 1 << 20
"""In bytes. A supervisor that reads a longer line closes the connection."""
Json = Dict[str, Any]


class Ping(NamedTuple):
    """The sender is still there. Both sides of a connection between supervisors send it."""


# --- two supervisors: hello, and the answer to it -------------------------------------------------


class Hello(NamedTuple):
    """A supervisor has connected to another one, and asks what role that one has."""

    who: Who
    history: Optional[History]
    """What the sender knows, if it wants to be a member of a leader that answers. Else None."""


class Leading(NamedTuple):
    """The sender leads."""

    who: Who
    running: bool
    """Whether a round runs."""


class Following(NamedTuple):
    """The sender is a member of another leader."""

    node: int
    """The sender's index."""
    host: str
    """The address of the leader."""
    port: int


class Looking(NamedTuple):
    """The sender looks for a leader. It leads if it finds none."""

    node: int
    """The sender's index."""


class Ending(NamedTuple):
    """The sender is still ending its ranks, and does not lead."""


class Done(NamedTuple):
    """The verdict of a job that is done."""

    summary: str
    history: History


class Failed(NamedTuple):
    """The verdict of a job that has failed."""

    text: str
    uid: str
    """The uid of the supervisor whose ranks are the cause; empty if there is no such one."""
    record: Json
    """The failure record of the cause (pod/records.py); may be empty."""
    summary: str
    history: History
    stays: str
    """uid of the supervisor that tells pods which come later; empty if none has to."""


Verdict = Union[Done, Failed]
Answer = Union[Leading, Following, Looking, Ending, Done, Failed]
ANSWERS: Tuple[Type[Answer], ...] = (Leading, Following, Looking, Ending, Done, Failed)


# --- the leader to its members --------------------------------------------------------------------


class News(NamedTuple):
    """What every pod has to know, because any of them may have to lead next."""

    history: History
    """It does not change any more: encode writes it once."""
    ips: Dict[int, str]
    """IP addresses by index, so that pods are found without DNS: of the lowest indexes, one of
    which leads next, and of those that came from the reserve."""


class Loss(NamedTuple):
    """No round runs."""

    lost_s: float
    """How long no round has run."""
    culprit: Optional[Who]
    """The node that was lost or hung, if any."""


class Start(NamedTuple):
    """Start the ranks of a round."""

    round: int
    node_rank: int
    nnodes: int
    address: str
    """The IP address of rank 0's node."""
    news: News


class Stop(NamedTuple):
    """The round is over: end its ranks."""

    kill_after_s: float
    """The time between SIGTERM and SIGKILL."""
    loss: Loss
    news: News


class Inform(NamedTuple):
    """How the job stands, for a member that starts or stops nothing now."""

    loss: Optional[Loss]
    """None while a round runs."""
    news: News


class AskStacks(NamedTuple):
    """Report where the ranks are."""

    round: int


class AskBeats(NamedTuple):
    """Report the newest heartbeats of the ranks."""

    round: int


class Straggling(NamedTuple):
    """Other ranks are slow now than before."""

    slow: List[SlowRank]
    """As in the history."""


class CutOff(NamedTuple):
    """The leader is cut off from the others and ends. Its members may be cut off with it."""

    seconds: float
    """How long it has been cut off."""


Order = Union[Start, Stop, Inform, AskStacks, AskBeats, Straggling, CutOff, Done, Failed]
ORDERS: Tuple[Type[Order], ...] = (
    *(Start, Stop, Inform, AskStacks, AskBeats, Straggling, CutOff),
    *(Done, Failed),
)


# --- members to their leader ----------------------------------------------------------------------


class Ready(NamedTuple):
    """The sender can start ranks."""


class Leaving(NamedTuple):
    """The sender's pod has got a signal, and ends when its ranks have."""


class Heard(NamedTuple):
    """The sender has got the verdict."""


class RanksEnded(NamedTuple):
    """The ranks of the sender have ended."""

    code: int
    """The exit code of torchrun, negative for a signal."""
    round: int
    record: Json
    """The failure record (pod/records.py); empty if there is none."""


class Silence(NamedTuple):
    """The ranks of the sender have fallen silent, or have given a sign of life again."""

    silent: bool
    ever: bool
    """Whether they have given a sign of life in this round."""
    round: int


class Step(NamedTuple):
    """The script has reported a step."""

    step: int
    again_s: float
    """Seconds of this round that repeated steps of earlier rounds."""
    round: int


class Beats(NamedTuple):
    """The newest heartbeats of the sender's ranks: the answer to AskBeats."""

    beats: List[Beat]
    """By the sender's clock, as is `sent`."""
    sent: float
    round: int


class RankStack(NamedTuple):
    """Where one rank is."""

    rank: int
    state: str
    """The kernel's word on the process, such as "T (stopped)"."""
    frames: List[str]
    """The frames of its main thread, the most recent call first; empty if it did not answer."""


class Stacks(NamedTuple):
    """Where the ranks of the sender are: the answer to AskStacks."""

    ranks: List[RankStack]
    round: int


Report = Union[Ready, Leaving, Heard, RanksEnded, Silence, Step, Beats, Stacks]
REPORTS: Tuple[Type[Report], ...] = (
    *(Ready, Leaving, Heard, RanksEnded),
    *(Silence, Step, Beats, Stacks),
)


# --- a supervisor and the process that forks its ranks (ranks.py) ---------------------------------


class Run(NamedTuple):
    """Run torchrun for one round."""

    node: Node
    env: Dict[str, str]
    """Variables that are added to the environment."""


class EndRanks(NamedTuple):
    """Send a signal to torchrun, and SIGKILL later to all that is left.

    If this comes again, only the time until SIGKILL changes.
    """

    kill_after_s: float
    signum: int


class Prepared(NamedTuple):
    """The process can run rounds."""


class Broken(NamedTuple):
    """The process can run no round, ever."""

    why: str


class Exited(NamedTuple):
    """torchrun has ended."""

    code: int
    """Its exit code, negative for a signal."""


TaskOrder = Union[Run, EndRanks]
TASK_ORDERS: Tuple[Type[TaskOrder], ...] = (Run, EndRanks)
TaskReport = Union[Prepared, Broken, Exited]
TASK_REPORTS: Tuple[Type[TaskReport], ...] = (Prepared, Broken, Exited)


# --- encoder and decoder --------------------------------------------------------------------------

M = TypeVar("M")


def encode(message: NamedTuple) -> bytes:
    """The line of a message, with its end."""
    if _last and _last[0][0] is message:
        return _last[0][1]
    fields = {"type": json.dumps(type(message).__name__)}
    for name, value in zip(message._fields, message):
        fields[name] = _news(value) if isinstance(value, News) else json.dumps(to_json(value))
    written = ", ".join(f'"{name}": {text}' for name, text in fields.items())
    line = f"{{{written}}}\n".encode()
    _last[:] = [(message, line)]
    return line


_last: List[Tuple[NamedTuple, bytes]] = []
"""An order to all members is written once, too."""
_newest: List[Tuple[News, str]] = []


def _news(news: News) -> str:
    """The same news go to thousands of members, one after the other: they are written once."""
    if not _newest or _newest[0][0] is not news:
        _newest[:] = [(news, json.dumps(to_json(news)))]
    return _newest[0][1]


def decode(line: bytes, kinds: Tuple[Type[M], ...]) -> M:
    """The message of a line, if it is of one of these classes. Raises MalformedError."""
    if len(line) > LONGEST_LINE:
        raise MalformedError(f"a line of {len(line)} bytes, more than {LONGEST_LINE}")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"no JSON: {line[:40]!r}") from error
    if not isinstance(said, dict):
        raise MalformedError(f"no JSON object: {line[:40]!r}")
    name = said.pop("type", None)
    for kind in kinds:
        if kind.__name__ == name:
            return from_json(kind, said, kind.__name__)
    expected = " or ".join(kind.__name__ for kind in kinds)
    raise MalformedError(f"a message of type {str(name)[:40]!r}, not {expected}")
