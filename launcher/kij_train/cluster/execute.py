"""Run a command in a pod, or in many, over the websocket of the official client."""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kij_train import names
from kij_train.cluster.apierrors import Action, refusal
from kij_train.cluster.client import Cluster
from kij_train.errors import KijError, UnreachableError

RESIZE_CHANNEL = 4
POLL_S = 0.1
MOST_AT_ONCE = 32
"""Connections of `ask`."""
OPENING_S = 10.0
"""How long a connection may take to open."""


def execute(cluster: Cluster, pod: str, command: list[str], *, stdin: bool, tty: bool) -> int:
    """Run it with our stdin (if wanted), stdout and stderr; gives its exit code.

    Raises RefusedError, GoneError.
    """
    session = _open(cluster, pod, command, stdin=stdin, tty=tty)
    with _raw_terminal(session, tty):
        _pass_on(session, stdin)
    return int(session.returncode or 0)


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

    A pod that has said nothing for `timeout_s` is given up, and one whose connection does not even
    open is left behind.
    """
    import kubernetes.stream  # noqa: F401 - here, lest many threads import it at once

    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
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
        session = _open(cluster, pod, command, stdin=False, tty=False)
    except KijError as error:
        return Answer(pod, error=error)
    try:
        session.run_forever(timeout=timeout_s)
        if session.is_open():
            return Answer(pod, error=_silent(pod, timeout_s))
        out, err = session.read_stdout(timeout=0), session.read_stderr(timeout=0)
        code = int(session.returncode or 0)
        return Answer(pod, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    except Exception as error:  # of the websocket: the pod ended, the connection broke
        return Answer(pod, error=UnreachableError(f"pod {pod} cannot be asked: {error}"))
    finally:
        with suppress(Exception):
            session.close()


def _open(cluster: Cluster, pod: str, command: list[str], *, stdin: bool, tty: bool) -> Any:
    """The official client's session. Raises RefusedError, GoneError."""
    from kubernetes import client
    from kubernetes.client.rest import ApiException
    from kubernetes.stream import stream

    api = client.CoreV1Api(client.ApiClient(cluster.configuration))
    try:
        return stream(
            api.connect_get_namespaced_pod_exec,
            pod,
            cluster.namespace,
            container=names.CONTAINER,
            command=command,
            stdin=stdin,
            stdout=True,
            stderr=not tty,
            tty=tty,
            _preload_content=False,
            binary=True,
        )
    except ApiException as error:
        action = Action("create", "pods/exec", pod, cluster.namespace)
        # The websocket's refusal carries the server's Status in its text.
        body = str(error.reason or error.body or "").rpartition("-+-+-")[2].strip(" b'\"\n")
        status = int(error.status or 0)
        code = next((n for n in (403, 404, 400) if f"{n}" in str(error.reason)), status or 500)
        raise refusal(code, body.encode(), action) from None


def _pass_on(session: Any, stdin: bool) -> None:
    wait_for = [session.sock.sock] + ([sys.stdin.buffer] if stdin else [])
    while session.is_open():
        ready, _, _ = select.select(wait_for, [], [], POLL_S)
        if stdin and sys.stdin.buffer in ready:
            typed = os.read(sys.stdin.fileno(), 2**14)
            if typed:
                session.write_stdin(typed)
            else:
                wait_for.remove(sys.stdin.buffer)
        session.update(timeout=0)
        _print(session)
    _print(session)


def _print(session: Any) -> None:
    for peek, read, target in (
        (session.peek_stdout, session.read_stdout, sys.stdout),
        (session.peek_stderr, session.read_stderr, sys.stderr),
    ):
        if peek(timeout=0):
            target.buffer.write(read(timeout=0))
            target.buffer.flush()


@contextmanager
def _raw_terminal(session: Any, tty: bool) -> Iterator[None]:
    """Give every key to the pod, and tell it the terminal's size."""
    if not tty:
        yield
        return
    import termios
    import tty as terminal

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.write_channel(
            RESIZE_CHANNEL, json.dumps({"Width": size.columns, "Height": size.lines})
        )

    before = termios.tcgetattr(sys.stdin)
    handler = signal.signal(signal.SIGWINCH, resize)
    try:
        terminal.setraw(sys.stdin)
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
