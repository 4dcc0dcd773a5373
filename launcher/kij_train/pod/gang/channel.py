"""Connections between the supervisors of a job: proved, then messages in both directions.

Who connects proves first that it belongs to the job, and has it proved (kij_train.pod.peering has
the protocol and what it does not defend against). Until then an end accepts at most a few hundred
bytes, for at most PROVE_S. Then come messages (messages.py), as lines.

A leader has thousands of connections, and each brings a ping a second. So no task waits for bytes:
they are taken in as they come, and pings are thrown away before anything is made of them.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import collections
from typing import (
    Any,
    Callable,
    Coroutine,
    Deque,
    Dict,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

from kij_train.pod import peering
from kij_train.pod.gang import messages
from kij_train.pod.gang.jsontypes import MalformedError
from kij_train.pod.gang.messages import LONGEST_LINE
from kij_train.pod.peering import MOST_UNPROVED, Entrance, Refused, within

M = TypeVar("M")
KEEP_ALIVE_S = 1.0
"""Both sides of a connection send a ping this often."""
LOST_AFTER_S = 5.0
"""A side that has sent nothing for this long counts as lost."""
PROVE_S = 2.0
FLUSH_S = 1.0
BACKLOG = 4096
"""Connections that the kernel keeps until they are looked at; its own limit is as high."""
MOST_UNREAD = 2 * LONGEST_LINE
"""Bytes of messages that nobody has received yet; then no more is read from the connection."""
PING = messages.encode(messages.Ping())


class Channel(asyncio.Protocol):
    """A connection to another supervisor: its proof, then messages both ways, and pings."""

    def __init__(
        self,
        proof: peering.Greeting,
        on_proved: Callable[["Channel"], None],
        on_refused: Callable[["Channel", Exception], None],
    ) -> None:
        """One of the two is called once, unless this end closes the connection first."""
        self.refused = ""
        """What is wrong with the last message, if it was malformed."""
        self.fell_silent = False
        """Whether nothing came any more, not even an end of the connection: a machine that is dead,
        or a network that is cut."""
        self.has_spoken = False
        """Whether anything has ever come."""
        self._loop = asyncio.get_running_loop()
        self._proof: Optional[peering.Greeting] = proof
        self._on_proved, self._on_refused = on_proved, on_refused
        self._transport: Optional[asyncio.Transport] = None
        self._buffer = bytearray()
        self._lines: Deque[bytes] = collections.deque()
        self._unread = 0
        """Bytes of these lines."""
        self._is_over = False
        """Whether nothing comes any more."""
        self._heard = 0.0
        """When something came last, by the clock of the loop."""
        self._waiting: Optional[asyncio.Future[None]] = None
        self._sending: Optional[asyncio.Future[None]] = None

    @property
    def peer(self) -> str:
        """The IP address of the other end."""
        found = self._transport and self._transport.get_extra_info("peername")
        return str(found[0]) if found else ""

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        if self._is_over:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=0)  # flush() waits for all of it
        self._heard = self._loop.time()
        self._prove(None)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._heard, self.has_spoken = self._loop.time(), True
        if data == PING and not self._buffer and self._proof is None:
            return
        self._buffer += data
        while self._proof is not None:
            try:
                said = peering.take_greeting(self._buffer)
            except Refused as error:
                self._refuse(error)
                return
            if said is None:
                return
            self._prove(said)
        self._take_lines()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """The connection has ended. What has come whole is still received."""
        del exc
        if self._proof is not None and not self._is_over:
            self._refuse(ConnectionResetError("the connection was closed"))
        self._end()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Something waits to be sent."""
        if self._sending is None:
            self._sending = self._loop.create_future()

    def resume_writing(self) -> None:
        """All is sent."""
        if self._sending is not None:
            if not self._sending.done():
                self._sending.set_result(None)
            self._sending = None

    # The proof.

    def _prove(self, said: Optional[peering.Json]) -> None:
        """Take the next step of the proof; the first one with None."""
        assert self._proof is not None
        try:
            answer = self._proof.send(said)
            if answer is not None:
                self._write(peering.encode(answer))
        except StopIteration as done:
            self._proof = None
            if done.value is not None:
                self._write(peering.encode(done.value))
            self._on_proved(self)
        except Refused as error:
            self._refuse(error)

    def _refuse(self, why: Exception) -> None:
        self.close()
        self._on_refused(self, why)

    # Messages.

    def send(self, message: NamedTuple) -> None:
        """Queue a message. A lost connection raises nothing here: `receive` returns None."""
        self._write(messages.encode(message))

    def send_ping(self) -> None:
        """Have the other side know that this one is there."""
        self._write(PING)

    async def ping(self) -> None:
        """Send pings until cancelled."""
        while True:
            self.send_ping()
            await asyncio.sleep(KEEP_ALIVE_S)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _take_lines(self) -> None:
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            line += b"\n"
            if line != PING:
                self._lines.append(bytes(line))
                self._unread += len(line)
        if len(rest) > LONGEST_LINE:
            self.refused = f"a line of more than {LONGEST_LINE} bytes"
            self._end()
        if self._unread > MOST_UNREAD and self._transport is not None:
            self._transport.pause_reading()
        if lines:
            self._wake()

    async def receive(
        self, kinds: Tuple[Type[M], ...], timeout_s: float = LOST_AFTER_S
    ) -> Optional[M]:
        """The next message other than a ping, which has to be of one of these classes.

        None if the other side is gone or silent, or if the message is malformed (`refused`).
        """
        while True:
            if not self._lines and not self._is_over:
                await self._something(timeout_s)
            if not self._lines:
                return None
            line = self._lines.popleft()
            self._unread -= len(line)
            if self._unread <= MOST_UNREAD and self._transport is not None:
                self._transport.resume_reading()
            try:
                said: Union[M, messages.Ping] = messages.decode(line, (*kinds, messages.Ping))
            except MalformedError as error:
                self.refused = str(error)
                return None
            if not isinstance(said, messages.Ping):
                return said

    async def _something(self, timeout_s: float) -> None:
        """Wait for a message, or the end, or until nothing has come for this long."""
        since = self._loop.time()
        self._waiting = waiting = self._loop.create_future()
        try:
            while not waiting.done():
                left_s = max(since, self._heard) + timeout_s - self._loop.time()
                if left_s <= 0:
                    self.fell_silent = True
                    return
                await asyncio.wait({waiting}, timeout=left_s)
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _end(self) -> None:
        self._is_over = True
        self._wake()

    async def flush(self) -> None:
        """Wait until everything is sent, at most FLUSH_S."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=FLUSH_S)

    def close(self) -> None:
        """Close the connection. Queued messages are still sent, but to one that fell silent."""
        self._end()
        if self._transport is not None:
            if self.fell_silent:
                self._transport.abort()
            else:
                self._transport.close()


async def connect(
    address: Tuple[str, int], key: bytes, timeout_s: float, crowd: float = 1.0
) -> Optional[Channel]:
    """A proved connection; None if nobody answers there, or nobody of this job.

    `timeout_s` is that of the connection alone; the proof has PROVE_S, and `crowd` times as long
    where many others do the same at this moment.
    """
    loop = asyncio.get_running_loop()
    proved: asyncio.Future[bool] = loop.create_future()

    def end(is_proved: bool) -> None:
        if not proved.done():
            proved.set_result(is_proved)

    channel = Channel(peering.as_client(key), lambda _: end(True), lambda *_: end(False))
    is_proved = False
    try:
        await within(loop.create_connection(lambda: channel, *address), timeout_s)
        is_proved = await within(proved, crowd * PROVE_S)
    except (OSError, asyncio.TimeoutError):
        return None
    finally:
        if not is_proved:
            channel.close()
    return channel if is_proved else None


class Door:
    """The port at which other supervisors connect to this one."""

    def __init__(
        self,
        key: bytes,
        serve: Callable[[Channel], Coroutine[Any, Any, None]],
        say: Callable[[str], None],
        crowd: float = 1.0,
    ) -> None:
        """`serve` is called with every connection that is proved, `say` tells of the others."""
        self.entrance = Entrance(key, int(crowd * MOST_UNPROVED), say)
        """Counts strangers. All pods of a job may come at the same moment: `crowd` is
        Settings.crowd."""
        self._key, self._serve, self._crowd = key, serve, crowd
        self._server: Optional[asyncio.AbstractServer] = None
        self._visits: Dict[asyncio.Future[None], Channel] = {}
        self.unproved: Dict[Channel, asyncio.TimerHandle] = {}
        """Connections that may still prove that they belong to the job, the oldest first, and what
        ends them."""

    async def open(self, port: int) -> None:
        """Listen from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._let_in, None, port, backlog=BACKLOG)

    def _let_in(self) -> Channel:
        if len(self.unproved) >= self._crowd * MOST_UNPROVED:
            oldest = next(iter(self.unproved))
            self.unproved.pop(oldest).cancel()
            oldest.close()
        channel = Channel(peering.as_server(self._key), self._visit, self._count)
        limit_s = self._crowd * PROVE_S
        late = TimeoutError(f"nothing came for {limit_s:.0f} s")
        self.unproved[channel] = asyncio.get_running_loop().call_later(
            limit_s, self._count, channel, late
        )
        return channel

    def _visit(self, channel: Channel) -> None:
        self.unproved.pop(channel).cancel()
        visit = asyncio.ensure_future(self._serve(channel))
        self._visits[visit] = channel
        visit.add_done_callback(self._visits.pop)

    def _count(self, channel: Channel, why: Exception) -> None:
        """Refuse a connection, say so at times, and count it."""
        if channel in self.unproved:
            self.unproved.pop(channel).cancel()
        channel.close()
        # The kubelet's readiness probe connects, says nothing, and closes.
        if isinstance(why, ConnectionResetError) and not channel.has_spoken:
            return
        self.entrance.count(channel.peer, str(why))

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.close()
        self.entrance.close()
        for channel, late in self.unproved.items():
            late.cancel()
            channel.close()
        visits = dict(self._visits)
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        for channel in visits.values():  # also of those whose task has not started yet
            channel.close()
