"""Runs one item after another: has it started, passes its output on, ends it in time.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import json
import os
import selectors
import signal
import time
from types import FrameType
from typing import Any, Dict, List, NamedTuple, Optional

from kij_train.pod import contract, records, signals
from kij_train.pod.contract import Failure
from kij_train.pod.gang.processes import kill_descendants
from kij_train.pod.itemfork import Forked, start_zygote
from kij_train.pod.itemoutput import CHUNK, Output

Json = Dict[str, Any]
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
        signals.heard.append(signum)
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
    """Runs items, one at a time, by way of a zygote; starts another one when it is killed."""

    def __init__(
        self,
        output: Output,
        stop: Stop,
        argv: List[str],
        preload: List[str],
        zygote: Optional[Forked],
    ) -> None:
        """`argv` is the command, with placeholders as yet: where it is tells where modules are.

        `zygote` is there already; None: one is started when it is needed.
        """
        self._output, self._stop = output, stop
        self._first = {"argv": argv, "preload": preload}
        self._zygote, self._is_ready = zygote, False
        self._rest = b""
        self._oom_kills = oom_kills()

    def run(self, order: Order, timeout_s: float, grace_s: float) -> Ended:
        """Run an item to its end. Raises Failure where none can be run."""
        if not self._has_zygote():
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
        if self._zygote is not None:
            self._zygote.channel.close()
            os.waitpid(self._zygote.process, 0)
            self._zygote = None

    def _has_zygote(self) -> bool:
        """Have one that is ready; False where this process is told to end before it is."""
        if self._zygote is not None and self._is_ready:
            return not self._stop.is_set()
        if self._zygote is None:
            self._zygote = start_zygote(self._output.ends)
        self._rest = b""
        self._send(self._first)
        answer: Optional[Json] = None
        with selectors.DefaultSelector() as ready:
            self._register(ready)
            while answer is None and not self._stop.is_set():
                answer = self._look(ready, None)
        if answer is None:
            os.kill(self._zygote.process, signal.SIGKILL)
            return False
        if "ready" not in answer:
            self._output.pass_on_the_rest()
            raise Failure(
                contract.EXIT_CODE, answer.get("broken", "the process that starts items has ended")
            )
        self._is_ready = True
        return True

    def _register(self, ready: selectors.BaseSelector) -> None:
        assert self._zygote is not None
        self._output.register(ready)
        ready.register(self._zygote.channel.answers, selectors.EVENT_READ)
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
        assert self._zygote is not None
        chunk = os.read(self._zygote.channel.answers, CHUNK)
        if chunk:
            line, end, rest = (self._rest + chunk).partition(b"\n")
            self._rest = rest if end else line
            return json.loads(line) if end else None
        # It was killed, under an item or while it imported: what it had started is ours now.
        kill_descendants()
        self.close()
        self._is_ready = False
        return {"status": int(signal.SIGKILL), "error": "the process that started it was killed"}

    def _send(self, order: Json) -> None:
        assert self._zygote is not None
        left = memoryview(json.dumps(order).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):  # _read will tell
            while left:
                left = left[os.write(self._zygote.channel.orders, left) :]

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
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.events") as file:
        for line in file:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
