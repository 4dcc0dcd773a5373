"""How commands speak to the running cluster: one JSON line there, one back, over a Unix socket.

The supervisor inside the namespaces owns every daemon, so whoever wants one stopped asks it.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import ClusterError

Handler = Callable[[list[str]], object]
ANSWER_TIMEOUT_S = 180.0


def ask(path: Path, command: str, *arguments: str) -> object:
    """Have the supervisor do something; returns what its handler returned."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps([command, *arguments]).encode() + b"\n")
            answer = json.loads(connection.makefile().readline() or '{"error": "no answer"}')
    except OSError as error:
        raise ClusterError(f"the cluster does not answer: {error}") from error
    if "error" in answer:
        raise ClusterError(answer["error"])
    return answer["result"]


def serve(path: Path, handlers: Mapping[str, Handler]) -> None:
    """Answer until the process ends. One command at a time: they change the same daemons."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen()
    turn = threading.Lock()
    while True:
        connection, _ = listener.accept()
        thread = threading.Thread(target=_answer, args=(connection, handlers, turn), daemon=True)
        thread.start()


def _answer(
    connection: socket.socket, handlers: Mapping[str, Handler], turn: threading.Lock
) -> None:
    with connection:
        try:
            command, *arguments = json.loads(connection.makefile().readline())
            with turn:
                answer = {"result": handlers[command](arguments)}
        except ClusterError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.sendall(json.dumps(answer).encode() + b"\n")
