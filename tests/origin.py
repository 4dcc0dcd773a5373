"""An HTTP origin that remembers who has read what, and does ill when it is told to."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """What somebody has asked for."""

    client: str
    path: str
    first: int
    """Number of the first byte."""
    authorization: str | None
    sent: int = 0
    at: float = field(default_factory=time.time)
    """When, in seconds since the epoch: pods on this machine have the same clock."""


@dataclass
class Answer:
    """Instead of the file, once."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


class Origin(http.server.ThreadingHTTPServer):
    """Gives `data` at every path."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, data: bytes, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.data = data
        self.requests: list[Request] = []
        self.heads = 0
        """Requests for the length alone."""
        self.answers: list[Answer] = []
        """What the next requests get, in order."""
        self.cut_after: list[int] = []
        """After how many bytes the connections of the next ones are closed."""
        self.bytes_s = float("inf")
        """Of all that is sent, together."""
        self.ranges = self.lengths = self.etags = True
        self._free_at, self._lock = 0.0, threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def sent(self) -> int:
        """Bytes of files, in all."""
        return sum(request.sent for request in self.requests)

    @property
    def readers(self) -> set[str]:
        return {request.client for request in self.requests}

    def pace(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self.bytes_s
            at = self._free_at
        time.sleep(max(0.0, at - time.monotonic()))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Origin

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.heads += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()

    def do_GET(self) -> None:
        origin, data = self.server, self.server.data
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(found[1]) if found and origin.ranges else 0
        authorization = self.headers.get("Authorization")
        request = Request(self.client_address[0], self.path, first, authorization)
        origin.requests.append(request)
        if origin.answers:
            answer = origin.answers.pop(0)
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        cut = origin.cut_after.pop(0) if origin.cut_after else len(data)
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if origin.lengths:
            self.send_header("Content-Length", str(len(data) - first))
        if origin.etags:
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        self.end_headers()
        try:
            for at in range(first, min(len(data), first + cut), 1 << 18):
                part = data[at : min(at + (1 << 18), first + cut)]
                origin.pace(len(part))
                self.wfile.write(part)
                request.sent += len(part)
        except OSError:
            pass  # whoever reads is gone


@contextmanager
def running(data: bytes, host: str = "127.0.0.1") -> Iterator[Origin]:
    """An origin that listens."""
    with Origin(data, host) as origin:
        thread = threading.Thread(target=origin.serve_forever, daemon=True)
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join()
