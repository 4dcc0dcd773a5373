"""A WebSocket to a pod, as the API server opens them: several streams, told apart by a byte.

The first byte of a message is the channel, the rest is what it says
(kubernetes.io/docs/reference/using-api/api-concepts).
"""

from __future__ import annotations

import select
import threading
from contextlib import suppress
from typing import Any

from kij_train.errors import UnreachableError

PING_S = 30.0
"""How long a connection may be quiet before it is asked for a sign of life: what stands between
may forget one that never speaks."""
LONG_S = 86_400.0
"""For one that does not read, or has nothing to say. Not for ever: a socket without any limit would
be read and written in turn, instead of both at once."""


class Channels:
    """An open WebSocket. One thread reads; others may write."""

    def __init__(self, opened: Any, broken: str) -> None:
        """`broken` says in an error what has broken, and what follows from that."""
        self._opened = opened
        self._broken_text = broken
        self._unanswered = 0
        self._answers_pings = False
        self._sending = threading.Lock()
        self.ended = False
        """The other side has closed it."""

    def waits(self, timeout_s: float) -> bool:
        """Whether something comes within this time. Raises UnreachableError after it broke."""
        # What TLS has decrypted already is not seen by select. In TLS within that of a proxy, the
        # socket of urllib3 keeps it in `sslobj`.
        socket = self._opened.sock
        if socket is None:
            raise self.broken(None)
        holds = getattr(socket, "pending", None) or getattr(
            getattr(socket, "sslobj", None), "pending", None
        )
        if holds is not None and holds():
            return True
        return bool(select.select([socket], [], [], timeout_s)[0])

    def receive(self, timeout_s: float) -> tuple[int, bytes] | None:
        """The next message: its channel and what it holds; None for one without either.

        Raises UnreachableError; TimeoutError after `timeout_s`.
        """
        import websocket

        try:
            self._opened.settimeout(timeout_s)
            kind, frame = self._opened.recv_data_frame(True)
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None
        except Exception as error:  # of websocket, ssl, sockets
            raise self.broken(error) from None
        self._unanswered = 0
        if kind == websocket.ABNF.OPCODE_CLOSE:
            self.ended = True
        elif kind == websocket.ABNF.OPCODE_PONG:
            self._answers_pings = True
        elif frame.data:
            return frame.data[0], frame.data[1:]
        return None

    def write(self, channel: int, data: bytes) -> None:
        """Raises UnreachableError."""
        self.send(bytes([channel]) + data)

    def send(self, message: bytes) -> None:
        """Raises UnreachableError."""
        with self._sending:
            try:
                self._opened.send_binary(message)
            except Exception as error:
                raise self.broken(error) from None

    def ping(self) -> None:
        """Ask for a sign of life. Raises UnreachableError where there is none any more."""
        if self._answers_pings and self._unanswered > 1:
            raise self.broken(TimeoutError(f"silent for {self._unanswered * PING_S:.0f} s"))
        if not self._sending.acquire(blocking=False):
            return  # what the pod does not take yet
        self._unanswered += 1
        try:
            self._opened.ping()
        except Exception as error:
            raise self.broken(error) from None
        finally:
            self._sending.release()

    def close(self) -> None:
        socket = self._opened.sock
        with suppress(Exception):
            self._opened.close(timeout=1)
        # WebSocket leaves it open where the other side was first, or where TLS is in TLS.
        if socket is not None:
            socket.close()

    def broken(self, error: Exception | None) -> UnreachableError:
        """The error of a connection that broke."""
        why = f": {error}" if error is not None and str(error) else ""
        what, _, then = self._broken_text.partition("; ")
        return UnreachableError(f"{what}{why}{'; ' if then else ''}{then}")
