"""Run a command in a pod, or in many, over the WebSocket of the API server.

Its channels (remotecommand v4 and v5): stdin, stdout, stderr, the result, a terminal's size.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kij_train import names
from kij_train.cluster.apierrors import json_of
from kij_train.cluster.channels import LONG_S, PING_S, Channels
from kij_train.cluster.client import CHANNELS, OPENING_S, Cluster
from kij_train.errors import CommandNotRunError, KijError, RefusedError, UnreachableError

STDIN, STDOUT, STDERR, RESULT, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MOST_AT_ONCE = 32
"""Connections of `ask`."""


class Session(Channels):
    """A command that runs in a pod."""

    def __init__(self, pod: str, command: Sequence[str], opened: Any) -> None:
        super().__init__(opened, f"the connection to pod {pod} broke; its command may go on there")
        self._pod = pod
        self._command = command
        self._result = b""

    @classmethod
    def open(
        cls, cluster: Cluster, pod: str, command: list[str], *, stdin: bool, tty: bool
    ) -> Session:
        """Raises RefusedError, GoneError, UnreachableError."""
        flags = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
        query = [("container", names.CONTAINER)]
        query += [(name, "true") for name, wanted in flags.items() if wanted]
        query += [("command", word) for word in command]
        return cls(pod, command, cluster.websocket("Pod", pod, "exec", query))

    def read(self, timeout_s: float) -> tuple[int, bytes]:
        """The next message: its channel and what it holds, which may be nothing.

        Raises UnreachableError; TimeoutError after `timeout_s`.
        """
        channel, data = self.receive(timeout_s) or (RESULT, b"")
        if channel == RESULT:
            self._result += data
        return (channel, data) if channel in (STDOUT, STDERR) else (RESULT, b"")

    def close_stdin(self) -> None:
        """End the command's stdin. A server that is too old cannot: there the command waits on."""
        if self._opened.getsubprotocol() == CHANNELS[0]:
            self.send(bytes([CLOSE, STDIN]))

    def exit_code(self) -> int:
        """Of the command, once the session has ended.

        Raises CommandNotRunError where it never ran, RefusedError, UnreachableError.
        """
        try:
            said = json_of(self._result)
            causes = (said.get("details") or {}).get("causes") or []
            if said["status"] == "Success":
                return 0
            for cause in causes:
                if cause.get("reason") == "ExitCode":
                    return int(cause["message"])
            message = str(said.get("message") or "no reason given")
        except (ValueError, LookupError, AttributeError, TypeError):
            raise self.broken(None) from None
        for words, code in (("not found in $PATH", 127), ("no such file", 127), ("denied", 126)):
            if words in message:
                program = self._command[0]
                why = "its image has no such program" if code == 127 else "it may not be run"
                raise CommandNotRunError(f"pod {self._pod} cannot run {program}: {why}", code)
        raise RefusedError(f"pod {self._pod} does not take the command: {message}")


def execute(cluster: Cluster, pod: str, command: list[str], *, stdin: bool, tty: bool) -> int:
    """Run it with our stdin (if wanted), stdout and stderr; gives its exit code.

    Raises RefusedError, GoneError, CommandNotRunError, UnreachableError.
    """
    session = Session.open(cluster, pod, command, stdin=stdin, tty=tty)
    try:
        with _raw_terminal(session, tty):
            _pass_on(session, stdin)
        return session.exit_code()
    finally:
        session.close()


@dataclass(frozen=True)
class Answer:
    """What a command in a pod gave."""

    pod: str
    code: int | None = None
    out: str = ""
    err: str = ""
    error: KijError | None = None
    """Why there is no code."""


def ask(
    cluster: Cluster, pods: Sequence[str], command: list[str], *, timeout_s: float
) -> Iterator[Answer]:
    """Run a command in several pods, at most MOST_AT_ONCE at a time; answers as they come.

    A pod that says nothing for `timeout_s` is given up, as is one whose connection does not even
    open.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.Queue[Answer] = queue.Queue()  # no SimpleQueue: see local/nodes.py
    for pod in pods:
        waiting.put(pod)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                answers.put(_capture(cluster, waiting.get_nowait(), command, timeout_s))

    for _ in range(min(MOST_AT_ONCE, len(pods))):
        # Nobody waits for one that hangs.
        threading.Thread(target=work, daemon=True).start()
    left = dict.fromkeys(pods)
    while left:
        try:
            answer = answers.get(timeout=timeout_s + OPENING_S)
        except queue.Empty:
            break
        del left[answer.pod]
        yield answer
    yield from (Answer(pod, error=_silent(pod, timeout_s + OPENING_S)) for pod in left)


def _silent(pod: str, for_s: float) -> UnreachableError:
    return UnreachableError(f"pod {pod} has not answered for {for_s:.0f} s")


def _capture(cluster: Cluster, pod: str, command: list[str], timeout_s: float) -> Answer:
    try:
        session = Session.open(cluster, pod, command, stdin=False, tty=False)
    except KijError as error:
        return Answer(pod, error=error)
    said = {STDOUT: b"", STDERR: b"", RESULT: b""}
    deadline = time.monotonic() + timeout_s
    try:
        while not session.ended:
            channel, data = session.read(max(deadline - time.monotonic(), 0.01))
            said[channel] += data
        out, err = (said[one].decode("utf-8", "replace") for one in (STDOUT, STDERR))
        return Answer(pod, session.exit_code(), out, err)
    except TimeoutError:
        return Answer(pod, error=_silent(pod, timeout_s))
    except KijError as error:
        return Answer(pod, error=error)
    finally:
        session.close()


def _pass_on(session: Session, stdin: bool) -> None:
    """Bytes in and out until the command has ended. Raises UnreachableError."""
    if stdin:
        # Apart: a command that writes before it reads on would else wait for us, and we for it.
        threading.Thread(target=_feed, args=(session,), daemon=True).start()
    while not session.ended:
        if not session.waits(PING_S):
            session.ping()
            continue
        with suppress(TimeoutError):
            channel, data = session.read(LONG_S)
            target = sys.stderr if channel == STDERR else sys.stdout
            target.buffer.write(data)
            target.buffer.flush()


def _feed(session: Session) -> None:
    """Send our stdin, to its end. A broken connection is reported by whoever reads from it."""
    with suppress(KijError, OSError):
        while typed := os.read(sys.stdin.fileno(), 2**14):
            session.write(STDIN, typed)
        session.close_stdin()


@contextmanager
def _raw_terminal(session: Session, tty: bool) -> Iterator[None]:
    """Give every key to the pod, and tell it the terminal's size."""
    if not tty:
        yield
        return
    import termios
    import tty as terminal

    def resize() -> None:
        size = shutil.get_terminal_size()
        told = json.dumps({"Width": size.columns, "Height": size.lines}).encode()
        with suppress(UnreachableError):  # which is for whoever reads to say
            session.write(RESIZE, told)

    before = termios.tcgetattr(sys.stdin)
    # In a thread: what the signal interrupts may be in the middle of sending.
    handler = signal.signal(signal.SIGWINCH, lambda *_: threading.Thread(target=resize).start())
    try:
        terminal.setraw(sys.stdin)
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
