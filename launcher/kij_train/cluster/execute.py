"""Run a command in a pod, over the websocket of the official client."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kij_train import names
from kij_train.cluster.apierrors import Action, refusal
from kij_train.cluster.client import Cluster

RESIZE_CHANNEL = 4
POLL_S = 0.1


def execute(cluster: Cluster, pod: str, command: list[str], *, stdin: bool, tty: bool) -> int:
    """Run it with our stdin (if wanted), stdout and stderr; gives its exit code.

    Raises RefusedError, GoneError.
    """
    from kubernetes import client
    from kubernetes.client.rest import ApiException
    from kubernetes.stream import stream

    api = client.CoreV1Api(client.ApiClient(cluster.configuration))
    try:
        session = stream(
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
    with _raw_terminal(session, tty):
        _pass_on(session, stdin)
    return int(session.returncode or 0)


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
