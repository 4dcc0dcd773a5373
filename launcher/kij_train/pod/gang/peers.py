"""How the supervisors of a job talk to each other, and how one of them finds the leader.

Every message is a line of JSON over TCP:

- A supervisor that connects sends a hello: {gang, who, join, history}.
- The other one answers with its role: leading, following, looking (for a leader), ending (its
  ranks; it does not lead) or ended (with the verdict).
- The leader sends its members start, stop, stacks, news, cut_off, done, failed, ping.
- Members send the leader ready, ended, silent, step, stacks, leaving, heard, ping.

To find the leader, a supervisor asks the lower indexes first, then all others. A pod that follows
names its leader, which is asked next.

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
"""Both sides of a connection send a ping this often."""
LOST_AFTER_S = 5.0
"""A side that has sent nothing for this long counts as lost."""
CONNECT_S = 1.0
LOST_CONNECT_S = 0.25
"""The same for a leader that was just lost. Most often its pod is gone, and nothing answers at its
address; one that is there answers a connection at once."""
RESOLVE_S = 2.0
ANSWER_S = 2.0
FLUSH_S = 1.0
LOOK_AGAIN_S = 0.2
SILENT_S = 5.0
"""After the first round, an index whose connection timed out is not asked again for this long."""
FIRST_LOOK_S = 3.0
"""In the first round, a pod waits this long for a lower index to start before it leads itself."""
MOST_AT_ONCE = 32
Place = Union[int, str]
"""A pod that can be asked: its index, or its IP address where the index is not known."""
LONGEST_LINE = 1 << 20


class Channel:
    """A connection to another supervisor: lines of JSON in both directions, and pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.fell_silent = False
        """Whether nothing came any more, not even an end of the connection: a machine that is dead,
        or a network that is cut."""

    def send(self, message: Json) -> None:
        """Queue a message. A lost connection raises nothing here: `receive` returns None."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self, timeout_s: float = LOST_AFTER_S) -> Optional[Json]:
        """The next message other than a ping; None if the other side is gone or silent."""
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), timeout_s)
                said = json.loads(line)
            except asyncio.TimeoutError:
                self.fell_silent = True
                return None
            except (OSError, ValueError, asyncio.LimitOverrunError):
                return None
            if not isinstance(said, dict):
                return None
            if "ping" not in said:
                return said

    async def ping(self) -> None:
        """Send pings until cancelled."""
        while True:
            self.send({"ping": 1})
            await asyncio.sleep(KEEP_ALIVE_S)

    async def flush(self) -> None:
        """Wait until everything is sent, at most FLUSH_S."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.drain(), FLUSH_S)

    def close(self) -> None:
        """Close the connection. Queued messages are still sent."""
        self._writer.close()


class Found(NamedTuple):
    """The leader, with an open connection to it."""

    channel: Channel
    address: Tuple[str, int]
    who: Who


class Peers:
    """Finds the other pods of the job and their leader, for one pod."""

    def __init__(
        self, settings: Settings, me: Who, gang_id: str, on_end: Callable[[Json], None]
    ) -> None:
        """`on_end` is called with the verdict when a pod answers that the job has ended."""
        self.ips: Dict[int, str] = {}
        """The last known IP address of each index, so that pods are found without DNS."""
        self.lost = ""
        """The IP address of the leader that was lost last."""
        self._settings, self._me, self._gang_id, self._on_end = settings, me, gang_id, on_end
        self._began = time.monotonic()

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
                waits = said["role"] != "ending"  # it looks for the leader itself
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
        """Whether another pod leads and runs a round, or leads and has a lower index."""
        mine = self._me.node
        others = [at for at in self._known() if at != mine]
        async for said in self._answers_of_all(others, set()):
            if said["role"] == "leading" and (said["running"] or said["index"] < mine):
                return True
        return False

    def _known(self) -> List[int]:
        """The indexes to ask: those that have pods from the start, and all that have been seen."""
        return sorted(set(range(self._settings.pods)).union(self.ips))

    def _is_awaited(self, said: Json) -> bool:
        """Whether the answer is of a lower index that will lead or find the leader: wait for it."""
        return said["role"] in ("looking", "following") and said["index"] < self._me.node

    async def _answers_of_all(self, indexes: Sequence[int], asked: Set[str]) -> AsyncIterator[Json]:
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
        """Ask these places, without joining, and yield the answers as they come.

        The first `at_once` places are asked at the same time, then twice as many, and so on up to
        MOST_AT_ONCE. The addresses that were tried are added to `asked`. A place that timed out is
        added to `silent`, with the time until which it is not to be asked again.
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
        """Ask a place who leads. If it follows, ask its leader too, and give that answer.

        The answer of a leader has the leader's address, as `at`.
        """
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
                # If its leader is gone, it will notice soon and look for the next one.
                _, there = await self._ask_at((said["at"][0], int(said["at"][1])), None)
                return there or said
            if said is not None:
                return said
        return None

    async def _ask_at(
        self, place: Tuple[str, int], join: Optional[History], tried: Optional[List[str]] = None
    ) -> Tuple[Optional[Found], Optional[Json]]:
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
        """Connect and say hello: the open connection and the answer, or None for both."""
        timeout_s = LOST_CONNECT_S if address[0] == self.lost else CONNECT_S
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(*address, limit=LONGEST_LINE), timeout_s
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
