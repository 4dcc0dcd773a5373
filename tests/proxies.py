"""Small proxies that remember where they led: HTTP with CONNECT, and SOCKS 5."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import select
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


def relay(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until either side closes."""
    to = {one: other, other: one}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select(list(to), [], [])[0]:
                data = ready.recv(2**16)
                if not data:
                    return
                to[ready].sendall(data)


class HttpProxy(http.server.ThreadingHTTPServer):
    """CONNECT, and requests with a whole URL; `user` must log in, as "name:password"."""

    daemon_threads = True

    def __init__(self, user: str | None = None, leads_to: tuple[str, int] | None = None) -> None:
        """`leads_to` is where every way ends, whatever name was asked for."""
        super().__init__(("127.0.0.1", 0), _HttpProxyHandler)
        self.user = user
        self.leads_to = leads_to
        self.led_to: list[str] = []


class _HttpProxyHandler(http.server.BaseHTTPRequestHandler):
    server: HttpProxy

    def _may_pass(self) -> bool:
        if self.server.user is None:
            return True
        wanted = "Basic " + base64.b64encode(self.server.user.encode()).decode()
        if self.headers.get("Proxy-Authorization") == wanted:
            return True
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        self.server.led_to.append(self.path)
        host, _, port = self.path.rpartition(":")
        target = self.server.leads_to or (host.strip("[]"), int(port))
        with socket.create_connection(target) as server:
            self.send_response(200)
            self.end_headers()
            relay(self.connection, server)

    def do_GET(self) -> None:
        if not self._may_pass():
            return
        url = urlsplit(self.path)
        self.server.led_to.append(url.netloc)
        place = self.server.leads_to or (str(url.hostname), url.port or 80)
        connection = http.client.HTTPConnection(*place)
        connection.request("GET", f"{url.path}?{url.query}")
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class SocksProxy(socketserver.ThreadingTCPServer):
    """RFC 1928 and 1929: CONNECT, with a password where there is a user."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, user: str | None = None, leads_to: tuple[str, int] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _SocksHandler)
        self.server_port = self.server_address[1]
        self.user = user
        self.leads_to = leads_to
        self.led_to: list[str] = []


class _SocksHandler(socketserver.BaseRequestHandler):
    server: SocksProxy

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.request.recv(count - len(data))
            if not more:
                raise OSError("left")
            data += more
        return data

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self._serve()

    def _serve(self) -> None:
        self._read(self._read(2)[1])
        if self.server.user is None:
            self.request.sendall(b"\x05\x00")
        else:
            self.request.sendall(b"\x05\x02")
            name = self._read(self._read(2)[1])
            password = self._read(self._read(1)[0])
            right = f"{name.decode()}:{password.decode()}" == self.server.user
            self.request.sendall(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        kind = self._read(4)[3]
        if kind == 3:
            host = self._read(self._read(1)[0]).decode()
        else:
            packed = self._read(4 if kind == 1 else 16)
            host = socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, packed)
        (port,) = struct.unpack(">H", self._read(2))
        self.server.led_to.append(f"{host}:{port}")
        with socket.create_connection(self.server.leads_to or (host, port)) as server:
            self.request.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            relay(self.request, server)


@contextmanager
def running(server: Any, context: ssl.SSLContext | None = None) -> Iterator[Any]:
    """Serve in a thread, in TLS with a context."""
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
