"""What a pod answers others: who reads the origin, and the chunks that it has.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import time
from typing import Awaitable, Callable, Set

from kij_train.pod.peering import Entrance, Json, Refused, Wire
from kij_train.pod.spread import state as states
from kij_train.pod.spread.disk import Disk
from kij_train.pod.spread.reader import PING_S
from kij_train.pod.spread.state import State

GREETING_S = 5.0


class Server:
    """Listens until it is closed."""

    def __init__(
        self,
        state: State,
        entrance: Entrance,
        index: int,
        identity: str,
        lead: Callable[[Wire, Json], Awaitable[None]],
    ) -> None:
        """`lead` serves a pod that joins, while this one leads. `identity` is of this pod alone."""
        self.entrance = entrance
        self._state, self._index = state, index
        self._identity, self._lead = identity, lead
        self._tasks: Set[asyncio.Future[None]] = set()
        self.rival_at = float("-inf")
        """When a pod has asked that would rather lead, by the monotonic clock."""

    def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, from its greeting to its end."""
        wire = Wire(reader, writer)
        task = asyncio.ensure_future(self._serve(wire))
        self._tasks.add(task)

        def close(task: "asyncio.Future[None]") -> None:
            # Here, since a task that is cancelled before it runs has no finally.
            self._tasks.discard(task)
            wire.close()

        task.add_done_callback(close)

    async def _serve(self, wire: Wire) -> None:
        with contextlib.suppress(
            # The other end is gone, or is none of ours, or this pod ends.
            *(OSError, Refused, KeyError, ValueError, TypeError, asyncio.CancelledError)
        ):
            if not await self.entrance.admits(wire, GREETING_S):
                return
            said, _ = await wire.receive(GREETING_S)
            if "ask" in said:
                await self._answer(wire, said)
            elif "join" in said:
                await self._join(wire, said)
            elif "want" in said:
                await self._stream(wire, said)

    def close(self) -> None:
        """End all connections."""
        self.entrance.close()
        for task in self._tasks:
            task.cancel()

    async def _answer(self, wire: Wire, said: Json) -> None:
        state = self._state
        state.highest = max(state.highest, int(said["ask"]))
        if (-int(said["have"]), int(said["ask"])) < state.rank(self._index):
            self.rival_at = time.monotonic()
        answer: Json = {
            "role": state.role,
            "index": self._index,
            "have": state.have,
            "identity": self._identity,
        }
        if state.reader is not None:
            answer["reader"] = list(state.reader)
        if state.failure is not None:
            answer.update(failed=str(state.failure), code=state.failure.exit_code)
        await wire.send(answer)

    async def _join(self, wire: Wire, said: Json) -> None:
        if self._state.role in (states.LEADING, states.FAILED):
            await self._lead(wire, said)

    async def _stream(self, wire: Wire, said: Json) -> None:
        """Chunk after chunk, each as soon as it is here."""
        state, at = self._state, int(said["want"])
        while True:
            if state.layout is not None and state.layout.id != said["id"]:
                await wire.send({"other": state.layout.id})
                return
            if state.layout is not None and at < state.have:
                await self._send(wire, state.disk, state.layout.size_of(at), at)
                at += 1
            elif state.layout is not None and at >= state.layout.count:
                return
            else:
                await wire.send({"have": state.have})
                await state.changed(PING_S)

    async def _send(self, wire: Wire, disk: Disk, size: int, chunk: int) -> None:
        said: Json = {"chunk": chunk, "have": self._state.have}
        found = disk.whole(chunk)
        if found is None:
            loop = asyncio.get_running_loop()
            await wire.send(said, await loop.run_in_executor(None, disk.read, chunk))
            return
        file, offset = found
        with file:
            await wire.send_file(said, file, offset, size)
