"""Strangers: they get nothing from a supervisor, and do not keep a job from its work.

Real connections to the port of a leader whose ranks are no processes.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from kij_train import pod
from kij_train.pod import contract, gang, peering
from kij_train.pod.gang import channel, messages
from kij_train.pod.gang import node as gang_node
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.node import Supervisor
from kij_train.pod.peering import MOST_GREETING, Wire, encode

from tests.unit.test_gang_election import Stub, free_ports, starts

KEY = "5d1c8a1e-6c1f-4b0e-8f57-0d5a4b8f1d3e"
STRANGER = Who(1, "uid-x", "127.0.0.1", "job-1-x", "node-x")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PROVE_S", 0.5)
    monkeypatch.setattr(peering, "SAY_AGAIN_S", 0.0)
    monkeypatch.setattr(gang_node, "OTHER_LEADERS_S", 0.2)
    monkeypatch.setenv(contract.ENV_PARENT_PID, "1")  # no port of its own for a probe
    monkeypatch.setenv(gang.ENV_GANG_ID, KEY)


def node(index: int, ports: list[int], scratch: Path) -> Supervisor:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    settings = gang.Settings(2, 2, 0, addresses, max_restarts=1, backoff_limit=1)
    role = contract.Node(index, 2, 1, "127.0.0.1", 1, 600, index)
    return Supervisor(role, settings, Stub(), str(scratch))


@contextlib.asynccontextmanager
async def leading(ports: list[int], scratch: Path) -> AsyncIterator[Supervisor]:
    """Index 0, which leads and waits for index 1."""
    made = node(0, ports, scratch)
    running = asyncio.ensure_future(made.run())
    try:
        while made.leader is None:
            await asyncio.sleep(0.01)
        yield made
    finally:
        made._on_signal(signal.SIGTERM)
        await running


async def trains(leads: Supervisor, ports: list[int], scratch: Path) -> None:
    """Index 1 comes, and both are told to train."""
    other = node(1, ports, scratch)
    running = asyncio.ensure_future(other.run())
    try:
        await asyncio.wait_for(asyncio.gather(starts(leads), starts(other)), 60)
    finally:
        other._on_signal(signal.SIGTERM)
        await running


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def says_nothing(_: Streams) -> None:
    """Until it is closed."""


async def sends_garbage(streams: Streams) -> None:
    streams[1].write(b"GET / HTTP/1.1\r\nHost: job\r\n\r\n")


async def sends_half_a_frame(streams: Streams) -> None:
    streams[1].write(encode({"nonce": "00"})[:-3])
    streams[1].write_eof()


async def promises_a_gigabyte(streams: Streams) -> None:
    streams[1].write(struct.pack(">II", 1 << 30, 1 << 30))


async def speaks_as_before(streams: Streams) -> None:
    """The messages, with the right uid, and without a proof."""
    hello = {"type": "Hello", "gang": KEY, "who": STRANGER._asdict(), "history": None}
    streams[1].write(json.dumps(hello).encode() + b"\n")


async def has_another_key(streams: Streams) -> None:
    await streams[1].drain()
    wire = Wire(*streams)
    await wire.send({"nonce": "ab"})
    await wire.receive(5)
    await wire.send({"proof": "00" * 32})
    streams[1].write(messages.encode(messages.Hello(STRANGER, History())))


async def nests_json_deeply(streams: Streams) -> None:
    text = b"[" * (MOST_GREETING - 1)
    streams[1].write(struct.pack(">II", len(text), 0) + text)


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (says_nothing, "nothing came for"),
        (sends_garbage, "a frame of"),
        (sends_half_a_frame, "the connection was closed"),
        (promises_a_gigabyte, "a frame of 2147483648 bytes"),
        (speaks_as_before, "a frame of"),
        (has_another_key, "it does not have the key of this job"),
        (nests_json_deeply, "a frame without a header of JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_stranger_is_closed_counted_and_named_and_the_job_trains(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    attempt: Callable[[Streams], Awaitable[None]],
    said: str,
) -> None:
    async def whole() -> None:
        ports = free_ports(2)
        async with leading(ports, tmp_path) as leads:
            streams = await asyncio.open_connection("127.0.0.1", ports[0])
            await attempt(streams)
            heard = await asyncio.wait_for(streams[0].read(), 30)  # until it is closed
            assert b"Leading" not in heard and b"Looking" not in heard
            streams[1].close()
            assert leads.leader is not None
            assert list(leads.leader.members) == [leads.me.uid]
            await trains(leads, ports, tmp_path)

    asyncio.run(whole())
    err = capsys.readouterr().err
    assert f"refused a connection from 127.0.0.1: {said}" in err
    assert KEY not in err


def test_what_was_recorded_does_not_serve_a_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that a member has sent, sent again: the leader's challenge is another one by then."""

    async def whole() -> None:
        ports = free_ports(2)
        async with leading(ports, tmp_path) as leads:
            sent: list[bytes] = []
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            write = writer.write

            def recorded(data: bytes) -> None:
                sent.append(data)
                write(data)

            writer.write = recorded  # type: ignore[method-assign,assignment]
            await Wire(reader, writer).greet(KEY.encode(), 5)
            writer.write(messages.encode(messages.Hello(STRANGER, None)))
            assert b"Leading" in await reader.readline()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.write(b"".join(sent))
            assert b"Leading" not in await asyncio.wait_for(reader.read(), 30)
            writer.close()
            await trains(leads, ports, tmp_path)

    asyncio.run(whole())
    assert "it does not have the key of this job" in capsys.readouterr().err


def test_a_thousand_silent_connections_do_not_keep_a_leader_from_leading(tmp_path: Path) -> None:
    async def whole() -> int:
        ports = free_ports(2)
        async with leading(ports, tmp_path) as leads:
            with contextlib.ExitStack() as held:
                for _ in range(1000):
                    connection = socket.socket()
                    connection.setblocking(False)
                    held.enter_context(connection)
                    with contextlib.suppress(BlockingIOError):
                        connection.connect(("127.0.0.1", ports[0]))
                    await asyncio.sleep(0)
                await trains(leads, ports, tmp_path)
                return len(leads.door.unproved)

    assert asyncio.run(whole()) <= peering.MOST_UNPROVED


def test_who_connects_and_says_nothing_as_a_probe_does_is_no_stranger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def whole() -> None:
        ports = free_ports(2)
        async with leading(ports, tmp_path) as leads:
            _, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.close()
            await trains(leads, ports, tmp_path)

    asyncio.run(whole())
    assert "refused a connection" not in capsys.readouterr().err


def test_a_server_that_is_none_of_this_job_is_not_spoken_to(tmp_path: Path) -> None:
    """The address of a lost pod may by now be that of a pod of another job."""

    async def whole() -> None:
        ports = free_ports(2)
        async with leading(ports, tmp_path):
            assert await channel.connect(("127.0.0.1", ports[0]), b"another key", 5) is None
            ours = await channel.connect(("127.0.0.1", ports[0]), KEY.encode(), 5)
            assert ours is not None
            ours.close()

    asyncio.run(whole())


DANGEROUS_MODULES = {"pickle", "marshal", "shelve", "multiprocessing", "xmlrpc", "code", "codeop"}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__"}
RUNS_THE_SCRIPT = {"mainprogram.py"}
"""Whose work it is to execute code: the user's, from a file."""


def test_nothing_that_runs_in_pods_unpickles_or_evaluates() -> None:
    root = Path(pod.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module).partition(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if path.name not in RUNS_THE_SCRIPT else []
            dangerous = DANGEROUS_CALLS if isinstance(node, ast.Call) else DANGEROUS_MODULES
            found += [f"{path.name}: {name}" for name in names if name in dangerous]
    assert found == []
