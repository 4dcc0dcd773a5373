"""How the supervisors of a job talk, and how one finds the others and their leader.

A line of JSON each: hello {gang, who, join, history}; its answer {role: leading | following |
looking | ended}; to members start, stop, stacks, spare, done, failed, ping; from them ready, ended,
silent, stacks, leaving, ping.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import json
import socket
import time
from typing import Any, AsyncIterator, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from kij_train.gang.contract import Settings
from kij_train.gang.history import History, Who

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
        silent: Dict[int, float] = {}
        while not is_over():
            waits_for = None
            for index in range(mine):
                began = time.monotonic()
                if began < silent.get(index, 0.0):
                    continue
                found, said = await self._ask(index, history)
                if found is not None:
                    return found
                if said is not None:  # it is there, and looks itself
                    waits_for = index
                    break
                if history.rounds and time.monotonic() - began > LOOK_AGAIN_S:
                    silent[index] = time.monotonic() + SILENT_S
            if waits_for is None:
                async for said in self._answers(range(mine + 1, self._settings.pods)):
                    if said["role"] == "leading":
                        found, _ = await self._ask_at((said["at"][0], said["at"][1]), history)
                        if found is not None:
                            return found
                early = time.monotonic() - self._began < FIRST_LOOK_S
                if mine == 0 or not early or history.rounds:
                    return None
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    async def has_better_leader(self) -> bool:
        """Whether another node leads with a round, or with a lower index."""
        mine = self._me.node
        others = [index for index in range(self._settings.pods) if index != mine]
        async for said in self._answers(others):
            if said["role"] == "leading" and (said["running"] or said["index"] < mine):
                return True
        return False

    async def _answers(self, indexes: Sequence[int]) -> AsyncIterator[Json]:
        """What those say that answer, asked without joining, some at once."""
        for start in range(0, len(indexes), MOST_AT_ONCE):
            some = indexes[start : start + MOST_AT_ONCE]
            for _, said in await asyncio.gather(*(self._ask(index, None) for index in some)):
                if said is not None:
                    yield said

    async def _ask(
        self, index: int, join: Optional[History]
    ) -> Tuple[Optional[Found], Optional[Json]]:
        """Ask an index, and whom it names, for the leader: the leader, or its answer.

        The leader is joined with the history that this node knows; None: it is not joined.
        """
        host, port = self._settings.address(index)
        places = [(self.ips[index], port)] if index in self.ips else []
        tried: List[str] = []
        for place in [*places, (host, port)]:
            found, said = await self._ask_at(place, join, tried)
            if said is not None and said.get("role") == "following":
                # Where its leader is gone, it will look itself in a moment.
                found, there = await self._ask_at((said["at"][0], int(said["at"][1])), join)
                return found, there or said
            if found is not None or said is not None:
                return found, said
        return None, None

    async def _ask_at(
        self, place: Tuple[str, int], join: Optional[History], tried: Optional[List[str]] = None
    ) -> Tuple[Optional[Found], Optional[Json]]:
        """Ask there, but for the addresses that were tried; they become more."""
        loop = asyncio.get_running_loop()
        tried = [] if tried is None else tried
        try:
            resolved = await asyncio.wait_for(
                loop.getaddrinfo(*place, type=socket.SOCK_STREAM), RESOLVE_S
            )
        except (OSError, asyncio.TimeoutError):
            return None, None
        for host in dict.fromkeys(str(entry[4][0]) for entry in resolved):
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
