"""What a pod has of an item that is spread, and what it knows of it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
from typing import List, NamedTuple, Optional, Sequence, Tuple

from kij_train.pod.contract import Failure
from kij_train.pod.peering import within
from kij_train.pod.spread.chunks import Layout
from kij_train.pod.spread.disk import Disk

HASH_BYTES = 32
"""Of SHA-256."""
LOOKING, FOLLOWING, LEADING, FAILED = "looking", "following", "leading", "failed"
"""What a pod does: it looks for the reader, follows it, is it, or has failed for good."""


class Address(NamedTuple):
    """Where a pod listens."""

    host: str
    port: int
    pod: int
    """Its index."""


class State:
    """Changed in one event loop; `changed` wakes whoever waits there."""

    def __init__(self, folders: Sequence[str], index: int) -> None:
        """`index` is that of this pod."""
        self.folders = list(folders)
        self.highest = index
        """Of the indexes that have started, as far as this pod has heard of them."""
        self.role = LOOKING
        self.reader: Optional[Address] = None
        """While this pod follows one."""
        self.layout: Optional[Layout] = None
        self.encoded = b""
        """The layout, as it is sent."""
        self.hashes: List[bytes] = []
        """Of the chunks that the reader has read, in order."""
        self.have = 0
        """Chunks that are here and have their hash: the first ones."""
        self.released = False
        """Whether this pod's own work is done."""
        self.failure: Optional[Failure] = None
        self.over = False
        """Whether all pods have everything, and no more will come."""
        self._event = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return self.layout is not None and self.have == self.layout.count

    @property
    def disk(self) -> Disk:
        """The files of the layout."""
        assert self.layout is not None
        return Disk(self.folders, self.layout)

    def rank(self, index: int) -> Tuple[int, int]:
        """Of several pods without a reader, the one with the lowest rank becomes it."""
        return -self.have, index

    def start_over(self, layout: Layout, encoded: bytes) -> None:
        """Take a layout, of which nothing is here yet."""
        self.layout, self.encoded, self.hashes, self.have = layout, encoded, [], 0
        self.touch()

    def fail(self, failure: Failure) -> None:
        """Nobody can go on: the others are to hear why."""
        self.role, self.failure = FAILED, failure
        self.touch()

    def touch(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        """Return when something has changed, or after that time."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._event.wait(), timeout_s)
