"""A connection to a port of a pod, over a WebSocket of the API server (pods/portforward).

Of each port there are two channels, its data and its errors, and each begins with the port's number
in two bytes (k8s.io/cri-streaming, portforward/websocket.go). Every connection has a WebSocket of
its own: a second one to the same port has no channel. A side that has nothing more to send cannot
say so: only both sides end together.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from kij_train.cluster.channels import LONG_S, PING_S, Channels
from kij_train.cluster.client import Cluster
from kij_train.errors import KijError

DATA, ERROR = 0, 1
PORT_BYTES = 2
CHUNK_BYTES = 2**16
SILENT_S = 30.0
"""How long the pod may be silent when the program here has sent its last byte."""


class Tunnel(Channels):
    """A connection to a port of a pod."""

    def __init__(self, pod: str, opened: Any) -> None:
        super().__init__(opened, f"the connection to pod {pod} broke")
        self._to_skip = {DATA: PORT_BYTES, ERROR: PORT_BYTES}
        self._error = b""
        self.has_spoken = False
        """Something has come from what listens there."""

    @classmethod
    def open(cls, cluster: Cluster, pod: str, port: int) -> Tunnel:
        """Whether something listens there is told later. Raises as `Cluster.websocket` does."""
        return cls(pod, cluster.websocket("Pod", pod, "portforward", [("ports", str(port))]))

    @property
    def error(self) -> str:
        """Why the pod's side has ended, in the words of its machine; empty where it just did."""
        return self._error.decode("utf-8", "replace")

    def read(self) -> bytes:
        """What the pod sends, which may be nothing. Raises UnreachableError."""
        channel, data = self.receive(LONG_S) or (DATA, b"")
        if channel not in self._to_skip:
            return b""
        skipped = min(self._to_skip[channel], len(data))
        self._to_skip[channel] -= skipped
        data = data[skipped:]
        if channel == ERROR:
            self._error += data
            return b""
        self.has_spoken = self.has_spoken or bool(data)
        return data

    def join(self, here: socket.socket) -> None:
        """Pass bytes on both ways until either side ends. Raises UnreachableError."""
        has_ended = threading.Event()
        sending = threading.Thread(target=self._send_all, args=(here, has_ended), daemon=True)
        sending.start()
        try:
            self._fetch_all(here, has_ended)
        finally:
            with suppress(OSError):  # wakes the thread up
                here.shutdown(socket.SHUT_RDWR)
            self.close()
            sending.join()

    def _fetch_all(self, here: socket.socket, has_ended: threading.Event) -> None:
        while not self.ended:
            if not self.waits(SILENT_S if has_ended.is_set() else PING_S):
                if has_ended.is_set():
                    return
                self.ping()
                continue
            data = self.read()
            try:
                here.sendall(data)
            except OSError:
                return  # the program here has left

    def _send_all(self, here: socket.socket, has_ended: threading.Event) -> None:
        """A broken connection is reported by whoever reads from it."""
        with suppress(KijError, OSError):
            while data := here.recv(CHUNK_BYTES):
                self.write(DATA, data)
        has_ended.set()
