"""The output of items: pipes that they write to, from which it goes on to the runner's own output.

So lines of ours never come in the middle of an item's own.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import os
import stat
import time
from typing import TYPE_CHECKING, Dict, Optional, Tuple

from kij_train.pod import status

if TYPE_CHECKING:
    import selectors

    from kij_train.pod.trials import Metrics

CHUNK = 1 << 16
TAIL_BYTES = 500
SETTLE_S = 0.1
"""So long at most is waited for who reads our output: a reader that has stopped stops no item."""


class Output:
    """What items write goes on to this process's own stdout and stderr."""

    def __init__(self) -> None:
        self.metrics: Optional[Metrics] = None
        """Looked for in what an item writes."""
        # Together, they keep their order.
        self._targets = (1, 1) if os.path.sameopenfile(1, 2) else (1, 2)
        self._pipes: Dict[int, int] = {}
        """The end that is read → where it goes."""
        self.ends: Tuple[int, ...] = ()
        """What an item has as stdout and stderr."""
        ends = {}
        for target in sorted(set(self._targets)):
            read_end, ends[target] = os.pipe()
            os.set_blocking(read_end, False)
            self._pipes[read_end] = target
        self.ends = tuple(ends[target] for target in self._targets)
        self._is_open = {1: False, 2: False}
        """Whether a line has been passed on without its end."""
        self._gone = {1: False, 2: False}
        """Nobody reads it any more."""
        self._settles = all(stat.S_ISFIFO(os.fstat(target).st_mode) for target in self._targets)
        self._tail = bytearray()

    def register(self, ready: "selectors.BaseSelector") -> None:
        """Have it tell when there is something to pass on; its key's data is this object."""
        from selectors import EVENT_READ

        for pipe in self._pipes:
            ready.register(pipe, EVENT_READ, self)

    def pass_on(self, pipe: int) -> bool:
        """What is there, at most a chunk; whether there was something."""
        try:
            data = os.read(pipe, CHUNK)
        except BlockingIOError:
            return False
        target = self._pipes[pipe]
        self._write(target, data)
        if self.metrics is not None:
            self.metrics.feed(target, data)
        self._is_open[target] = not data.endswith(b"\n")
        if target == self._targets[1]:
            self._tail += data[-TAIL_BYTES:]
            del self._tail[:-TAIL_BYTES]
        return True

    def pass_on_the_rest(self) -> None:
        """Of an item that is over."""
        for pipe in self._pipes:
            while self.pass_on(pipe):
                pass
            self._end_line(self._pipes[pipe])

    def line(self, stream: int, data: bytes) -> None:
        """A line of our own, with its end: behind all that came before, before all that follows."""
        target = self._targets[stream - 1]
        self._settle(self._targets[2 - stream])
        self._end_line(target)
        self._write(target, data)
        self._settle(target)

    def _settle(self, target: int) -> None:
        """Wait until what is written there has been read: others read the two streams apart.

        A container's log has the lines in the order in which they are read, and it is our lines
        that say which item the others are of.
        """
        if self._targets[0] == self._targets[1] or not self._settles:
            return
        import fcntl
        import termios

        deadline = time.monotonic() + SETTLE_S
        unread = bytearray(4)
        try:
            while fcntl.ioctl(target, termios.FIONREAD, unread) == 0 and any(unread):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.0005)
        except OSError:  # no pipe
            self._settles = False

    def say(self, text: str) -> None:
        """One line of status."""
        self.line(2, f"{status.PREFIX}{text}\n".encode("utf-8", "replace"))

    def forget(self) -> None:
        """Before an item: what the one before has written."""
        self._tail.clear()
        if self.metrics is not None:
            self.metrics.forget()

    def last_line(self) -> str:
        """What the item has written last to stderr that is not empty."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _end_line(self, target: int) -> None:
        if self._is_open[target]:
            self._write(target, b"\n")
            self._is_open[target] = False

    def _write(self, target: int, data: bytes) -> None:
        if self._gone[target]:
            return
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(target, left) :]
        except OSError:
            self._gone[target] = True
