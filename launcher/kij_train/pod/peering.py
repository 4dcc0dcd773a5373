"""Connections between the pods of one job: frames, and the proof that both ends have its key.

A frame is two lengths (4 bytes each, big-endian), a header of JSON, and bytes. Lengths are checked
before anything is read, and before the proof they may only be those of a greeting.

The proof is mutual, by HMAC-SHA256 over random challenges:

    client: {"nonce": A}    server: {"nonce": B, "proof": HMAC(key, "server" A B)}
    client: {"proof": HMAC(key, "client" A B)}

The key of a job is its uid, which Kubernetes gives at random and shows to those who may read Jobs
or pods in the namespace. That keeps out pods of other jobs and namespaces, and other programs at
the same port. It is no defence against somebody who may read the Job, and nothing is encrypted:
who can change packets on their way can change what is in them.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import hmac
import json
import os
import struct
import time
from typing import (
    Any,
    Awaitable,
    BinaryIO,
    Callable,
    Dict,
    Generator,
    List,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

T = TypeVar("T")
Json = Dict[str, Any]
Bytes = Union[bytes, bytearray]
Greeting = Generator[Optional[Json], Any, Optional[Json]]
"""One end of the proof, without I/O: it gives what to send, and takes what has come. What it
returns is sent last; then the key is proved."""
LENGTHS = struct.Struct(">II")
MOST_HEADER = 1 << 20
MOST_BODY = 64 << 20
MOST_GREETING = 512
NONCE_BYTES = 16
PROTOCOL = b"kij-train 1"
BUFFER = 8 << 20
"""Bytes that are read ahead of a connection."""


class Refused(Exception):  # noqa: N818 - a verdict on the other end
    """The other end is none of this job, or does not speak as one."""


def proof(key: bytes, role: str, client_nonce: str, server_nonce: str) -> str:
    """What `role`, "client" or "server", shows to have the key."""
    said = b"\0".join([PROTOCOL, role.encode(), client_nonce.encode(), server_nonce.encode()])
    return hmac.new(key, said, "sha256").hexdigest()


def as_client(key: bytes) -> Greeting:
    """Prove the key, and have it proved. Raises Refused."""
    mine = os.urandom(NONCE_BYTES).hex()
    said = yield {"nonce": mine}
    theirs = str(said.get("nonce"))
    _check(said, proof(key, "server", mine, theirs))
    return {"proof": proof(key, "client", mine, theirs)}


def as_server(key: bytes) -> Greeting:
    """The answers to `as_client`. Raises Refused."""
    said = yield None
    mine, theirs = os.urandom(NONCE_BYTES).hex(), str(said.get("nonce"))
    said = yield {"nonce": mine, "proof": proof(key, "server", theirs, mine)}
    _check(said, proof(key, "client", theirs, mine))
    return None


def take_greeting(buffer: bytearray) -> Optional[Json]:
    """Take a frame of a greeting off the buffer; None until it is whole. Raises Refused."""
    if len(buffer) < LENGTHS.size:
        return None
    header, _ = lengths(buffer[: LENGTHS.size], MOST_GREETING, 0)
    end = LENGTHS.size + header
    if len(buffer) < end:
        return None
    said = decode(buffer[LENGTHS.size : end])
    del buffer[:end]
    return said


def encode(header: Json, body_bytes: int = 0) -> bytes:
    """A frame but for its body, which follows."""
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= MOST_HEADER and body_bytes <= MOST_BODY
    return LENGTHS.pack(len(text), body_bytes) + text


def lengths(prefix: Bytes, most_header: int, most_body: int) -> Tuple[int, int]:
    """Of header and body. Raises Refused for longer ones."""
    header, body = LENGTHS.unpack(prefix)
    if header > most_header or body > most_body:
        raise Refused(f"a frame of {header + body} bytes")
    return int(header), int(body)


def decode(text: Bytes) -> Json:
    """A header. Raises Refused."""
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise Refused("a frame without a header of JSON") from error
    if not isinstance(header, dict):
        raise Refused("a frame whose header is no object")
    return header


async def within(coroutine: "Awaitable[T]", timeout_s: float) -> T:
    """As asyncio.wait_for, which may lose a cancellation before Python 3.12 (gh-86296)."""
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise asyncio.TimeoutError
    return task.result()


MOST_UNPROVED = 1024
"""Connections that have proved nothing yet. With one more, the oldest is closed."""
SAY_AGAIN_S = 60.0
"""Between two words about strangers, who may come a thousand times a second."""


class Entrance:
    """Has those who connect prove that they belong to the job, and counts those who do not."""

    def __init__(self, key: bytes, most: int, say: Callable[[str], None]) -> None:
        """At most so many may be about to prove it; `say` tells of strangers."""
        self._key, self._most, self._say = key, most, say
        self.unproved: List[Wire] = []
        """Who may still prove it, the oldest first."""
        self.strangers = 0
        """Connections that were refused."""
        self._told, self._say_at = 0, 0.0

    async def admits(self, wire: "Wire", timeout_s: float) -> bool:
        """Whether it proves it within this time; otherwise it is closed."""
        if len(self.unproved) >= self._most:
            self.unproved.pop(0).close()
        self.unproved.append(wire)
        try:
            await wire.answer(self._key, timeout_s)
        except (OSError, Refused) as error:
            wire.close()
            # The kubelet's readiness probe connects, says nothing, and closes.
            if not wire.ended_unspoken:
                self.count(wire.peer, str(error))
            return False
        finally:
            if wire in self.unproved:
                self.unproved.remove(wire)
        return True

    def count(self, peer: str, why: str) -> None:
        """A connection from this address was refused."""
        self.strangers += 1
        now = time.monotonic()
        if now >= self._say_at:
            self._told, self._say_at = self.strangers, now + SAY_AGAIN_S
            more = f"; {self.strangers} so far" if self.strangers > 1 else ""
            self._say(f"refused a connection from {peer or 'nowhere'}: {why}{more}")

    def close(self) -> None:
        """Tell how many there were, of whom not all have been told."""
        if self.strangers > self._told:
            self._told = self.strangers
            self._say(f"refused {self.strangers} connections in all")


class Wire:
    """A connection. Sending queues; `receive` gives frame after frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._most = (MOST_GREETING, 0)
        self.ended_unspoken = False
        """Whether the other end has closed the connection and had said nothing."""
        self._spoken = False

    @property
    def peer(self) -> str:
        """The IP address of the other end."""
        found = self._writer.get_extra_info("peername")
        return str(found[0]) if found else ""

    async def send(self, header: Json, body: bytes = b"") -> None:
        """Raises OSError where the connection is lost."""
        self._writer.write(encode(header, len(body)))
        if body:
            self._writer.write(body)
        await self._writer.drain()

    async def receive(self, timeout_s: float) -> Tuple[Json, bytes]:
        """The next frame. Raises Refused, and OSError at the end, and where it takes too long."""
        try:
            return await within(self._receive(), timeout_s)
        except asyncio.TimeoutError as error:
            raise TimeoutError(f"nothing came for {timeout_s:.0f} s") from error
        except asyncio.IncompleteReadError as error:
            self.ended_unspoken = not self._spoken and not error.partial
            raise ConnectionResetError("the connection was closed") from error

    async def _receive(self) -> Tuple[Json, bytes]:
        prefix = await self._reader.readexactly(LENGTHS.size)
        self._spoken = True
        header, body = lengths(prefix, *self._most)
        said = decode(await self._reader.readexactly(header))
        return said, await self._reader.readexactly(body) if body else b""

    async def send_file(self, header: Json, file: BinaryIO, offset: int, length: int) -> None:
        """A frame whose body is a part of a file, from the kernel's hand. Raises OSError."""
        self._writer.write(encode(header, body_bytes=length))
        await self._writer.drain()
        loop, transport = asyncio.get_running_loop(), self._writer.transport
        if await loop.sendfile(transport, file, offset, length) != length:
            raise OSError(f"{file.name} has become shorter")

    def large_frames(self) -> "LargeFrames":
        """Of a proved connection on which nothing is sent any more, and nothing has come yet."""
        transport = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        return LargeFrames(transport)

    def close(self) -> None:
        """What is queued is still sent."""
        with contextlib.suppress(OSError):
            self._writer.close()

    async def greet(self, key: bytes, timeout_s: float) -> None:
        """As the client: prove the key, and have it proved. Raises Refused and OSError."""
        await self._prove(as_client(key), timeout_s)

    async def answer(self, key: bytes, timeout_s: float) -> None:
        """As the server, to `greet`. Raises Refused and OSError."""
        await self._prove(as_server(key), timeout_s)

    async def _prove(self, greeting: Greeting, timeout_s: float) -> None:
        said: Optional[Json] = None
        while True:
            try:
                answer = greeting.send(said)
            except StopIteration as done:
                if done.value is not None:
                    await self.send(done.value)
                self._most = (MOST_HEADER, MOST_BODY)
                return
            if answer is not None:
                await self.send(answer)
            said, _ = await self.receive(timeout_s)


class LargeFrames(asyncio.BufferedProtocol):
    """Frames whose bodies the kernel writes to where they belong, without copies in between."""

    def __init__(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        transport.set_protocol(self)
        self._transport = transport
        self._wanted = memoryview(b"")
        """What has not been filled yet."""
        self._filled: Optional[asyncio.Future[None]] = None
        self._lost: Optional[Exception] = None

    async def receive(self, body: bytearray, timeout_s: float) -> Tuple[Json, memoryview]:
        """The next frame; its body is the beginning of `body`. Raises Refused and OSError."""
        try:
            return await within(self._receive(body), timeout_s)
        except asyncio.TimeoutError as error:
            raise TimeoutError(f"nothing came for {timeout_s:.0f} s") from error

    async def _receive(self, body: bytearray) -> Tuple[Json, memoryview]:
        prefix = bytearray(LENGTHS.size)
        await self._fill(memoryview(prefix))
        text, length = lengths(prefix, MOST_HEADER, len(body))
        header = bytearray(text)
        await self._fill(memoryview(header))
        said, part = decode(header), memoryview(body)[:length]
        await self._fill(part)
        return said, part

    async def _fill(self, part: memoryview) -> None:
        if self._lost is not None:
            raise self._lost
        if not part:
            return
        self._wanted, self._filled = part, asyncio.get_running_loop().create_future()
        try:
            self._transport.resume_reading()
            await self._filled
        finally:
            self._filled = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        return self._wanted

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        self._wanted = self._wanted[nbytes:]
        if not self._wanted:
            self._transport.pause_reading()
            if self._filled is not None and not self._filled.done():
                self._filled.set_result(None)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """Its end."""
        closed = ConnectionResetError("the connection was closed")
        self.end(exc if isinstance(exc, OSError) else closed)

    def end(self, error: Exception) -> None:
        """Have `receive` raise this, from now on."""
        self._lost = self._lost or error
        if self._filled is not None and not self._filled.done():
            self._filled.set_exception(self._lost)


def _check(said: Json, expected: str) -> None:
    if not hmac.compare_digest(str(said.get("proof")).encode(), expected.encode()):
        raise Refused("it does not have the key of this job")


def _close_opened(
    opening: "asyncio.Future[Tuple[asyncio.StreamReader, asyncio.StreamWriter]]",
) -> None:
    """Of a connection that was there when nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].close()


async def connect(host: str, port: int, key: bytes, timeout_s: float) -> Wire:
    """A proved connection. Raises Refused and OSError."""
    opening = asyncio.ensure_future(asyncio.open_connection(host, port, limit=BUFFER))
    try:
        reader, writer = await within(opening, timeout_s)
    except BaseException as error:
        opening.add_done_callback(_close_opened)
        if isinstance(error, asyncio.TimeoutError):
            raise TimeoutError(f"{host} port {port} takes no connection") from error
        raise
    wire = Wire(reader, writer)
    try:
        await wire.greet(key, timeout_s)
    except BaseException:
        wire.close()
        raise
    return wire
