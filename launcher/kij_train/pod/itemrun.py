"""Runs one item after another: starts each, passes its output on, ends it in time.

An item writes to pipes that this process reads, so that lines of ours never come in the middle of
its own. Standard input is empty.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from kij_train.pod import contract, records, signals, status
from kij_train.pod.contract import Failure
from kij_train.pod.gang.processes import kill_descendants
from kij_train.pod.trials import Metrics

Json = Dict[str, Any]
CHUNK = 1 << 16
TAIL_BYTES = 500
EXIT_TIMED_OUT = 124
"""Of an item that took too long, as GNU's timeout has it."""
SCRIPT, PROGRAM, RANKS = "script", "program", "ranks"
"""Kinds of items: forked from an interpreter; a program; a script or program under torchrun."""


class Stop:
    """Hears the signals that ask this process to end."""

    def __init__(self) -> None:
        self.signum = 0
        """The first one; 0: none."""
        self.woken, end = os.pipe()
        """Readable after every signal."""
        for pipe in (self.woken, end):
            os.set_blocking(pipe, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        signals.take_signals(self._hear)

    def _hear(self, signum: int, frame: Optional[FrameType]) -> None:
        del frame
        self.signum = self.signum or signum

    def is_set(self) -> bool:
        """Whether one has come."""
        return bool(self.signum)

    def wait(self, seconds: float) -> None:
        """Until one comes, at most so long."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self.woken, selectors.EVENT_READ)
            while not self.signum and time.monotonic() < until:
                ready.select(until - time.monotonic())
                self.take_in()

    def take_in(self) -> None:
        """Read what makes `woken` readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.woken, 4096)


class Output:
    """What items write goes on to this process's own stdout and stderr."""

    def __init__(self, metrics: Optional[Metrics] = None) -> None:
        """`metrics` are looked for in what an item writes."""
        self.metrics = metrics
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
        self._tail = bytearray()

    def register(self, ready: selectors.BaseSelector) -> None:
        """Have it tell when there is something to pass on; its key's data is this object."""
        for pipe in self._pipes:
            ready.register(pipe, selectors.EVENT_READ, self)

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
        """A line of our own, with its end."""
        target = self._targets[stream - 1]
        self._end_line(target)
        self._write(target, data)

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


class Order(NamedTuple):
    """One item to run."""

    kind: str
    argv: List[str]
    """`script` and `ranks`: as worker.py takes it; `program`: without --no-python."""
    env: Dict[str, str]
    unset: List[str]
    error_file: str
    """Where a script leaves its exception."""


class Ended(NamedTuple):
    """How an item ended."""

    exit_code: int
    """As a shell has it: 128 + N for signal N."""
    error: str
    """Empty: well."""
    seconds: float
    is_told: bool
    """It was told to end, because this process was."""
    error_at: str = ""
    """The line of the code that raised what ended it, `train.py:118`, if it is known."""


class Starter:
    """Runs items, one at a time, by way of a zygote, which is made when one is needed."""

    def __init__(self, output: Output, stop: Stop, argv: List[str], preload: List[str]) -> None:
        """`argv` is the command, with placeholders as yet: where it is tells where modules are."""
        self._output, self._stop = output, stop
        self._first = {"argv": argv, "preload": preload}
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._channel: Optional[socket.socket] = None
        self._rest = b""
        self._oom_kills = oom_kills()

    def run(self, order: Order, timeout_s: float, grace_s: float) -> Ended:
        """Run an item to its end. Raises Failure where none can be run."""
        if not self._start_zygote():
            return Ended(128 + self._stop.signum, "told to end before it began", 0.0, True)
        self._output.forget()
        began = time.monotonic()
        self._send({"run": order._asdict()})
        told_at, timed_out = 0.0, False
        answer: Optional[Json] = None
        with selectors.DefaultSelector() as ready:
            self._register(ready)
            while answer is None:
                now = time.monotonic()
                if not told_at and (
                    self._stop.is_set() or (timeout_s and now >= began + timeout_s)
                ):
                    timed_out = not self._stop.is_set()
                    self._send({"signal": self._stop.signum or int(signal.SIGTERM)})
                    told_at = now
                elif told_at and now >= told_at + grace_s:
                    self._send({"kill": True})
                    told_at = now  # a process may start another one in between
                due = told_at + grace_s if told_at else began + timeout_s if timeout_s else None
                answer = self._look(ready, None if due is None else max(0.0, due - now))
        self._output.pass_on_the_rest()
        seconds = time.monotonic() - began
        code = signals.exit_code(answer["status"])
        if timed_out:
            return Ended(EXIT_TIMED_OUT, f"took longer than {timeout_s:g} s", seconds, False)
        told = bool(told_at)
        record = records.read_record(order.error_file)
        error = self._error(order, answer, code, told, record)
        at = records.place_of(records.callstack_of(record), os.getcwd()) if error else ""
        return Ended(code, error, seconds, told, at)

    def close(self) -> None:
        """End the zygote."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _start_zygote(self) -> bool:
        """Have one; False where this process is told to end before it is ready."""
        if self._process is not None:
            return not self._stop.is_set()
        ours, theirs = socket.socketpair()
        zygote = Path(__file__).with_name("zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, "-u", str(zygote), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._output.ends[0],
            stderr=self._output.ends[1],
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # what a terminal sends comes to us alone
        )
        theirs.close()
        self._channel, self._rest = ours, b""
        self._send(self._first)
        answer: Optional[Json] = None
        with selectors.DefaultSelector() as ready:
            self._register(ready)
            while answer is None and not self._stop.is_set():
                answer = self._look(ready, None)
        if answer is None:
            self._process.kill()
            return False
        if "ready" not in answer:
            self._output.pass_on_the_rest()
            raise Failure(
                contract.EXIT_CODE, answer.get("broken", "the process that starts items has ended")
            )
        return True

    def _register(self, ready: selectors.BaseSelector) -> None:
        assert self._channel is not None
        self._output.register(ready)
        ready.register(self._channel, selectors.EVENT_READ)
        ready.register(self._stop.woken, selectors.EVENT_READ)

    def _look(self, ready: selectors.BaseSelector, timeout_s: Optional[float]) -> Optional[Json]:
        """Pass on output and wait for an answer, once."""
        answer = None
        for key, _ in ready.select(timeout_s):
            if key.data is not None:
                key.data.pass_on(key.fd)
            elif key.fd == self._stop.woken:
                self._stop.take_in()
            else:
                answer = self._read()
        return answer

    def _read(self) -> Optional[Json]:
        assert self._channel is not None and self._process is not None
        try:
            chunk = self._channel.recv(CHUNK)
        except ConnectionResetError:
            chunk = b""
        if chunk:
            line, end, rest = (self._rest + chunk).partition(b"\n")
            self._rest = rest if end else line
            return json.loads(line) if end else None
        # It was killed, under an item or while it imported: what it had started is ours now.
        kill_descendants()
        self._process.wait()
        self._channel.close()
        self._process = self._channel = None
        return {"status": int(signal.SIGKILL), "error": "the process that started it was killed"}

    def _send(self, order: Json) -> None:
        assert self._channel is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _read will tell
            self._channel.sendall(json.dumps(order).encode() + b"\n")

    def _error(self, order: Order, answer: Json, code: int, told: bool, record: Json) -> str:
        """What is wrong, in a line; empty where nothing is."""
        if not code:
            return ""
        if "error" in answer:
            return str(answer["error"])
        name = signals.signal_name(code - 128) if os.WIFSIGNALED(answer["status"]) else ""
        if told:
            asked = signals.signal_name(self._stop.signum)
            return f"ended by {asked}" + (f", not until {name}" if name not in ("", asked) else "")
        if name == "SIGKILL":
            before, self._oom_kills = self._oom_kills, oom_kills()
            memory = ": out of memory" if self._oom_kills > before else ""
            return f"killed by SIGKILL{memory}"
        if name:
            return f"killed by {name}"
        said = record.get("message", {})
        message = said.get("message", "") if isinstance(said, dict) else str(said)
        if message.strip():
            return last_line_of(message)
        last = self._output.last_line() if order.kind == PROGRAM else ""
        return f"exit code {code}" + (f": {last}" if last else "")


def last_line_of(message: str) -> str:
    """Of an exception: the line with its name, and what is said of the end behind it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else " · ".join([lines[0], lines[-1]])


def oom_kills() -> int:
    """How many processes of this container the kernel has killed for memory; 0: it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
