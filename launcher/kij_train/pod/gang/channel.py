"""Connections between the supervisors of a job: proved, then messages in both directions.

Who connects proves first that it belongs to the job, and has it proved (kij_train.pod.peering has
the protocol and what it does not defend against). Until then an end reads at most a few hundred
bytes, for at most PROVE_S. Then come messages (messages.py), as lines.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
from typing import Any, Callable, Coroutine, List, NamedTuple, Optional, Tuple, Type, TypeVar, Union

from kij_train.pod.gang import messages
from kij_train.pod.gang.messages import LONGEST_LINE
from kij_train.pod.peering import MOST_UNPROVED, Entrance, Refused, Wire

M = TypeVar("M")
KEEP_ALIVE_S = 1.0
"""Both sides of a connection send a ping this often."""
LOST_AFTER_S = 5.0
"""A side that has sent nothing for this long counts as lost."""
PROVE_S = 2.0
FLUSH_S = 1.0
BACKLOG = 4096
"""Connections that the kernel keeps until they are looked at; its own limit is as high."""


class Channel:
    """A connection to another supervisor: messages in both directions, and pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.refused = ""
        """What is wrong with the last message, if it was malformed."""
        self._reader, self._writer = reader, writer
        self.fell_silent = False
        """Whether nothing came any more, not even an end of the connection: a machine that is dead,
        or a network that is cut."""

    def send(self, message: NamedTuple) -> None:
        """Queue a message. A lost connection raises nothing here: `receive` returns None."""
        if not self._writer.is_closing():
            self._writer.write(messages.encode(message))

    async def receive(
        self, kinds: Tuple[Type[M], ...], timeout_s: float = LOST_AFTER_S
    ) -> Optional[M]:
        """The next message other than a ping, which has to be of one of these classes.

        None if the other side is gone or silent, or if the message is malformed (`refused`).
        """
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), timeout_s)
                if not line.endswith(b"\n"):
                    return None  # the connection has ended, perhaps within a line
                said: Union[M, messages.Ping] = messages.decode(line, (*kinds, messages.Ping))
            except asyncio.TimeoutError:
                self.fell_silent = True
                return None
            except OSError:
                return None
            except ValueError as error:  # MalformedError, or longer than the limit of the reader
                self.refused = str(error)
                return None
            if not isinstance(said, messages.Ping):
                return said

    async def ping(self) -> None:
        """Send pings until cancelled."""
        while True:
            self.send(messages.Ping())
            await asyncio.sleep(KEEP_ALIVE_S)

    async def flush(self) -> None:
        """Wait until everything is sent, at most FLUSH_S."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.drain(), FLUSH_S)

    def close(self) -> None:
        """Close the connection. Queued messages are still sent."""
        self._writer.close()


async def connect(
    address: Tuple[str, int], key: bytes, timeout_s: float, crowd: float = 1.0
) -> Optional[Channel]:
    """A proved connection; None if nobody answers there, or nobody of this job.

    `timeout_s` is that of the connection alone; the proof has PROVE_S, and `crowd` times as long
    where many others do the same at this moment.
    """
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(*address, limit=LONGEST_LINE), timeout_s
        )
    except (OSError, asyncio.TimeoutError):
        return None
    wire = Wire(reader, writer)
    try:
        await wire.greet(key, crowd * PROVE_S)
    except (OSError, Refused):
        wire.close()
        return None
    except asyncio.CancelledError:
        wire.close()
        raise
    return Channel(reader, writer)


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
        """All pods of a job may come at the same moment: `crowd` is Settings.crowd."""
        self._serve, self._prove_s = serve, crowd * PROVE_S
        self._server: Optional[asyncio.AbstractServer] = None
        self._visits: List[Tuple[asyncio.Future[None], asyncio.StreamWriter]] = []

    async def open(self, port: int) -> None:
        """Listen from now on."""
        self._server = await asyncio.start_server(
            self._let_in, None, port, limit=LONGEST_LINE, backlog=BACKLOG
        )

    def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._visits = [(visit, end) for visit, end in self._visits if not visit.done()]
        self._visits.append((asyncio.ensure_future(self._visit(reader, writer)), writer))

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await self.entrance.admits(Wire(reader, writer), self._prove_s):
            await self._serve(Channel(reader, writer))

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.close()
        self.entrance.close()
        for visit, _ in self._visits:
            visit.cancel()
        await asyncio.gather(*(visit for visit, _ in self._visits), return_exceptions=True)
        for _, writer in self._visits:  # also of those whose task has not started yet
            writer.close()
