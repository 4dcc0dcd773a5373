"""Requests against a small server of our own: timeouts, conflicts, and answers of other servers."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from kij_train.cluster import client, watch
from kij_train.cluster.client import Cluster
from kij_train.cluster.connection import Connection
from kij_train.errors import UnreachableError

Answer = tuple[int, bytes]


class NoCredentials:
    """Stands for kubernetes.client.Configuration."""

    def auth_settings(self) -> dict[str, Any]:
        return {}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `answer` says."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        status, content = self.server.answer(self.command, self.path, body)  # type: ignore[attr-defined] # ApiServer's
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Quiet."""


class ApiServer(http.server.ThreadingHTTPServer):
    """An API server that says what a test wants."""

    daemon_threads = True
    answer: Callable[[str, str, dict[str, Any]], Answer]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave early are what some tests are about."""

    def cluster(self) -> Cluster:
        host = f"http://127.0.0.1:{self.server_port}"
        return Cluster(Connection(host, urllib3.PoolManager(), NoCredentials(), "ns"), "ns")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


def test_an_answer_may_take_longer_than_a_connection(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.2)

    def late(*_: object) -> Answer:
        time.sleep(0.6)
        return 200, b'{"kind": "Job"}'

    server.answer = late
    cluster = server.cluster()
    assert cluster.get("Job", "a") == {"kind": "Job"}
    cluster.close()


def test_a_quiet_watch_ends_by_itself_before_it_is_taken_for_dead() -> None:
    assert watch.WATCH_S < client.READ_TIMEOUT_S


def test_a_server_that_takes_the_connection_and_is_silent_is_given_up(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)

    def silent(*_: object) -> Answer:
        time.sleep(1.5)
        return 200, b"{}"

    server.answer = silent
    cluster = server.cluster()
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"does not answer: .*timed out"):
        cluster.create({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "a"}})
    assert time.monotonic() - started < 1.2
    cluster.close()


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"", b"[]", b"\xff"])
def test_a_page_of_a_login_proxy_is_said_to_be_no_kubernetes(
    server: ApiServer, content: bytes
) -> None:
    server.answer = lambda *_: (200, content)
    cluster = server.cluster()
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        cluster.get("Job", "a")
    if content:
        with pytest.raises(UnreachableError, match="like a Kubernetes"):
            dict(next(cluster.watch("Job")))
    cluster.close()
