"""Getting chunks from one parent: each is checked and written while the next one comes.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import hashlib
from typing import Optional, Tuple

from kij_train.pod.peering import Json, Refused, Wire
from kij_train.pod.spread.reader import LOST_AFTER_S, PING_S
from kij_train.pod.spread.state import State

SLOW_WINDOW_S = 10.0
SLOW_BYTES_S = 1 << 20
"""A parent that has more, and sends less than this for SLOW_WINDOW_S, is left: half of it after
each time, so that a slow network does not send a pod around for ever."""
STARVED_S = 20.0
"""A parent that sends nothing for this long, of what the reader has read, is left."""


class Lost(Exception):  # noqa: N818 - a verdict on a parent
    """It is no good."""

    def __init__(self, why: str, lies: bool = False) -> None:
        super().__init__(why)
        self.lies = lies


class Pace:
    """Which parents are slow, by what this pod has seen of others."""

    def __init__(self) -> None:
        self.bytes_s = float(SLOW_BYTES_S)
        self._since, self._got = 0.0, 0

    def begin(self, now: float) -> None:
        """Count from here on."""
        self._since, self._got = now, 0

    def took(self, size: int, now: float, *, has_more: bool) -> None:
        """So many bytes have come from a parent that has more of them, or not. Raises Lost."""
        self._got += size
        if not has_more:
            self.begin(now)
        elif now - self._since >= SLOW_WINDOW_S:
            if self._got < self.bytes_s * (now - self._since):
                self.lower()
                raise Lost("it is slow")
            self.begin(now)

    def lower(self) -> None:
        """Ask less of the next one."""
        self.bytes_s /= 2


class Pull:
    """A connection to a parent, for the chunks that are not here yet."""

    def __init__(self, state: State, wire: Wire, pace: Pace) -> None:
        assert state.layout is not None
        self._state, self._layout, self._wire, self._pace = state, state.layout, wire, pace
        self._frames = wire.large_frames()
        # One is filled while what is in the other one is checked and written.
        self._buffers = [bytearray(state.layout.chunk_bytes) for _ in range(2)]
        self._next = state.have
        """The number of the chunk that is to come."""
        self._keeping: Optional[asyncio.Future[None]] = None
        self._newest_at = 0.0

    async def run(self) -> None:
        """Until all are here. Raises Lost, OSError and Refused where no more comes, and Failure."""
        now = asyncio.get_running_loop().time
        self._newest_at = now()
        self._pace.begin(now())
        try:
            while self._next < self._layout.count:
                said, data = await self._receive(self._buffers[self._next % 2])
                await self._take(said, data, now())
            if self._keeping is not None:
                await self._keeping
        finally:
            if self._keeping is not None:
                self._keeping.cancel()

    async def _receive(self, body: bytearray) -> Tuple[Json, memoryview]:
        try:
            # A whole chunk may take as long as is not slow.
            patience_s = len(body) / self._pace.bytes_s
            said, data = await self._frames.receive(body, LOST_AFTER_S + patience_s)
        except TimeoutError:
            self._pace.lower()
            raise
        if "have" not in said:
            raise Refused("it does not have this")
        return said, data

    async def _take(self, said: Json, data: memoryview, now: float) -> None:
        """A frame: a chunk, or how many the parent has."""
        if "chunk" in said:
            if said["chunk"] != self._next:
                raise Lost(f"it sent chunk {said['chunk']!r} in place of {self._next}", lies=True)
            if self._keeping is not None:
                await self._keeping
            self._keeping = asyncio.ensure_future(self._keep(self._next, data))
            self._keeping.add_done_callback(self._kept)
            self._next, self._newest_at = self._next + 1, now
        elif len(self._state.hashes) == self._next:
            self._newest_at = now  # nobody has more
        elif now - self._newest_at >= STARVED_S:
            raise Lost("it has no more")
        self._pace.took(len(data), now, has_more=int(said["have"]) > self._next)

    def _kept(self, done: "asyncio.Future[None]") -> None:
        """What is wrong with a chunk ends the waiting for the next one."""
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            self._frames.end(error)

    async def _keep(self, number: int, data: memoryview) -> None:
        """Write a chunk, if it is the one that the reader has read."""
        state = self._state
        while len(state.hashes) <= number:
            await state.changed(PING_S)  # what is behind is cancelled where the reader is lost

        def keep() -> bool:
            if hashlib.sha256(data).digest() != state.hashes[number]:
                return False
            state.disk.write(number, data)
            return True

        if not await asyncio.get_running_loop().run_in_executor(None, keep):
            raise Lost("its bytes are not those that were read", lies=True)
        state.have += 1
        state.touch()
