"""How the supervisors of a job talk, and how one finds the others and their leader.

A line of JSON each: hello {gang, who, join, history}; its answer {role: leading | following |
looking | ending | ended}; to members start, stop, stacks, news, cut_off, done, failed, ping; from
them ready, ended, silent, stacks, leaving, heard, ping.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import ipaddress
import json
import socket
import time
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.settings import Settings

Json = Dict[str, Any]
KEEP_ALIVE_S = 1.0
"""Between two signs of life."""
LOST_AFTER_S = 5.0
"""Without one."""
CONNECT_S = 1.0
RESOLVE_S = 2.0
ANSWER_S = 2.0
FLUSH_S = 1.0
LOOK_AGAIN_S = 0.2
SILENT_S = 5.0
"""How long an index that took its time not to answer is not asked again, once there were rounds."""
FIRST_LOOK_S = 3.0
"""How long a node looks for a lower index that has not started yet before it leads itself."""
MOST_AT_ONCE = 32
Place = Union[int, str]
"""Where one is asked: an index, whose address is looked up, or the address of one that is not
known."""
LONGEST_LINE = 1 << 20


class Channel:
    """Lines of JSON to and from another supervisor, with signs of life."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Json) -> None:
        """Queue it; a connection that is gone shows when reading."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self, timeout_s: float = LOST_AFTER_S) -> Optional[Json]:
        """The next message that is no ping; None when the other side is gone or silent."""
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), timeout_s)
                said = json.loads(line)
            except (asyncio.TimeoutError, OSError, ValueError, asyncio.LimitOverrunError):
                return None
            if not isinstance(said, dict):
                return None
            if "ping" not in said:
                return said

    async def ping(self) -> None:
        """Until cancelled."""
        while True:
            self.send({"ping": 1})
            await asyncio.sleep(KEEP_ALIVE_S)

    async def flush(self) -> None:
        """Wait, not for long, until everything is sent."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.drain(), FLUSH_S)

    def close(self) -> None:
        """Close it; what is queued is still sent."""
        self._writer.close()


class Found(NamedTuple):
    """The leader, with an open connection to it."""

    channel: Channel
    address: Tuple[str, int]
    who: Who


class Peers:
    """The other nodes of a job, as one of them finds them."""

    def __init__(
        self, settings: Settings, me: Who, gang_id: str, on_end: Callable[[Json], None]
    ) -> None:
        """`on_end` gets the verdict, where a node answers that the job has ended."""
        self.ips: Dict[int, str] = {}
        """Where nodes were last, so that they are found without DNS."""
        self._settings, self._me, self._gang_id, self._on_end = settings, me, gang_id, on_end
        self._began = time.monotonic()

    async def look(self, history: History, is_over: Callable[[], bool]) -> Optional[Found]:
        """The leader, joined; None: this node has to lead, or `is_over` says to look no longer."""
        mine = self._me.node
        silent: Dict[Place, float] = {}
        # The first one alone: it leads most of the time. But not one of a few that come later.
        at_once = 1 if mine < self._settings.pods else MOST_AT_ONCE
        while not is_over():
            now = time.monotonic()
            known = self._known()
            lower = [at for at in known if at < mine and silent.get(at, now) <= now]
            waits = False
            asked: Set[str] = set()
            async for said in self._answers(
                lower, asked, at_once, silent if history.rounds else None
            ):
                found = await self._join(said, history)
                if found is not None:
                    return found
                waits = said["role"] != "ending"  # it is there, and looks itself
                if waits or is_over():
                    break
            if not waits and not is_over():
                above = [at for at in known if at > mine]
                async for said in self._answers_of_all(above, asked):
                    found = await self._join(said, history)
                    if found is not None:
                        return found
                    waits = waits or self._is_awaited(said)
            if not waits and not is_over():
                early = time.monotonic() - self._began < FIRST_LOOK_S
                if mine == 0 or not early or history.rounds:
                    return None
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    async def has_better_leader(self) -> bool:
        """Whether another node leads with a round, or with a lower index."""
        mine = self._me.node
        others = [at for at in self._known() if at != mine]
        async for said in self._answers_of_all(others, set()):
            if said["role"] == "leading" and (said["running"] or said["index"] < mine):
                return True
        return False

    def _known(self) -> List[int]:
        """The indexes that are asked by their number: those of the start, and whoever was there."""
        return sorted(set(range(self._settings.pods)).union(self.ips))

    def _is_awaited(self, said: Json) -> bool:
        """Whether it is a lower index, which will lead, or find the leader."""
        return said["role"] in ("looking", "following") and said["index"] < self._me.node

    async def _answers_of_all(self, indexes: Sequence[int], asked: Set[str]) -> AsyncIterator[Json]:
        """What these say, and then those of the reserve that are there.

        No name in DNS is asked for before there is a pod: one look-up of the name that all pods
        have gives the addresses of those that there are.
        """
        async for said in self._answers(indexes, asked):
            yield said
        more: List[Place] = []
        if self._settings.service and self._settings.reserve:
            port = self._settings.address(0)[1]
            there = await _resolve(self._settings.service, port)
            more += [at for at in there if at not in asked]
        else:  # on one machine, where a port that nobody has refuses at once
            more += range(self._settings.pods, self._settings.indexes)
        async for said in self._answers(more, asked):
            yield said

    async def _join(self, said: Json, history: History) -> Optional[Found]:
        if said["role"] != "leading":
            return None
        found, _ = await self._ask_at((said["at"][0], said["at"][1]), history)
        return found

    async def _answers(
        self,
        places: Sequence[Place],
        asked: Set[str],
        at_once: int = MOST_AT_ONCE,
        silent: Optional[Dict[Place, float]] = None,
    ) -> AsyncIterator[Json]:
        """What those say that answer, as they do, asked without joining.

        Some are asked at once, then twice as many. `asked` gets their addresses, `silent` until
        when a place that took its time not to answer is not asked again.
        """
        start = 0
        while start < len(places):
            some = places[start : start + at_once]
            asking = [asyncio.ensure_future(self._ask_patiently(at, asked, silent)) for at in some]
            try:
                for each in asyncio.as_completed(asking):
                    said = await each
                    if said is not None:
                        yield said
            finally:
                for task in asking:
                    task.cancel()
            start, at_once = start + at_once, min(2 * at_once, MOST_AT_ONCE)

    async def _ask_patiently(
        self, at: Place, asked: Set[str], silent: Optional[Dict[Place, float]]
    ) -> Optional[Json]:
        began = time.monotonic()
        said = await self._ask(at, asked)
        now = time.monotonic()
        if silent is not None and said is None and now - began > LOOK_AGAIN_S:
            silent[at] = now + SILENT_S
        return said

    async def _ask(self, at: Place, asked: Set[str]) -> Optional[Json]:
        """Ask a place, and whom it names, for the leader, whose answer gets its address."""
        if isinstance(at, int):
            host, port = self._settings.address(at)
            hosts = [self.ips[at], host] if at in self.ips else [host]
        else:
            hosts, port = [at], self._settings.address(0)[1]
        tried: List[str] = []
        for host in hosts:
            _, said = await self._ask_at((host, port), None, tried)
            asked.update(tried)
            if said is not None and said.get("role") == "following":
                # Where its leader is gone, it will look itself in a moment.
                _, there = await self._ask_at((said["at"][0], int(said["at"][1])), None)
                return there or said
            if said is not None:
                return said
        return None

    async def _ask_at(
        self, place: Tuple[str, int], join: Optional[History], tried: Optional[List[str]] = None
    ) -> Tuple[Optional[Found], Optional[Json]]:
        """Ask there, but for the addresses that were tried; they become more.

        The leader is joined with the history that this node knows; None: it is not joined.
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
            if said["role"] == "leading":
                said["at"] = list(address)
                if join is not None:
                    return Found(channel, address, Who(*said["who"])), said
            channel.close()
            if said["role"] == "ended":
                self._on_end(said["verdict"])
            return None, said
        return None, None

    async def _hello(
        self, address: Tuple[str, int], join: Optional[History]
    ) -> Tuple[Optional[Channel], Optional[Json]]:
        """An open connection, and what is answered there."""
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(*address, limit=LONGEST_LINE), CONNECT_S
            )
        except (OSError, asyncio.TimeoutError):
            return None, None
        channel = Channel(reader, writer)
        hello = {"gang": self._gang_id, "who": list(self._me), "join": join is not None}
        channel.send(hello if join is None else dict(hello, history=join.as_json()))
        try:
            said = await channel.receive(ANSWER_S)
        except asyncio.CancelledError:
            channel.close()
            raise
        if said is None or "role" not in said:
            channel.close()
            return None, None
        return channel, said


async def _resolve(host: str, port: int) -> List[str]:
    """Its addresses; none where it has none, or DNS does not answer in time."""
    with contextlib.suppress(ValueError):
        # Not with the names, which may all wait for DNS.
        return [str(ipaddress.ip_address(host))]
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(
            loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), RESOLVE_S
        )
    except (OSError, asyncio.TimeoutError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
