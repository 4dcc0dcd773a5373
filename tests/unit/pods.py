"""What the API server's WebSockets do, without pods: processes and ports of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit.test_client import Answer, Handler
from tests.unit.test_job_commands import OneJob


class Peer:
    """The server's side of a WebSocket: whole binary messages (RFC 6455)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()

    def read(self) -> bytes | None:
        """The next binary message; None where the client has left."""
        while True:
            head = self._reader.read(2)
            if len(head) < 2:
                return None
            length = head[1] & 127
            if length > 125:
                length = int.from_bytes(self._reader.read(2 if length == 126 else 8), "big")
            mask = self._reader.read(4)
            data = self._reader.read(length)
            pad = mask * (len(data) // 4 + 1)
            plain = int.from_bytes(data, "big") ^ int.from_bytes(pad[: len(data)], "big")
            if head[0] & 15 == 2:
                return plain.to_bytes(len(data), "big")
            if head[0] & 15 == 8:
                return None

    def write(self, channel: int, data: bytes) -> None:
        self._send(0x82, bytes([channel]) + data)

    def end(self) -> None:
        with suppress(OSError):
            self._send(0x88, b"\x03\xe8")

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        long = bytes([126]) + size.to_bytes(2, "big")
        if size > 65535:
            long = bytes([127]) + size.to_bytes(8, "big")
        with self._lock:
            self.connection.sendall(bytes([kind]) + (bytes([size]) if size < 126 else long) + data)


class PodHandler(Handler):
    server: OnePod

    def do_GET(self) -> None:  # noqa: N802 - a name of http.server
        if self.headers.get("Upgrade") != "websocket":
            self.answer()
            return
        url = urlsplit(self.path)
        self.server.opened.append(self.path)
        *_, pod, sub = url.path.split("/")
        status, content = self.server.upgrade(pod)
        if status != 101:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        is_exec = sub == "exec"
        spoken = "v5.channel.k8s.io" if is_exec else "v4.channel.k8s.io"
        self.send_header("Sec-WebSocket-Protocol", spoken)
        self.end_headers()
        self.wfile.flush()
        peer = Peer(self.connection)
        query = parse_qs(url.query)
        if is_exec:
            self.server.execute(peer, query["command"])
        else:
            self.server.lead(peer, pod, int(query["ports"][0]))
        peer.end()
        self.close_connection = True


class OnePod(OneJob):
    """The job of a situation. Its pods' ports are those of `ports`; exec runs the command here."""

    def __init__(self, situation: str = "running") -> None:
        super().__init__(situation)
        self.RequestHandlerClass = PodHandler
        self.ports: dict[str, int] = {}
        """Pod → port of this machine that all of its ports lead to; 0: nothing listens."""
        self.refuses: Answer | None = None
        self.opened: list[str] = []
        self.cut_after: int | None = None
        """Bytes of a command's input or output after which its connection breaks."""
        self.when_cut: Callable[[], None] = lambda: None
        self.pause_after: int | None = None
        """Bytes of a command's output after which no more comes until `resumed`."""
        self.resumed = threading.Event()
        self.fails: dict[str, Any] | None = None
        """What is said of every command, instead of running it."""
        self.environment: dict[str, str] = {}
        self._stale = threading.Event()

    def upgrade(self, pod: str) -> Answer:
        """101, or why not."""
        there = {each["metadata"]["name"] for each in self.items["pods"]}
        if self.refuses is not None:
            return self.refuses
        return (101, b"") if pod in there else (404, b'{"message": "pod not found"}')

    def replace_pod(self, name: str) -> None:
        """The newest pod of the job goes, and another one comes; watches hear of it."""
        (old,) = self.items["pods"]
        new = json.loads(json.dumps(old))
        new["metadata"] |= {"name": name, "uid": name}
        self.items["pods"] = [new]
        self._stale.set()

    def end(self) -> None:
        """The job has succeeded."""
        self.job["status"] = {
            "succeeded": 1,
            "completedIndexes": "0",
            "conditions": [{"type": "Complete", "status": "True"}],
        }
        self.items["pods"] = []
        self._stale.set()

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if "watch=true" in path and self._stale.is_set():
            gone = {"type": "ERROR", "object": {"message": "too old"}}
            return 200, json.dumps(gone).encode()
        return super()._answer(method, path, body)

    def lead(self, peer: Peer, pod: str, port: int) -> None:
        """As portforward/websocket.go of k8s.io/cri-streaming does."""
        for channel in (0, 1):
            peer.write(channel, port.to_bytes(2, "little"))
        try:
            there = socket.create_connection(("127.0.0.1", self.ports[pod]))
        except OSError:
            why = f'failed to connect to localhost:{port} inside namespace "x": connection refused'
            peer.write(1, f"error forwarding port {port} to pod x, uid y: {why}".encode())
            return

        def fetch() -> None:
            with suppress(OSError):
                while data := there.recv(2**15):
                    peer.write(0, data)
            peer.end()

        with there:
            fetching = threading.Thread(target=fetch, daemon=True)
            fetching.start()
            with suppress(OSError):
                while message := peer.read():
                    assert message[0] == 0
                    there.sendall(message[1:])
            with suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)
            fetching.join()

    def execute(self, peer: Peer, command: list[str]) -> None:
        """As a kubelet, in the folder of the test."""
        if self.fails is not None:
            peer.write(3, json.dumps(self.fails).encode())
            return
        process = subprocess.Popen(
            [sys.executable if command[0] == "python3" else command[0], *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **self.environment},
        )
        fetching = [
            threading.Thread(target=self._fetch, args=(peer, channel, pipe), daemon=True)
            for channel, pipe in ((1, process.stdout), (2, process.stderr))
        ]
        feeding = threading.Thread(target=self._feed, args=(peer, process.stdin), daemon=True)
        for thread in (*fetching, feeding):
            thread.start()
        code = process.wait()
        for thread in fetching:
            thread.join()
        said: dict[str, Any] = {"status": "Success"}
        if code:
            cause = {"reason": "ExitCode", "message": str(code)}
            said = {"status": "Failure", "details": {"causes": [cause]}}
        with suppress(OSError):
            peer.write(3, json.dumps(said).encode())

    def _fetch(self, peer: Peer, channel: int, pipe: Any) -> None:
        sent = 0
        with suppress(OSError), pipe:
            while data := os.read(pipe.fileno(), 2**15):
                sent += len(data)
                if self.pause_after is not None and sent > self.pause_after:
                    self.resumed.wait()
                self._count(peer, data)
                peer.write(channel, data)

    def _feed(self, peer: Peer, pipe: Any) -> None:
        with suppress(OSError), pipe:
            while message := peer.read():
                if message == b"\xff\x00":
                    return
                assert message[0] == 0
                self._count(peer, message)
                pipe.write(message[1:])
                pipe.flush()

    def _count(self, peer: Peer, data: bytes) -> None:
        """Break the connection, once, after as many bytes as `cut_after` says."""
        if self.cut_after is None:
            return
        self.cut_after -= len(data)
        if self.cut_after < 0:
            self.cut_after = None
            self.when_cut()
            peer.connection.shutdown(socket.SHUT_RDWR)
            raise OSError("cut")
