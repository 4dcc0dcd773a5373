"""Whether a pod is cut off."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from kij_train.pod.gang import network


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "LOOK_S", 0.01)
    monkeypatch.setattr(network, "ALONE_S", 0.1)
    monkeypatch.setattr(network, "PROBE_S", 0.2)
    monkeypatch.setattr(network, "RESOLV_CONF", "/nonexistent")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def dns(monkeypatch: pytest.MonkeyPatch, error: OSError | None, after_s: float = 0.0) -> None:
    async def answer() -> list[Any]:
        await asyncio.sleep(after_s)
        if error is not None:
            raise error
        return []

    def getaddrinfo(*_: object, **__: object) -> asyncio.Future[list[Any]]:
        return asyncio.ensure_future(answer())  # a coroutine that nobody awaits would warn

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


NO_ANSWER = socket.gaierror(socket.EAI_AGAIN, "")


@pytest.mark.parametrize(
    ("error", "after_s", "there"),
    [
        (None, 0.0, True),
        (socket.gaierror(socket.EAI_NONAME, "a pod that is gone"), 0.0, True),
        (socket.gaierror(-5, "EAI_NODATA: a Service that has no pod left"), 0.0, True),
        (NO_ANSWER, 0.0, False),
        (None, 5.0, False),
    ],
)
def test_any_answer_of_dns_is_a_network(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, after_s: float, there: bool
) -> None:
    dns(monkeypatch, error, after_s)
    assert asyncio.run(network.has_network("job-1.job")) is there


@pytest.mark.parametrize("listens", [True, False])
def test_where_dns_is_down_the_api_server_tells(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    dns(monkeypatch, NO_ANSWER)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.getsockname()[1]))
        if not listens:
            server.close()  # refused: somebody has answered
        assert asyncio.run(network.has_network("job-1.job"))


def test_where_dns_is_silent_its_machine_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dns(monkeypatch, NO_ANSWER)
    config = tmp_path / "resolv.conf"
    config.write_text("search a\nnameserver 127.0.0.1\nnameserver\n")
    monkeypatch.setattr(network, "RESOLV_CONF", str(config))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(network, "DNS_PORT", server.getsockname()[1])
        assert asyncio.run(network.has_network("job-1.job"))


def test_who_hears_of_nobody_and_has_no_network_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    dns(monkeypatch, NO_ANSWER)
    seconds = asyncio.run(network.await_cut_off(lambda: False, "job-1.job"))
    assert 0.1 < seconds < 2


@pytest.mark.parametrize(("connected", "error"), [(True, NO_ANSWER), (False, None)])
def test_others_or_a_network_are_enough(
    monkeypatch: pytest.MonkeyPatch, connected: bool, error: OSError | None
) -> None:
    dns(monkeypatch, error)

    async def a_while() -> None:
        await asyncio.wait_for(network.await_cut_off(lambda: connected, "job-1.job"), 0.5)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(a_while())
