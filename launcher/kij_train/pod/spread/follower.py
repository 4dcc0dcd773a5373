"""A pod that gets what is spread from others, told by the reader from whom.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
from typing import Callable, List, Optional

from kij_train.pod import peering
from kij_train.pod.contract import Failure
from kij_train.pod.peering import Refused, Wire
from kij_train.pod.spread.chunks import Layout
from kij_train.pod.spread.disk import Disk
from kij_train.pod.spread.pulling import Lost, Pace, Pull
from kij_train.pod.spread.reader import LOST_AFTER_S, PING_S
from kij_train.pod.spread.state import HASH_BYTES, Address, State

CONNECT_S = 3.0
PAUSE_S = 0.2


class Over(Exception):  # noqa: N818 - a message
    """Every pod has everything."""


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
        self._pace = Pace()

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
            await wire.send({"have": self._state.have, "released": self._state.released})
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
            except (Lost, OSError, Refused) as lost:
                self.source = None
                if self._parent is parent:
                    self._parent = None
                lies = isinstance(lost, Lost) and lost.lies
                self._say(f"got no more from index {parent.pod}: {lost}. Asking for another one")
                await asyncio.sleep(PAUSE_S)
                await wire.send({"lost": parent.pod, "lies": lies})
        while True:
            await state.changed(PING_S)

    async def _pull_from(self, parent: Address) -> None:
        """Raises Lost, OSError and Refused where it sends no more, and Failure."""
        state = self._state
        assert state.layout is not None
        wire = await peering.connect(parent.host, parent.port, self._key, CONNECT_S)
        try:
            pull = Pull(state, wire, self._pace)  # before anything can come
            await wire.send({"want": state.have, "id": state.layout.id})
            self.source = parent.pod
            await pull.run()
        finally:
            wire.close()


def _address(said: object) -> Address:
    if not isinstance(said, list) or len(said) != 3:
        raise Refused(f"{said!r} is no address")
    return Address(str(said[0]), int(said[1]), int(said[2]))
