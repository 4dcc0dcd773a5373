"""The pod that reads the origin: it tells the others what there is, and whom to get it from.

It keeps one connection to every other pod. On it go the layout, the hash of each chunk as soon as
it is read, and the pod's parent in the tree; back come how far the pod is, and what is wrong with
its parent.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import hashlib
from typing import Callable, Dict, Iterator, List, Optional

from kij_train.pod.peering import Json, Refused, Wire
from kij_train.pod.spread.chunks import Layout
from kij_train.pod.spread.disk import Disk
from kij_train.pod.spread.faults import has_changed, request_fault
from kij_train.pod.spread.state import Address, State
from kij_train.pod.spread.tree import READER, Tree

PING_S = 1.0
"""Both sides of a connection say something this often."""
LOST_AFTER_S = 6.0
"""A side that has said nothing for this long counts as lost."""
MOST_HASHES = 10_000
"""In one frame."""
HEIRS = 3
"""Pods that are named to all as the next readers."""


class Source:
    """Where the bytes come from. Its methods block, and raise Failure."""

    in_place = False
    """Whether `open` has put the files where they belong, so that nothing is to be written."""

    def open(self, folders: List[str], layout: Optional[Layout]) -> Layout:
        """What there is. `layout` is what the last reader has found, part of which is here."""
        raise NotImplementedError

    def chunks(self, folders: List[str], layout: Layout, start: int) -> Iterator[bytes]:
        """The chunks of `open`'s layout, from number `start` on."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go what `open` has left open."""


class _Member:
    def __init__(self, address: Address, have: int) -> None:
        self.address, self.have, self.released = address, have, False


class Reader:
    """Reads the origin into this pod's folders, and leads those that join."""

    def __init__(self, state: State, source: Source, say: Callable[[str], None]) -> None:
        self._state, self._source, self._say = state, source, say
        self._tree = Tree()
        self._members: Dict[int, _Member] = {}
        self._next = 0

    @property
    def complete_members(self) -> int:
        """How many of the others have everything."""
        return len(self._members) - len(self.incomplete_members)

    @property
    def has_working_member(self) -> bool:
        """Whether another pod has everything, and work to do."""
        copying = self.incomplete_members
        members = self._members.values()
        return any(not each.released and each.address.pod not in copying for each in members)

    @property
    def incomplete_members(self) -> List[int]:
        """The indexes of those that do not have everything yet."""
        layout = self._state.layout
        count = -1 if layout is None else layout.count
        found = (each.address.pod for each in self._members.values() if each.have != count)
        return sorted(found)

    async def read(self) -> None:
        """Read what is not here yet. Raises Failure."""
        if not self._state.complete:
            try:
                await self._read_all()
            finally:
                self._source.close()

    async def _read_all(self) -> None:
        state, loop = self._state, asyncio.get_running_loop()
        layout = await loop.run_in_executor(None, self._source.open, state.folders, state.layout)
        if state.layout is None or layout.id != state.layout.id:
            try:
                layout.check()
                encoded = layout.encode()
            except ValueError as error:
                raise request_fault("path", str(error)) from error
            if not self._source.in_place:
                await loop.run_in_executor(None, Disk(state.folders, layout).prepare)
            state.start_over(layout, encoded)
        await loop.run_in_executor(None, self._read, loop, layout, state.have)

    def _read(self, loop: asyncio.AbstractEventLoop, layout: Layout, start: int) -> None:
        """In a thread."""
        known, disk = list(self._state.hashes), self._state.disk
        number = start
        for data in self._source.chunks(self._state.folders, layout, start):
            digest = hashlib.sha256(data).digest()
            if number < len(known) and known[number] != digest:
                raise has_changed()
            if not self._source.in_place:
                disk.write(number, data)
            number += 1
            loop.call_soon_threadsafe(self._add, number, digest)

    def _add(self, have: int, digest: bytes) -> None:
        if have > len(self._state.hashes):
            self._state.hashes.append(digest)
        self._state.have = have
        self._state.touch()

    async def lead(self, wire: Wire, said: Json) -> None:
        """Serve a pod that joins, until it is gone."""
        number, self._next = self._next, self._next + 1
        address = Address(wire.peer, int(said["port"]), int(said["join"]))
        self._state.highest = max(self._state.highest, address.pod)
        have = int(said["have"]) if said.get("id") == self._id() else 0
        self._members[number] = _Member(address, have)
        parent = self._tree.add(number)
        pushing: Optional[asyncio.Future[None]] = None
        try:
            await self._tell_parent(wire, parent)
            pushing = asyncio.ensure_future(self._push(wire, have))
            while not pushing.done():
                said, _ = await wire.receive(LOST_AFTER_S)
                if "lost" in said:
                    await self._tell_parent(wire, self._replace(number, said))
                else:
                    self._members[number].have = int(said["have"])
                    self._members[number].released = bool(said.get("released"))
                    self._state.touch()
        except (OSError, Refused, KeyError, ValueError, TypeError):
            pass
        finally:
            if pushing is not None:
                pushing.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await pushing
            del self._members[number]
            self._tree.remove(number)
            self._state.touch()

    def _id(self) -> str:
        return "" if self._state.layout is None else self._state.layout.id

    async def _tell_parent(self, wire: Wire, parent: int) -> None:
        there = None if parent == READER else list(self._members[parent].address)
        await wire.send({"parent": there})

    def _replace(self, number: int, said: Json) -> int:
        """Another parent for a member whose parent is no good."""
        old = self._tree.parent(number)
        if old is not None and old != READER and said.get("lies"):
            self._tree.distrust(old)
            self._say(
                f"index {self._members[old].address.pod} handed wrong bytes to index "
                f"{self._members[number].address.pod}: nobody gets any more from it"
            )
        return self._tree.move(number)

    async def _push(self, wire: Wire, have: int) -> None:
        """Tell a pod what it has to know, until it has been told the end."""
        state, sent_id, sent = self._state, "", 0
        while True:
            if state.over:
                await wire.send({"end": 1})
                return
            if state.failure is not None:
                code, text = state.failure.exit_code, str(state.failure)
                await wire.send({"failed": text, "code": code})
                return
            if state.layout is not None and self._id() != sent_id:
                await wire.send({"layout": have}, state.encoded)
                sent_id, sent = self._id(), 0
            if sent < len(state.hashes):
                some = state.hashes[sent : sent + MOST_HASHES]
                await wire.send({"hashes": sent}, b"".join(some))
                sent += len(some)
                continue
            heirs = sorted(self._members.values(), key=lambda each: -each.have)[:HEIRS]
            await wire.send({"heirs": [list(heir.address) for heir in heirs]})
            await self._news(sent, sent_id)

    async def _news(self, sent: int, sent_id: str) -> None:
        """Wait for what a pod has to be told, or for the time of a ping."""
        state, loop = self._state, asyncio.get_running_loop()
        until = loop.time() + PING_S
        while (left := until - loop.time()) > 0:
            told = self._id() == sent_id and sent == len(state.hashes)
            if not told or state.failure is not None or state.over:
                return
            await state.changed(left)
