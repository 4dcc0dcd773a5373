"""What the nodes print: read in one thread, passed on by lines."""

from __future__ import annotations

import codecs
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable
from typing import IO, Literal

from kij_train.lines import Lines

Stream = Literal["stdout", "stderr"]
Emit = Callable[[int, Stream, str], None]
"""Called with node, stream and a line without its end; always from the same thread."""
Answer = Callable[[int, str], None]
"""Called, from that thread as well, with a process and a line that it has answered."""

DRAIN_S = 1.0
"""How long the last output may take to be passed on, even when the run is over."""
LOOK_S = 0.5
"""Between two looks at what is unended: a progress bar, a prompt."""
CHUNK_BYTES = 1 << 16


class Output:
    """Reads pipes until `close`, which waits for nobody that still holds one."""

    def __init__(self, emit: Emit, *, prompt_s: float = float("inf")) -> None:
        """Text that waits for an answer, without a line end, is passed on after `prompt_s`."""
        self.error: BaseException | None = None
        """What `emit` raised; from then on the rest is read and dropped, so that nobody hangs."""
        self._emit, self._prompt_s = emit, prompt_s
        self._new: queue.SimpleQueue[_Pipe] = queue.SimpleQueue()
        self._wake_r, self._wake_w = os.pipe()
        self._closing = self._given_up = False
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def add(self, index: int, stream: Stream, pipe: IO[bytes]) -> None:
        """Read what a node writes to this pipe, too."""
        os.set_blocking(pipe.fileno(), False)
        self._new.put(_Pipe(index, stream, pipe, self._prompt_s))
        os.write(self._wake_w, b".")

    def add_answers(self, index: int, pipe: IO[bytes], on_answer: Answer) -> None:
        """Read a pipe of answers, too: what a process printed before one is passed on before it."""
        os.set_blocking(pipe.fileno(), False)
        self._new.put(_Pipe(index, None, pipe, float("inf"), on_answer))
        os.write(self._wake_w, b".")

    def close(self, is_over: Callable[[], bool]) -> None:
        """Pass on what is left, and end; drop it if `is_over` says so, since `emit` may block."""
        self._closing = True
        os.write(self._wake_w, b".")
        while self._thread.is_alive():
            self._thread.join(DRAIN_S)
            if self._thread.is_alive() and is_over():
                self._given_up = True
                return
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_r, selectors.EVENT_READ)
            ready: list[tuple[selectors.SelectorKey, int]] = []
            while ready or not self._closing:
                ready = selector.select(LOOK_S)
                for key, _ in ready:
                    if key.data is None:
                        os.read(self._wake_r, CHUNK_BYTES)
                        while not self._new.empty():
                            pipe = self._new.get()
                            selector.register(pipe.file, selectors.EVENT_READ, pipe)
                        continue
                    if key.data.on_answer is not None:
                        self._read_what_came_before(key.data, selector)
                    if not key.data.file.closed and not self._read(key.data):
                        selector.unregister(key.fileobj)
                for pipe in _pipes(selector):
                    self._pass_on(pipe, pipe.lines.pause(time.monotonic()))
            for pipe in _pipes(selector):
                self._end(pipe)

    def _read(self, pipe: _Pipe, *, all_of_it: bool = False) -> bool:
        """Read once, or all that is there; whether there may be more later."""
        while True:
            try:
                data = os.read(pipe.file.fileno(), CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not data:
                self._end(pipe)
                return False
            self._pass_on(pipe, pipe.lines.feed(pipe.decoder.decode(data), time.monotonic()))
            if not all_of_it:
                return True

    def _read_what_came_before(self, answers: _Pipe, selector: selectors.BaseSelector) -> None:
        """Take in all that a process has printed so far."""
        for pipe in _pipes(selector):
            is_its_own = pipe.index == answers.index and pipe.on_answer is None
            if is_its_own and not self._read(pipe, all_of_it=True):
                selector.unregister(pipe.file)

    def _end(self, pipe: _Pipe) -> None:
        rest = pipe.lines.feed(pipe.decoder.decode(b"", final=True), time.monotonic())
        self._pass_on(pipe, rest + pipe.lines.close())
        pipe.file.close()

    def _pass_on(self, pipe: _Pipe, lines: list[str]) -> None:
        try:
            for line in lines:
                if pipe.on_answer is not None:
                    pipe.on_answer(pipe.index, line)
                elif self.error is None and not self._given_up:
                    assert pipe.stream is not None
                    self._emit(pipe.index, pipe.stream, line)
        except BaseException as error:
            self.error = error


class _Pipe:
    def __init__(
        self,
        index: int,
        stream: Stream | None,
        file: IO[bytes],
        prompt_s: float,
        on_answer: Answer | None = None,
    ) -> None:
        self.index, self.stream, self.file = index, stream, file
        self.on_answer = on_answer
        self.lines = Lines(prompt_s=prompt_s)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")


def _pipes(selector: selectors.BaseSelector) -> list[_Pipe]:
    return [key.data for key in selector.get_map().values() if key.data is not None]
