"""Real supervisors in one process, over TCP, beside a node that is there and says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kij_train.pod import contract, gang, status
from kij_train.pod.gang import channel, farewell, messages, network, peers, processes, ranks
from kij_train.pod.gang import node as gang_node
from kij_train.pod.gang.channel import Channel, connect
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.leader import Leader
from kij_train.pod.gang.node import Supervisor
from kij_train.pod.gang.rounds import Member
from kij_train.pod.peering import Wire

ANSWER_S = 1.0


class Stub(ranks.Zygote):
    """Ranks that are no processes, and write down when they are told to start."""

    def __init__(self) -> None:
        self.ready, self.broken, self.running = True, "", False
        self.started: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def serve(self, on_change: Callable[[], None], on_end: Callable[[int], None]) -> None:
        await asyncio.Event().wait()

    def start(self, order: messages.Run) -> None:
        self.started.set_result(time.monotonic())


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The kernel accepts connections there; nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ANSWER_S", ANSWER_S)
    monkeypatch.setattr(channel, "PROVE_S", ANSWER_S)
    monkeypatch.setattr(gang_node, "OTHER_LEADERS_S", 0.2)
    monkeypatch.setenv(contract.ENV_PARENT_PID, "1")  # no port of its own for a probe


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def node(
    index: int, ports: list[int], scratch: Path, rounds: int, host: str = "127.0.0.1"
) -> Supervisor:
    addresses = [f"{host}:{port}" for port in ports]
    settings = gang.Settings(2, 2, 1, addresses, max_restarts=1, backoff_limit=1)
    node = contract.Node(index, 3, 1, "127.0.0.1", 1, 600, index)
    made = Supervisor(node, settings, Stub(), str(scratch))
    made.history.rounds = rounds
    made.peers.ips = dict.fromkeys(range(3), "127.0.0.1") if rounds else {}
    return made


def starts(node: Supervisor) -> asyncio.Future[float]:
    """When its ranks are told to start."""
    assert isinstance(node.zygote, Stub)
    return node.zygote.started


async def start(nodes: list[Supervisor], apart_s: float) -> float:
    """Seconds from the last node's start until it is told to train."""
    running = []
    try:
        for each in nodes:
            began = time.monotonic()
            running.append(asyncio.ensure_future(each.run()))
            await asyncio.sleep(apart_s)
        return max(await asyncio.wait_for(asyncio.gather(*map(starts, nodes)), 20)) - began
    finally:
        for each in nodes:
            each._on_signal(signal.SIGTERM)
        await asyncio.gather(*running)


def test_a_leader_that_is_silent_is_asked_once(silent_port: int, tmp_path: Path) -> None:
    async def whole() -> float:
        ports = [silent_port, *free_ports(2)]
        return await start([node(index, ports, tmp_path, 1) for index in (1, 2)], 0.0)

    assert asyncio.run(whole()) < 3 * ANSWER_S


def test_where_the_lost_leader_was_nobody_is_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The address of a pod that is gone answers nothing, not even that nobody listens."""
    connect = asyncio.open_connection

    async def unless_gone(host: str, port: int, **more: Any) -> Any:
        if host == "10.0.0.1":
            await asyncio.Event().wait()
        return await connect(host, port, **more)

    monkeypatch.setattr(asyncio, "open_connection", unless_gone)
    monkeypatch.setattr(peers, "CONNECT_S", 25.0)  # `start` waits for 20 s

    async def whole() -> float:
        nodes = [node(index, free_ports(3), tmp_path, 1) for index in (1, 2)]
        for each in nodes:
            each.settings.peers[:] = nodes[0].settings.peers
            each.settings.peers[0] = "10.0.0.1:29502"
            each.peers.ips[0] = each.peers.lost = "10.0.0.1"
        return await start(nodes, 0.0)

    assert asyncio.run(whole()) < peers.CONNECT_S


def test_two_that_lead_find_each_other_without_dns(tmp_path: Path) -> None:
    """Index 2 was there when index 1 had an address; index 1 knows nobody's."""

    async def whole() -> float:
        nodes = [node(index, free_ports(3), tmp_path, 1) for index in (2, 1)]
        for each in nodes:
            ports = [nodes[0].settings.address(index)[1] for index in range(3)]
            each.settings.peers[:] = [f"nowhere.invalid:{port}" for port in ports]
        nodes[1].peers.ips = {}
        return await start(nodes, 1.5)

    assert asyncio.run(whole()) < 20


def test_a_round_does_not_wait_for_a_look_at_a_silent_node(
    silent_port: int, tmp_path: Path
) -> None:
    """Index 0 looks for other leaders all the time when index 1 comes."""

    async def whole() -> float:
        ports = [*free_ports(2), silent_port]
        return await start([node(index, ports, tmp_path, 0) for index in (0, 1)], 1.6 * ANSWER_S)

    assert asyncio.run(whole()) < 0.6 * ANSWER_S


def test_nobody_waits_for_a_node_whose_ranks_take_long_to_end(tmp_path: Path) -> None:
    """Index 0 saves a checkpoint, or hangs in the kernel."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.encode(messages.Ending()))
        await writer.drain()
        writer.close()

    async def whole() -> float:
        ports = free_ports(3)
        async with await asyncio.start_server(answer, "127.0.0.1", ports[0]):
            return await start([node(index, ports, tmp_path, 1) for index in (1, 2)], 0.0)

    assert asyncio.run(whole()) < 3 * ANSWER_S


def test_a_node_says_that_its_ranks_take_long_to_end(tmp_path: Path) -> None:
    async def whole() -> list[bool]:
        made = node(0, free_ports(3), tmp_path, 1)
        made.zygote.running = True
        made._alone_since = time.monotonic()
        said = [made._cannot_lead()]
        made._alone_since -= gang_node.ENDING_S
        said.append(made._cannot_lead())
        made.zygote.running = False
        return [*said, made._cannot_lead()]

    assert asyncio.run(whole()) == [False, True, False]


def test_a_node_that_has_not_heard_that_all_is_done_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its connection broke at the end: it asks again, or a pod in its place does."""
    monkeypatch.setenv(contract.ENV_ERROR_FILE, str(tmp_path / "record"))

    async def whole() -> list[int]:
        ports = free_ports(3)
        first, second = (node(index, ports, tmp_path, 0) for index in (0, 1))
        leads, follows = (asyncio.ensure_future(each.run()) for each in (first, second))
        await asyncio.wait_for(asyncio.gather(*map(starts, (first, second))), 20)
        assert first.leader is not None
        second.part.ended(0)
        first.part.ended(0)
        first.leader.take(first.leader.members[second.me.uid], messages.RanksEnded(0, 1, {}))
        follows.cancel()
        await asyncio.wait([leads], timeout=1)
        assert first.verdict is not None and not leads.done()
        again = node(1, ports, tmp_path, 0)
        return list(await asyncio.wait_for(asyncio.gather(leads, again.run()), 20))

    assert asyncio.run(whole()) == [0, 0]


def test_a_node_whose_ranks_have_ended_is_not_done_before_the_leader_says_so(
    tmp_path: Path,
) -> None:
    """torchrun ends well without the others where rank 0 is lost while it is saving."""

    async def whole() -> bool:
        ports = free_ports(3)
        first, second = (node(index, ports, tmp_path, 0) for index in (0, 1))
        leads, follows = (asyncio.ensure_future(each.run()) for each in (first, second))
        await asyncio.wait_for(asyncio.gather(*map(starts, (first, second))), 20)
        second.part.ended(0)
        leads.cancel()
        await asyncio.wait([leads, follows], timeout=1)
        looks = second.up is None and second.verdict is None and not follows.done()
        second._on_signal(signal.SIGTERM)
        await follows
        return looks

    assert asyncio.run(whole())


def test_a_leader_is_connected_while_it_leads_all_others(tmp_path: Path) -> None:
    """Those that it misses may have been made again elsewhere."""

    async def whole() -> list[bool]:
        made = node(1, free_ports(3), tmp_path, 1)
        made.leader = leader = Leader(made.settings, made.history, 600, say=lambda _: None)
        found = []
        for index in range(3):
            who = Who(index, f"uid-{index}", "127.0.0.1", "pod", "machine")
            leader.join(Member(who, lambda _: None, 0.0, lambda: None), made.history)
            found.append(made._is_connected())
        return found

    assert asyncio.run(whole()) == [False, False, True]


def test_a_node_that_is_cut_off_ends_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Index 1 was in a round, and reaches nobody any more, nor DNS, nor the API server."""
    record = tmp_path / "record"
    monkeypatch.setenv(contract.ENV_ERROR_FILE, str(record))
    monkeypatch.setattr(network, "LOOK_S", 0.05)
    monkeypatch.setattr(network, "ALONE_S", 0.2)
    monkeypatch.setattr(network, "has_network", lambda _: asyncio.sleep(0, False))

    async def whole() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(os, "_exit", ended.set_result)
        monkeypatch.setattr(processes, "kill_descendants", lambda: None)  # those of the tests
        made = node(1, free_ports(3), tmp_path, 1)
        running = asyncio.ensure_future(made.run())
        code = await asyncio.wait_for(ended, 20)
        made._on_signal(signal.SIGTERM)
        await running
        return code

    assert asyncio.run(whole()) == contract.EXIT_RENDEZVOUS
    said = json.loads(record.read_text())["message"]
    assert said["message"].startswith("cut off: other nodes, DNS and the API server were not")


@pytest.mark.parametrize("has_network", [True, False])
def test_a_leader_that_waits_says_who_fell_silent_unless_its_own_network_is_gone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    *,
    has_network: bool,
) -> None:
    """Index 1 joins index 0, and then sends nothing, not even that it ends."""
    asked: list[str] = []

    async def answer(peer: str) -> bool:
        asked.append(peer)
        return has_network

    monkeypatch.setattr(network, "has_network", answer)
    monkeypatch.setattr(network, "LOOK_S", 0.05)
    monkeypatch.setattr(Channel.receive, "__defaults__", (0.2,))

    async def whole() -> str:
        made = node(0, free_ports(3), tmp_path, 1)
        made.settings = made.settings._replace(shared=[])
        running = asyncio.ensure_future(made.run())
        said = ""
        while made.leader is None:
            await asyncio.sleep(0.02)
        joined = await connect(made.settings.address(0), made.key, 5)
        assert joined is not None
        who = Who(1, "uid-1", "127.0.0.1", "job-1-abc", "node-2")
        joined.send(messages.Hello(who, History()))
        try:
            while "nothing is heard" not in said and (has_network or len(asked) < 9):
                said += capsys.readouterr().err
                await asyncio.sleep(0.02)
        finally:
            joined.close()
            made._on_signal(signal.SIGTERM)
            await running
        return said

    said = asyncio.run(asyncio.wait_for(whole(), 30))
    unheard = [status.Unheard.read(line) for line in said.splitlines()]
    expected = [status.Unheard(1, "127.0.0.1", "node-2", True)] if has_network else []
    assert [each for each in unheard if each is not None] == expected


def test_nodes_with_addresses_of_ipv6_find_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the cluster writes them."""
    monkeypatch.setenv(gang.ENV_POD_IP, "0:0:0:0:0:0:0:1")

    async def whole() -> list[str]:
        ports = free_ports(3)
        nodes = [node(index, ports, tmp_path, 0, "[::1]") for index in (0, 1)]
        await start(nodes, 0.0)
        return [each.me.ip for each in nodes]

    assert asyncio.run(whole()) == ["::1", "::1"]


def test_one_that_comes_from_the_reserve_finds_the_leader_by_the_name_of_all_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No index of the start is left, and none of the reserve is asked for by its name."""
    asked: list[str] = []
    leader = Who(7, "uid-7", "127.0.0.2", "pod", "machine")

    async def resolve(host: str, port: int) -> list[str]:
        if host.startswith("127."):
            return [host]
        asked.append(host)
        return {"job": ["127.0.0.3", "127.0.0.2", "127.0.0.1"]}.get(host, [])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Wire(reader, writer).answer(b"key", 5)
        await reader.readline()
        writer.write(messages.encode(messages.Leading(leader, running=False)))
        await writer.drain()
        writer.close()

    async def whole() -> peers.Found:
        (port,) = free_ports(1)
        settings = gang.Settings(2, 2, 1, [f"job-{{}}.job:{port}"], 20, 20, reserve=20)
        me = Who(8, "uid-8", "127.0.0.1", "pod", "machine")
        monkeypatch.setattr(peers, "_resolve", resolve)
        made = peers.Peers(settings, me, b"key", lambda _: None)
        async with await asyncio.start_server(answer, "127.0.0.2", port):
            found = await asyncio.wait_for(made.look(History(), lambda: False), 20)
            assert found is not None
            found.channel.close()
            await asyncio.sleep(0.1)
            return found

    found = asyncio.run(whole())
    assert found.who == leader
    assert asked == ["job-0.job", "job-1.job", "job-2.job", "job"]


@pytest.mark.parametrize("lost", [[], [4]])
def test_whoever_stays_tells_the_end_to_all_that_the_job_makes_and_ends_with_them(
    lost: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index 2 is the highest that was there. One may be lost before it can ask."""
    monkeypatch.setattr(farewell, "LATE_S", 0.2)

    async def whole() -> bool:
        settings = gang.Settings(2, 2, 1, [], max_restarts=1, backoff_limit=5, reserve=5)
        told = farewell.Told(settings, asyncio.Event())
        waiting = asyncio.ensure_future(told.until_all(2, lambda: False))
        for index in (3, 4, 5):
            await asyncio.sleep(0.01)
            assert not waiting.done()
            if index not in lost:
                told.add(index)
        await asyncio.wait_for(waiting, 20)
        return True

    assert asyncio.run(whole())


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_pod_that_is_ended_before_the_verdict_leaves_why_its_own_rank_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failed_first: bool
) -> None:
    """A rank that ends because its pod is told to end has no failure of its own."""
    file = tmp_path / "record"
    monkeypatch.setenv(contract.ENV_ERROR_FILE, str(file))
    record = {"message": {"message": "OSError: full", "extraInfo": {}}, "kij": {"rank": 1}}

    async def whole() -> int:
        made = node(1, free_ports(3), tmp_path, 1)
        running = asyncio.ensure_future(made.run())
        await asyncio.sleep(0)
        steps: list[Callable[[], None]] = [
            lambda: made._report(messages.RanksEnded(1, 1, record)),
            lambda: made._on_signal(signal.SIGTERM),
        ]
        for step in steps if failed_first else reversed(steps):
            step()
        return await asyncio.wait_for(running, 20)

    assert asyncio.run(whole()) == 128 + signal.SIGTERM
    assert file.exists() is failed_first
    if failed_first:
        left = json.loads(file.read_text())
        assert left["message"]["message"] == "OSError: full"
        assert (left["kij"]["index"], left["kij"]["rank"]) == (1, 1)


def test_a_member_that_sends_garbage_is_dropped_and_the_log_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def whole() -> None:
        ports = free_ports(3)
        leads = node(0, ports, tmp_path, 0)
        running = asyncio.ensure_future(leads.run())
        while leads.leader is None:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
        await Wire(reader, writer).greet(leads.key, 5)
        who = Who(1, "uid-1", "127.0.0.1", "job-1", "machine-1")
        writer.write(messages.encode(messages.Hello(who, History())))
        assert isinstance(
            messages.decode(await reader.readline(), messages.ANSWERS), messages.Leading
        )
        writer.write(b'{"type": "Ready", "now": 1}\n')
        while await reader.readline():
            pass
        assert list(leads.leader.members) == [leads.me.uid]
        writer.close()
        leads._on_signal(signal.SIGTERM)
        await running

    asyncio.run(whole())
    said = "index 1 (pod job-1 on machine-1) sent a malformed message: Ready has no field 'now'"
    assert said in capsys.readouterr().err
