"""A pod that gets what is spread from others, told by the reader from whom.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import hashlib
from typing import Callable, List, Optional

from kij_train.pod import peering
from kij_train.pod.contract import Failure
from kij_train.pod.peering import Json, Refused, Wire
from kij_train.pod.spread.chunks import Layout
from kij_train.pod.spread.disk import Disk
from kij_train.pod.spread.reader import LOST_AFTER_S, PING_S
from kij_train.pod.spread.state import HASH_BYTES, Address, State

CONNECT_S = 3.0
SLOW_WINDOW_S = 10.0
SLOW_BYTES_S = 1 << 20
"""A parent that has more, and sends less than this for SLOW_WINDOW_S, is left: half of it after
each time, so that a slow network does not send a pod around for ever."""
STARVED_S = 20.0
"""A parent that sends nothing for this long, of what the reader has read, is left."""
PAUSE_S = 0.2


class Over(Exception):  # noqa: N818 - a message
    """Every pod has everything."""


class _Lost(Exception):  # noqa: N818 - a verdict on a parent
    def __init__(self, why: str, lies: bool = False) -> None:
        super().__init__(why)
        self.lies = lies


class Follower:
    """Joins one reader, and gets chunks as it says."""

    def __init__(
        self, state: State, key: bytes, port: int, index: int, say: Callable[[str], None]
    ) -> None:
        """`port` is where this pod listens itself."""
        self._state, self._key, self._port, self._index = state, key, port, index
        self._say = say
        self.heirs: List[Address] = []
        """The next readers, as the last one has named them."""
        self.source: Optional[int] = None
        """The index that chunks come from."""
        self._parent: Optional[Address] = None
        self._slow_bytes_s = float(SLOW_BYTES_S)

    async def follow(self, wire: Wire, reader: Address) -> None:
        """Until the reader is gone, or everything is over. Raises Failure."""
        state = self._state
        known = "" if state.layout is None else state.layout.id
        join = {"join": self._index, "port": self._port, "have": state.have, "id": known}
        tasks: List[asyncio.Future[None]] = []
        try:
            await wire.send(join)
            tasks = [
                asyncio.ensure_future(each)
                for each in (self._listen(wire, reader), self._report(wire), self._pull(wire))
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, Refused):
            pass
        finally:
            self._parent = self.source = None
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(done, Failure):
                    raise done
                if isinstance(done, Exception) and not isinstance(
                    done, (OSError, Refused, ValueError, KeyError, TypeError)
                ):
                    raise done

    async def _listen(self, wire: Wire, reader: Address) -> None:
        """Take in what the reader says."""
        state = self._state
        while True:
            said, body = await wire.receive(LOST_AFTER_S)
            if "failed" in said:
                raise Failure(int(said["code"]), f"index {reader.pod}: {said['failed']}")
            if "end" in said:
                raise Over
            if "layout" in said:
                await self._take(Layout.decode(body, len(state.folders)), body)
            elif "hashes" in said:
                first, new = int(said["hashes"]), len(state.hashes)
                for at in range(new - first, len(body) // HASH_BYTES):
                    state.hashes.append(body[at * HASH_BYTES : (at + 1) * HASH_BYTES])
                state.touch()
            elif "parent" in said:
                there = said["parent"]
                self._parent = reader if there is None else _address(there)
                state.touch()
            elif "heirs" in said:
                self.heirs = [_address(each) for each in said["heirs"]]

    async def _take(self, layout: Layout, encoded: bytes) -> None:
        state = self._state
        if state.layout is not None and state.layout.id == layout.id:
            return
        if state.complete:
            raise Refused("the reader spreads something else than what is here")
        await asyncio.get_running_loop().run_in_executor(None, Disk(state.folders, layout).prepare)
        state.start_over(layout, encoded)

    async def _report(self, wire: Wire) -> None:
        """Say how far this pod is."""
        while True:
            await wire.send({"have": self._state.have})
            await asyncio.sleep(PING_S)

    async def _pull(self, wire: Wire) -> None:
        """Get chunks, from parent after parent."""
        state = self._state
        while not state.complete:
            parent = self._parent
            if parent is None or state.layout is None:
                await state.changed(PING_S)
                continue
            try:
                await self._pull_from(parent)
            except (_Lost, OSError, Refused) as lost:
                self.source = None
                if self._parent is parent:
                    self._parent = None
                lies = isinstance(lost, _Lost) and lost.lies
                self._say(f"got no more from index {parent.pod}: {lost}. Asking for another one")
                await asyncio.sleep(PAUSE_S)
                await wire.send({"lost": parent.pod, "lies": lies})
        while True:
            await state.changed(PING_S)

    async def _pull_from(self, parent: Address) -> None:
        """Raises _Lost, OSError and Refused where it sends no more, and Failure."""
        state = self._state
        assert state.layout is not None
        wire = await peering.connect(parent.host, parent.port, self._key, CONNECT_S)
        loop = asyncio.get_running_loop()
        try:
            await wire.send({"want": state.have, "id": state.layout.id})
            since, got, newest = loop.time(), 0, loop.time()
            while not state.complete:
                said, data = await self._next(wire)
                now = loop.time()
                if "chunk" in said:
                    self.source = parent.pod
                    await self._check_and_keep(said, data)
                    newest, got = now, got + len(data)
                elif len(state.hashes) == state.have:
                    newest = now  # nobody has more
                elif now - newest >= STARVED_S:
                    raise _Lost("it has no more")
                if int(said["have"]) <= state.have:
                    since, got = now, 0
                elif now - since >= SLOW_WINDOW_S:
                    if got < self._slow_bytes_s * (now - since):
                        self._slow_bytes_s /= 2
                        raise _Lost("it is slow")
                    since, got = now, 0
        finally:
            wire.close()

    async def _next(self, wire: Wire) -> "tuple[Json, bytes]":
        try:
            # A whole chunk may take as long as is not slow.
            assert self._state.layout is not None
            patience_s = self._state.layout.chunk_bytes / self._slow_bytes_s
            said, data = await wire.receive(LOST_AFTER_S + patience_s)
        except TimeoutError:
            self._slow_bytes_s /= 2
            raise
        if "have" not in said:
            raise Refused("it does not have this")
        return said, data

    async def _check_and_keep(self, said: Json, data: bytes) -> None:
        """Write a chunk, if it is the one that the reader has read."""
        state, number = self._state, self._state.have
        if said["chunk"] != number:
            raise _Lost(f"it sent chunk {said['chunk']!r} in place of {number}", lies=True)
        while len(state.hashes) <= number:
            await state.changed(PING_S)  # what is behind is cancelled where the reader is lost

        def keep() -> bool:
            if hashlib.sha256(data).digest() != state.hashes[number]:
                return False
            state.disk.write(number, data)
            return True

        if not await asyncio.get_running_loop().run_in_executor(None, keep):
            raise _Lost("its bytes are not those that were read", lies=True)
        state.have += 1
        state.touch()


def _address(said: object) -> Address:
    if not isinstance(said, list) or len(said) != 3:
        raise Refused(f"{said!r} is no address")
    return Address(str(said[0]), int(said[1]), int(said[2]))
