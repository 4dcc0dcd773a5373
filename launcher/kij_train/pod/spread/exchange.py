"""One pod's part in spreading an item: it finds the reader or becomes it, and serves the others.

The reader is the pod with the lowest index that is there. Pods are found by their names
(`JOB-INDEX.SERVICE`) and by the name of the Service, which has the addresses of all pods that there
are. When the reader is lost, the pod that has most becomes the next one, and reads on from there.
A pod that reaches no other reads the origin itself.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import os
import random
import socket
import time
from typing import Callable, List, Optional, Sequence, Set, Tuple

from kij_train.pod import contract, peering
from kij_train.pod.contract import Failure
from kij_train.pod.peering import (
    BUFFER,
    MOST_UNPROVED,
    Entrance,
    Json,
    Refused,
    Wire,
    within,
)
from kij_train.pod.spread import state as states
from kij_train.pod.spread.follower import Follower, Over
from kij_train.pod.spread.others import Settings
from kij_train.pod.spread.reader import Reader, Source
from kij_train.pod.spread.server import Server
from kij_train.pod.spread.state import Address, State
from kij_train.pod.status import ORIGIN, Fetching

ASK_S = 2.0
RESOLVE_S = 3.0
LOOK_AGAIN_S = 0.3
FIRST_LOOK_S = 12.0
"""How long a pod waits for one of a lower index before it reads the origin itself: longer than DNS
keeps an answer that a name is not there (5 s in most clusters), shorter than an image's pull."""
NOTICE_S = 8.0
"""How long others may follow a reader that is gone before they notice."""
PATIENCE_S = 60.0
"""How long a pod that should lead may not do so, before this one does."""
MOST_ASKED = 32
LOWEST = 8
"""Of the lower indexes, how many are asked by name."""
TELL_END_S = 3.0
"""How long the reader stays to tell the others how it has ended."""
SUCCESSOR_S = 30.0
"""How long a pod whose work is done waits for one to start that takes over what it alone has."""
LEAVES_AFTER_S = 2.5
"""How long it may take until the reader knows that a pod's work is done."""
PROGRESS_S = 5.0
MOST_NAMED = 8


class Exchange:
    """Brings an item into this pod's folders, then serves it to others."""

    def __init__(
        self,
        label: str,
        settings: Settings,
        source: Source,
        folders: Sequence[str],
        say: Callable[[str], None],
        on_complete: Callable[[], None],
    ) -> None:
        """`label` names the item in what is said; empty for what is fetched."""
        self._label, self._settings, self._say = label, settings, say
        self._on_complete, self._told = on_complete, False
        self._key = settings.key.encode()
        self._identity = os.urandom(8).hex()
        self.state = State(folders, settings.me)
        self._reader = Reader(self.state, source, say)
        # All pods of a job may come at the same moment, each twice.
        entrance = Entrance(self._key, max(MOST_UNPROVED, 2 * settings.pods), say)
        lead = self._reader.lead
        self._server = Server(self.state, entrance, settings.me, self._identity, lead)
        self._port = settings.address(settings.me)[1] if settings.peers else 0
        self._follower = Follower(self.state, self._key, self._port, settings.me, say)
        self._lost: Optional[Address] = None
        """The last reader, once it is gone."""
        self._released_at: Optional[float] = None

    def release(self) -> None:
        """The pod's own work is done: it stays for those alone that still get something."""
        self._released_at = time.monotonic()
        self.state.released = True
        self.state.touch()

    async def run(self) -> None:
        """Until every pod has everything, or for ever where pods may come later. Raises Failure.

        After `release`, until no pod is left that would have to ask the origin without this one.
        """
        server = await self._listen()
        parts = (self._take_part(), self._watch(), self._tell_progress(), self._until_free())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            if self.state.complete:
                self._tell_complete()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close()
            self._server.close()

    async def read_alone(self) -> None:
        """Read the origin, for this pod alone. Raises Failure."""
        telling = asyncio.ensure_future(self._tell_progress())
        try:
            await self._reader.read()
        finally:
            telling.cancel()

    async def _listen(self) -> asyncio.AbstractServer:
        host = None if self._settings.service else self._settings.address(0)[0]
        try:
            return await asyncio.start_server(
                self._server.handle, host, self._port, limit=BUFFER, backlog=1024
            )
        except OSError as error:
            raise Failure(
                contract.EXIT_ORIGIN,
                f"cannot listen at port {self._port} for the other pods: {error.strerror}",
            ) from error

    async def _watch(self) -> None:
        """Tell when everything is here."""
        while not self.state.complete:
            await self.state.changed(60.0)
        self._tell_complete()
        await asyncio.Event().wait()

    def _tell_complete(self) -> None:
        if not self._told:
            self._told = True
            self._on_complete()

    async def _until_free(self) -> None:
        """Until this pod may go.

        A follower may: the reader knows others for its children, and stays while nobody else works
        on with what it has. It has to know first that this one does not.
        """
        state, told = self.state, False
        while True:
            since = self._released_at
            if since and state.complete and state.role == states.FOLLOWING:
                if not self._more_may_come or time.monotonic() - since >= LEAVES_AFTER_S:
                    return
            elif since and state.role == states.LEADING:
                copying = self._reader.incomplete_members
                if not copying and not self._awaits_successor(since):
                    return
                if copying and not told:
                    told = True
                    self._say(f"done here; staying while {_named(copying)} still copies from pods")
            await state.changed(1.0)

    def _awaits_successor(self, since: float) -> bool:
        """Whether pods will come, one of them soon, and nobody else has what they need."""
        alone = not self._reader.has_working_member
        return self._more_may_come and alone and time.monotonic() - since < SUCCESSOR_S

    @property
    def _more_may_come(self) -> bool:
        """Whether indexes have not started yet; one that is alone always makes room first."""
        return self._settings.pods > 1 and self.state.highest < self._settings.indexes - 1

    async def _tell_progress(self) -> None:
        """A line now and then, while something comes."""
        before, at = self.state.have, time.monotonic()
        while not self.state.complete:
            await asyncio.sleep(PROGRESS_S)
            state, now = self.state, time.monotonic()
            if state.layout is None or state.complete or state.have == before:
                continue
            done = state.have * state.layout.chunk_bytes
            rate = (state.have - before) * state.layout.chunk_bytes / (now - at)
            percent = 100 * done // state.layout.total
            self._say(
                Fetching(self._label, percent, state.layout.total, rate, self._source_now()).text()
            )
            before, at = state.have, now
        await asyncio.Event().wait()

    def _source_now(self) -> str:
        index = self._follower.source
        return ORIGIN if self.state.role == states.LEADING or index is None else f"index {index}"

    async def _take_part(self) -> None:
        while True:
            found = await self._find()
            if found is None:
                return await self._lead()
            wire, reader = found
            self.state.role, self.state.reader = states.FOLLOWING, reader
            try:
                await self._follower.follow(wire, reader)
            except Over:
                return None
            finally:
                wire.close()
                self.state.role, self.state.reader = states.LOOKING, None
            self._lost = reader
            if not self.state.complete:
                self._say(f"lost index {reader.pod}, which read the origin for all")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _lead(self) -> None:
        state, others = self.state, self._settings.pods - 1
        state.role = states.LEADING
        try:
            await self._reader.read()
            while self._settings.stays or self._reader.complete_members < others:
                await state.changed(60.0)
            state.over = True
            state.touch()
            await asyncio.sleep(TELL_END_S if others else 0)
        except Failure as failure:
            state.fail(failure)
            await asyncio.sleep(TELL_END_S if others else 0)
            raise

    # --- finding the reader -----------------------------------------------------------------------

    async def _find(self) -> Optional[Tuple[Wire, Address]]:
        """A connection to the reader; None where this pod has to be it. Raises Failure."""
        began = time.monotonic()
        while True:
            scan = time.monotonic()
            answers = await self._ask_around()
            for said in answers:
                if said["role"] == states.FAILED:
                    raise Failure(int(said["code"]), f"index {said['index']}: {said['failed']}")
            for there in self._readers(answers):
                wire = await self._connect(there)
                if wire is not None:
                    return wire, there
            alone = not any(self._is_awaited(said, began) for said in answers)
            waited_s = time.monotonic() - began
            first = self._settings.me == 0 or self._lost is not None
            if alone and self._server.rival_at < scan and (first or waited_s >= FIRST_LOOK_S):
                if self._settings.me and not self.state.complete:
                    self._say("no other pod has more, or reads the origin: reading it for all")
                return None
            if waited_s >= PATIENCE_S:
                self._say(f"no pod reads the origin for all after {waited_s:.0f} s: reading it")
                return None
            await asyncio.sleep(LOOK_AGAIN_S)

    def _readers(self, answers: Sequence[Json]) -> List[Address]:
        """Those that lead, or are said to, the lowest index first."""
        found: Set[Address] = set()
        for said in answers:
            if said["role"] == states.LEADING:
                found.add(Address(str(said["at"][0]), int(said["at"][1]), int(said["index"])))
            elif isinstance(said.get("reader"), list) and len(said["reader"]) == 3:
                host, port, index = said["reader"]
                found.add(Address(str(host), int(port), int(index)))
        return sorted(found, key=lambda each: each.pod)

    def _is_awaited(self, said: Json, began: float) -> bool:
        """Whether this one rather leads than we, soon."""
        if said["role"] == states.FOLLOWING and time.monotonic() - began > NOTICE_S:
            return False
        ours = self.state.rank(self._settings.me)
        return (-int(said["have"]), int(said["index"])) < ours

    async def _connect(self, there: Address) -> Optional[Wire]:
        try:
            return await peering.connect(there.host, there.port, self._key, ASK_S)
        except (OSError, Refused):
            return None

    async def _ask_around(self) -> List[Json]:
        """What others say: those named as heirs, the lowest indexes, and some of all."""
        settings, asked = self._settings, self._settings.me
        lower = range(min(asked, LOWEST))
        if settings.service:
            named = [settings.address(index) for index in lower]
            found = await asyncio.gather(
                _resolve(settings.service, self._port),
                *(_resolve(*place) for place in named),
            )
            everyone = found[0]
            places = [place for each in found[1:] for place in each]
        else:
            everyone = [settings.address(index) for index in range(len(settings.peers))]
            places = [settings.address(index) for index in lower]
        places += [(heir.host, heir.port) for heir in self._follower.heirs]
        places += random.sample(everyone, min(len(everyone), MOST_ASKED))
        answers = await asyncio.gather(*(self._ask(*place) for place in dict.fromkeys(places)))
        return [said for said in answers if said is not None]

    async def _ask(self, host: str, port: int) -> Optional[Json]:
        """None where nobody of the job answers but this pod."""
        wire = None
        try:
            wire = await peering.connect(host, port, self._key, ASK_S)
            await wire.send({"ask": self._settings.me, "have": self.state.have})
            said, _ = await wire.receive(ASK_S)
            if said["identity"] == self._identity:
                return None
            int(said["index"]), int(said["have"]), str(said["role"])
            return {**said, "at": [host, port]}
        except (OSError, Refused, KeyError, ValueError, TypeError):
            return None
        finally:
            if wire is not None:
                wire.close()


def _named(indexes: Sequence[int]) -> str:
    first = ", ".join(map(str, indexes[:MOST_NAMED]))
    more = len(indexes) - MOST_NAMED
    return f"index {first}" + (f" and {more} more" if more > 0 else "")


async def _resolve(host: str, port: int) -> List[Tuple[str, int]]:
    """The addresses of a name; none where it has none, or DNS does not answer in time."""
    loop = asyncio.get_running_loop()
    try:
        found = await within(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), RESOLVE_S)
    except (OSError, asyncio.TimeoutError):
        return []
    return [(str(entry[4][0]), port) for entry in found]
