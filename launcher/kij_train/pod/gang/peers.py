"""How the supervisors of a job talk to each other, and how one of them finds the leader.

A supervisor that connects to another one (channel.py) sends a Hello, and the other one answers with
its role, or with the verdict. If the other one leads, and the Hello has a history, the connection
stays: the leader then sends orders, and its new member sends reports.

To find the leader, a supervisor asks the lower indexes first, then all others. A pod that follows
names its leader, which is asked next.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import ipaddress
import random
import socket
import time
from typing import (
    AsyncIterator,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

from kij_train.pod.gang import messages
from kij_train.pod.gang.channel import Channel, connect
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.messages import Answer, Verdict
from kij_train.pod.gang.settings import Settings

CONNECT_S = 1.0
LOST_CONNECT_S = 0.25
"""The same for a leader that was just lost. Most often its pod is gone, and nothing answers at its
address; one that is there answers a connection at once."""
RESOLVE_S = 2.0
ANSWER_S = 2.0
LOOK_AGAIN_S = 0.2
"""Between two looks for a leader, where pods are FEW; of more pods each looks less often."""
FEW = 100
MOST_PAUSE_S = 2.0
SILENT_S = 5.0
"""After the first round, an index whose connection timed out is not asked again for this long."""
FIRST_LOOK_S = 3.0
"""In the first round, a pod waits this long for a lower index to start before it leads itself."""
MOST_AT_ONCE = 32
MOST_ASKED = 64
"""Pods that are asked for a leader, besides the lower indexes."""
Place = Union[int, str]
"""A pod that can be asked: its index, or its IP address where the index is not known."""
P = TypeVar("P", int, str, Place)


class Answered(NamedTuple):
    """The answer of a supervisor, and the address at which it gave it."""

    said: Answer
    address: Tuple[str, int]
    channel: Optional[Channel] = None
    """The open connection, if this pod has asked to join and the other one leads."""


class Found(NamedTuple):
    """The leader, with an open connection to it."""

    channel: Channel
    address: Tuple[str, int]
    who: Who


class Peers:
    """Finds the other pods of the job and their leader, for one pod."""

    def __init__(
        self, settings: Settings, me: Who, key: bytes, on_end: Callable[[Verdict], None]
    ) -> None:
        """`key` is what the pods of the job prove to each other that they have.

        `on_end` is called with the verdict when a pod answers that the job has ended."""
        self.ips: Dict[int, str] = {}
        """The last known IP address of each index, so that pods are found without DNS."""
        self.lost = ""
        """The IP address of the leader that was lost last."""
        self._settings, self._me, self._key, self._on_end = settings, me, key, on_end
        self._began = time.monotonic()
        self._waiting = 0
        self._enough = asyncio.Event()
        """Whether the pods that do not wait for this one are too few for a round."""

    async def look(self, history: History, is_over: Callable[[], bool]) -> Optional[Found]:
        """Look for the leader and join it. None: this pod has to lead, or `is_over()` is true.

        Lower indexes are asked first. If one of them is there, this pod waits for it to lead or to
        find the leader. If none is, the higher indexes are asked for a leader.
        """
        mine = self._me.node
        silent: Dict[Place, float] = {}
        # Ask the lowest index alone at first: most of the time it leads. A pod from the reserve
        # asks many at once: few such pods start, and when they do, indexes have been lost.
        at_once = 1 if mine < self._settings.pods else MOST_AT_ONCE
        awaited: Optional[int] = None
        while not is_over():
            now = time.monotonic()
            known = self._known()
            lower = [at for at in known if at < mine and silent.get(at, now) <= now]
            if awaited in lower:  # the one that this pod waits for comes first
                lower.sort(key=lambda at: at != awaited)
            waits = False
            asked: Set[str] = set()
            async for said in self._answers(
                lower, asked, at_once, silent if history.rounds else None, history
            ):
                found = await self._join(said, history)
                if found is not None:
                    return found
                # Where ranks are still ending, the pod looks for the leader itself.
                waits = not isinstance(said.said, messages.Ending)
                if isinstance(said.said, messages.Looking):
                    awaited = said.said.node
                if waits or is_over():
                    break
            if not waits and not is_over():
                found, waits = await self._look_above(asked, history)
                if found is not None:
                    return found
            if not waits and not is_over():
                early = time.monotonic() - self._began < FIRST_LOOK_S
                if mine == 0 or not early or history.rounds:
                    return None
            await asyncio.sleep(self._pause_s())
        return None

    async def _look_above(self, asked: Set[str], history: History) -> Tuple[Optional[Found], bool]:
        """Look for a leader among the higher indexes; also whether to wait for a lower one.

        Many of them may ask this pod at the same time, and wait for it. Once the others are too few
        for a round, there is no leader to be found.
        """
        asking = asyncio.ensure_future(self._ask_above(asked, history))
        enough = asyncio.ensure_future(self._enough.wait())
        try:
            await asyncio.wait({asking, enough}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enough.cancel()
            if not asking.done():
                asking.cancel()
        return (None, False) if asking.cancelled() or not asking.done() else asking.result()

    async def _ask_above(self, asked: Set[str], history: History) -> Tuple[Optional[Found], bool]:
        waits = False
        above = _some([at for at in self._known() if at > self._me.node])
        async for said in self._answers_of_all(above, asked):
            found = await self._join(said, history)
            if found is not None:
                return found, False
            waits = waits or self._is_awaited(said.said)
        return None, waits

    def waits(self, more: int) -> None:
        """So many more pods wait for this one to lead, or to find the leader."""
        self._waiting += more
        if self._settings.pods - 1 - self._waiting < self._settings.low:
            self._enough.set()
        else:
            self._enough.clear()

    def _pause_s(self) -> float:
        """Until it looks again. Hundreds of pods would keep the next leader from leading."""
        factor = min(MOST_PAUSE_S / LOOK_AGAIN_S, self._settings.pods / FEW)
        if factor <= 1:
            return LOOK_AGAIN_S
        return LOOK_AGAIN_S * factor * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    async def has_better_leader(self) -> bool:
        """Whether another pod leads and runs a round, or leads and has a lower index."""
        mine = self._me.node
        others = [at for at in self._known() if at != mine]
        # Most often, the lowest one that is there leads.
        async for answer in self._answers_of_all(_some(others, MOST_AT_ONCE), set()):
            said = answer.said
            if isinstance(said, messages.Leading) and (said.running or said.who.node < mine):
                return True
        return False

    def _known(self) -> List[int]:
        """The indexes to ask: those that have pods from the start, and all that have been seen."""
        return sorted(set(range(self._settings.pods)).union(self.ips))

    def _is_awaited(self, said: Answer) -> bool:
        """Whether the answer is of a lower index that will lead or find the leader: wait for it."""
        if isinstance(said, (messages.Looking, messages.Following)):
            return said.node < self._me.node
        return False

    async def _answers_of_all(
        self, indexes: Sequence[int], asked: Set[str]
    ) -> AsyncIterator[Answered]:
        """The answers of these indexes, then those of the pods from the reserve.

        Most indexes of the reserve have no pod yet, so their names are not looked up in DNS. One
        look-up of the Service gives the addresses of all pods that exist.
        """
        async for said in self._answers(indexes, asked):
            yield said
        more: List[Place] = []
        if self._settings.service and self._settings.reserve:
            port = self._settings.address(0)[1]
            there = await _resolve(self._settings.service, port)
            more += [at for at in there if at not in asked]
        else:  # on one machine: an unused port refuses at once
            more += range(self._settings.pods, self._settings.indexes)
        async for said in self._answers(_some(more), asked):
            yield said

    async def _join(self, answer: Answered, history: History) -> Optional[Found]:
        if not isinstance(answer.said, messages.Leading):
            return None
        if answer.channel is not None:
            return Found(answer.channel, answer.address, answer.said.who)
        joined = await self._ask_at(answer.address, history)
        return None if joined is None else await self._join(joined, history)

    async def _answers(
        self,
        places: Sequence[Place],
        asked: Set[str],
        at_once: int = MOST_AT_ONCE,
        silent: Optional[Dict[Place, float]] = None,
        join: Optional[History] = None,
    ) -> AsyncIterator[Answered]:
        """Ask these places, and yield the answers as they come.

        The first `at_once` places are asked at the same time, then as many, then twice as many, and
        so on up to MOST_AT_ONCE. The addresses that were tried are added to `asked`. A place that
        timed out is added to `silent`, with the time until which it is not to be asked again.

        A leader that is asked alone is joined with the history `join`: of several that are asked at
        the same time, more than one may lead.
        """
        start = 0
        while start < len(places):
            some = places[start : start + at_once]
            alone = join if len(some) == 1 else None
            asking = [
                asyncio.ensure_future(self._ask_patiently(at, asked, silent, alone)) for at in some
            ]
            try:
                for each in asyncio.as_completed(asking):
                    said = await each
                    if said is not None:
                        yield said
            finally:
                for task in asking:
                    task.cancel()
            start, at_once = start + at_once, min(max(at_once, start + at_once), MOST_AT_ONCE)

    async def _ask_patiently(
        self,
        at: Place,
        asked: Set[str],
        silent: Optional[Dict[Place, float]],
        join: Optional[History],
    ) -> Optional[Answered]:
        began = time.monotonic()
        said = await self._ask(at, asked, join)
        now = time.monotonic()
        if silent is not None and said is None and now - began > LOOK_AGAIN_S:
            silent[at] = now + SILENT_S
        return said

    async def _ask(self, at: Place, asked: Set[str], join: Optional[History]) -> Optional[Answered]:
        """Ask a place who leads. If it follows, ask its leader too, and give that answer."""
        if isinstance(at, int):
            host, port = self._settings.address(at)
            hosts = [self.ips[at], host] if at in self.ips else [host]
        else:
            hosts, port = [at], self._settings.address(0)[1]
        tried: List[str] = []
        for host in hosts:
            answer = await self._ask_at((host, port), join, tried)
            asked.update(tried)
            if answer is not None and isinstance(answer.said, messages.Following):
                # If its leader is gone, it will notice soon and look for the next one.
                there = await self._ask_at((answer.said.host, answer.said.port), join)
                return there or answer
            if answer is not None:
                return answer
        return None

    async def _ask_at(
        self, place: Tuple[str, int], join: Optional[History], tried: Optional[List[str]] = None
    ) -> Optional[Answered]:
        """Ask the addresses of this host until one answers.

        Addresses in `tried` are skipped, and those that are asked now are added to it. `join` is
        the history that this pod knows: with it, a leader that answers is joined. None: only ask.
        """
        tried = [] if tried is None else tried
        for host in await _resolve(*place):
            if host in tried:
                continue
            tried.append(host)
            address = (host, place[1])
            if address == (self._me.ip, self._settings.address(self._me.node)[1]):
                continue
            channel, said = await self._hello(address, join)
            if channel is None or said is None:
                continue
            if isinstance(said, messages.Leading) and join is not None:
                return Answered(said, address, channel)
            if isinstance(said, messages.Looking) and join is not None:
                said = await self._when_it_knows(channel, said)
                if isinstance(said, messages.Leading):
                    return Answered(said, address, channel)
            channel.close()
            if isinstance(said, (messages.Done, messages.Failed)):
                self._on_end(said)
            return Answered(said, address)
        return None

    async def _when_it_knows(self, channel: Channel, looking: messages.Looking) -> Answer:
        """What a lower index that looks for the leader answers next, as soon as it knows more."""
        if looking.node > self._me.node:
            return looking
        try:
            return await channel.receive(messages.ANSWERS) or looking
        except asyncio.CancelledError:
            channel.close()
            raise

    async def _hello(
        self, address: Tuple[str, int], join: Optional[History]
    ) -> Tuple[Optional[Channel], Optional[Answer]]:
        """Connect and say hello: the open connection and the answer, or None for both."""
        crowd = self._settings.crowd
        if address[0] == self.lost:
            channel = await connect(address, self._key, LOST_CONNECT_S)
        else:
            channel = await connect(address, self._key, crowd * CONNECT_S, crowd)
        if channel is None:
            return None, None
        channel.send(messages.Hello(self._me, join))
        try:
            said = await channel.receive(messages.ANSWERS, crowd * ANSWER_S)
        except asyncio.CancelledError:
            channel.close()
            raise
        if said is None:
            channel.close()
            return None, None
        return channel, said


def _some(places: List[P], first: int = 0) -> List[P]:
    """All of them, or of many the first ones and others at random, MOST_ASKED.

    A round has more than half of all pods, and each of them names its leader. So if a round runs,
    every pod of these that answers does so with a chance of more than one half. If none does, this
    pod may lead: it then gets a round only if more than half of all follow it.
    """
    if len(places) <= MOST_ASKED:
        return places
    return places[:first] + random.sample(places[first:], MOST_ASKED - first)


async def _resolve(host: str, port: int) -> List[str]:
    """The IP addresses of a host; none if it has none or DNS does not answer in time."""
    with contextlib.suppress(ValueError):
        # An IP address needs no thread of getaddrinfo, which may all be waiting for DNS.
        return [str(ipaddress.ip_address(host))]
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(
            loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), RESOLVE_S
        )
    except (OSError, asyncio.TimeoutError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
