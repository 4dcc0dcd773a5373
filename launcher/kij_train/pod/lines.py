"""The output of a node's ranks, passed on by whole lines where there are several.

A rank writes without buffers, as under torchrun: what it has written is out when a signal ends it.
So a line and its end come apart, and the lines of ranks that write to the same place would mix.
Each of several ranks therefore writes to named pipes of its own, and a thread of the node's process
passes on whole lines; a line that is not ended, such as a row of dots, after a moment.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import errno
import os
import selectors
import threading
import time
from typing import Dict, Optional

PARTIAL_S = 0.1
"""After which a line is passed on that has not ended."""
CHUNK = 1 << 16
LONGEST_LINE = 1 << 20
DRAIN_S = 1.0
"""How long a process that has outlived its rank is listened to at the end."""


def pipe_path(folder: str, local_rank: str, stream: int) -> str:
    """The pipe for what a rank writes to stream 1 or 2."""
    return os.path.join(folder, f"output-{local_rank}-{stream}")


def join(folder: str, local_rank: str) -> None:
    """In a rank: write to its pipes from now on, if it has some."""
    if not os.path.exists(pipe_path(folder, local_rank, 1)):
        return
    for stream in (1, 2):
        try:
            # A node whose own reader is gone reads no more: do not wait for it.
            end = os.open(pipe_path(folder, local_rank, stream), os.O_WRONLY | os.O_NONBLOCK)
        except FileNotFoundError:  # both are the same place
            os.dup2(1, stream)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            os.set_blocking(end, True)
            os.dup2(end, stream)
            os.close(end)


class _Pipe:
    """What one rank writes to one stream."""

    def __init__(self, path: str, stream: int) -> None:
        os.mkfifo(path)
        # For writing as well, so that there is no end of file before the rank has opened it.
        self.end: Optional[int] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.stream = stream
        self.held = bytearray()
        self.due = float("inf")
        """When a line that has not ended is passed on, on the monotonic clock."""

    def read(self) -> bool:
        """Take in what is there; whether there was something."""
        if self.end is None:
            return False
        try:
            self.held += os.read(self.end, CHUNK)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Whoever still writes to it finds it broken."""
        if self.end is not None:
            os.close(self.end)
        self.end = None
        self.held.clear()


class Lines:
    """The node's side: use it as a context around the life of the ranks."""

    def __init__(self, folder: str, ranks: int) -> None:
        """Make the pipes in `folder`, which is the caller's to remove."""
        streams = (1,) if os.path.sameopenfile(1, 2) else (1, 2)  # together, they keep their order
        self._pipes = [
            _Pipe(pipe_path(folder, str(rank), stream), stream)
            for rank in range(ranks)
            for stream in streams
        ]
        # What is written to fd 2 later may be kept back: that is not the ranks'.
        self._out = {stream: os.dup(stream) for stream in streams}
        self._open_line: Dict[int, Optional[_Pipe]] = {}
        """Of each stream: whose line has been passed on without its end."""
        self._stop, self._stop_end = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stop, selectors.EVENT_READ)
        for pipe in self._pipes:
            assert pipe.end is not None
            self._selector.register(pipe.end, selectors.EVENT_READ, pipe)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        """Before the ranks start."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Pass on the rest."""
        os.close(self._stop_end)
        self._thread.join()
        for end in (self._stop, *self._out.values()):
            os.close(end)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            due = min((pipe.due for pipe in self._pipes), default=float("inf"))
            timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if key.data is None:
                    stopping = True
                elif key.data.read():
                    self._pass_on_lines(key.data)
            now = time.monotonic()
            for pipe in [pipe for pipe in self._pipes if pipe.due <= now]:
                self._pass_on(pipe, len(pipe.held))
        self._selector.close()
        until = time.monotonic() + DRAIN_S
        for pipe in self._pipes:
            while pipe.read() and time.monotonic() < until:
                self._pass_on_lines(pipe)
            self._pass_on(pipe, len(pipe.held))
            pipe.close()

    def _pass_on_lines(self, pipe: _Pipe) -> None:
        size = pipe.held.rfind(b"\n") + 1
        self._pass_on(pipe, len(pipe.held) if len(pipe.held) - size > LONGEST_LINE else size)

    def _pass_on(self, pipe: _Pipe, size: int) -> None:
        """The first `size` bytes that it holds."""
        data = bytes(pipe.held[:size])
        del pipe.held[:size]
        if not pipe.held:
            pipe.due = float("inf")
        elif size or pipe.due == float("inf"):
            pipe.due = time.monotonic() + PARTIAL_S
        if not data:
            return
        before = self._open_line.get(pipe.stream)
        if before not in (None, pipe) and not data.startswith(b"\r"):
            data = b"\n" + data
        self._open_line[pipe.stream] = None if data.endswith(b"\n") else pipe
        try:
            while data:
                data = data[os.write(self._out[pipe.stream], data) :]
        except OSError:  # nobody reads it any more
            for each in self._pipes:
                if each.stream == pipe.stream:
                    self._close(each)

    def _close(self, pipe: _Pipe) -> None:
        if pipe.end is not None and self._selector.get_map() is not None:
            self._selector.unregister(pipe.end)
        pipe.close()
        pipe.due = float("inf")
