"""Pods that spread something, as many in one process, over TCP; among them some that do ill."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from kij_train.pod import contract, peering
from kij_train.pod.contract import Failure
from kij_train.pod.peering import Json, Refused, Wire
from kij_train.pod.spread import exchange, follower, pulling, reader, server
from kij_train.pod.spread.chunks import File, Layout
from kij_train.pod.spread.exchange import Exchange
from kij_train.pod.spread.others import Settings
from kij_train.pod.spread.reader import Source

CHUNK = 1000
KEY = "the-uid-of-the-job"
PATIENCE_S = 120


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that end bad cases soon. Those that part good pods are long: machines stand still."""
    for module in (reader, follower, pulling):
        monkeypatch.setattr(module, "LOST_AFTER_S", 4.0)
        monkeypatch.setattr(module, "PING_S", 0.1)
    monkeypatch.setattr("kij_train.pod.spread.server.PING_S", 0.1)
    monkeypatch.setattr(pulling, "STARVED_S", 1.0)
    monkeypatch.setattr(pulling, "SLOW_WINDOW_S", 1.0)
    monkeypatch.setattr(pulling, "SLOW_BYTES_S", 2000)
    monkeypatch.setattr(exchange, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(exchange, "ASK_S", 10.0)
    monkeypatch.setattr(exchange, "TELL_END_S", 1.0)


@pytest.fixture
def no_wait_for_lower_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "FIRST_LOOK_S", 2.0)


class Origin(Source):
    """Something of many chunks, and who has read which of them."""

    def __init__(self, chunks: int = 20) -> None:
        self.data = bytes(number * 7 % 251 for number in range(chunks * CHUNK - 10))
        self.read: list[tuple[int, int]] = []
        self.stop_at: dict[int, int] = {}
        """Of a pod: the chunk before which its reading stands still."""
        self.failure: Failure | None = None
        self.version = "1"

    def of(self, pod: int) -> OfPod:
        return OfPod(self, pod)


class OfPod(Source):
    def __init__(self, origin: Origin, pod: int) -> None:
        self._origin, self._pod = origin, pod

    def open(self, folders: list[str], layout: Layout | None) -> Layout:
        if self._origin.failure:
            raise self._origin.failure
        size = len(self._origin.data)
        files = [File(0, "a", 10), File(0, "b/empty", 0), File(0, "b/c", size - 10, True)]
        return Layout(files, self._origin.version, CHUNK)

    def chunks(self, folders: list[str], layout: Layout, start: int) -> Iterator[bytes]:
        for number in range(start, layout.count):
            if self._origin.stop_at.get(self._pod) == number:
                return
            self._origin.read.append((self._pod, number))
            yield self._origin.data[number * CHUNK : (number + 1) * CHUNK]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


class Pods:
    """The pods of a job."""

    def __init__(self, folder: Path, origin: Origin, count: int, stays: bool = False) -> None:
        self.folder, self.origin, self.said = folder, origin, list[str]()
        self.peers = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.count, self.stays = count, stays
        self.done: set[int] = set()
        self.exchanges: dict[int, Exchange] = {}

    def start(self, pod: int, key: str = KEY) -> asyncio.Task[None]:
        def say(text: str) -> None:
            self.said.append(f"{pod}: {text}")

        settings = Settings(self.peers, self.count, self.stays, self.count, key, pod)
        self.exchanges[pod] = Exchange(
            "x", settings, self.origin.of(pod), [self.to(pod)], say, lambda: self.done.add(pod)
        )
        return asyncio.create_task(self.exchanges[pod].run())

    def to(self, pod: int) -> str:
        return str(self.folder / f"pod-{pod}")

    def has_all(self, pod: int) -> bool:
        to = Path(self.to(pod))
        whole = (to / "a").read_bytes() + (to / "b/c").read_bytes()
        assert (to / "b/empty").read_bytes() == b"" and (to / "b/c").stat().st_mode & 0o100
        return whole == self.origin.data

    async def until(self, holds: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not holds():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), PATIENCE_S)


async def all_of(*tasks: asyncio.Task[None]) -> None:
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)


async def killed(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


@pytest.mark.parametrize("order", [range(12), reversed(range(12))])
def test_all_pods_have_all_and_the_origin_is_read_once(tmp_path: Path, order: range) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 12)
        await all_of(*(pods.start(pod) for pod in order))
        assert all(pods.has_all(pod) for pod in range(12)) and len(pods.done) == 12
        assert sorted(number for _, number in pods.origin.read) == list(range(20))

    run(test)


def test_nothing_at_all_is_spread_too(tmp_path: Path) -> None:
    class Nothing(Source):
        def open(self, folders: list[str], layout: Layout | None) -> Layout:
            return Layout([File(0, "empty", 0)])

        def chunks(self, folders: list[str], layout: Layout, start: int) -> Iterator[bytes]:
            yield from ()

    async def test() -> None:
        origin = Origin()
        origin.of = lambda pod: Nothing()  # type: ignore[assignment,method-assign,return-value]
        pods = Pods(tmp_path, origin, 3)
        await all_of(*(pods.start(pod) for pod in range(3)))
        assert all((tmp_path / f"pod-{pod}/empty").exists() for pod in range(3))

    run(test)


@pytest.mark.usefixtures("no_wait_for_lower_indexes")
def test_without_index_0_the_lowest_index_that_is_there_reads(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 6, stays=True)
        tasks = [pods.start(pod) for pod in (5, 3, 4)]
        await pods.until(lambda: pods.done == {3, 4, 5})
        assert {pod for pod, _ in pods.origin.read} == {3}
        tasks += [pods.start(pod) for pod in (0, 1)]  # they come later, and read nothing
        await pods.until(lambda: pods.done == {0, 1, 3, 4, 5})
        assert pods.has_all(0) and len(pods.origin.read) == 20
        for task in tasks:
            await killed(task)

    run(test)


def test_a_reader_that_is_lost_is_followed_by_one_that_reads_on(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 6, stays=True)
        pods.origin.stop_at[0] = 12
        tasks = [pods.start(pod) for pod in range(6)]
        await pods.until(lambda: min(each.state.have for each in pods.exchanges.values()) == 12)
        await killed(tasks[0])
        await pods.until(lambda: pods.done == {1, 2, 3, 4, 5})
        assert all(pods.has_all(pod) for pod in range(1, 6))
        assert sorted(number for _, number in pods.origin.read) == list(range(20))
        again = pods.start(0)  # the pod that comes for it
        await pods.until(lambda: 0 in pods.done)
        assert pods.has_all(0) and len(pods.origin.read) == 20
        for task in (*tasks[1:], again):
            await killed(task)

    run(test)


def test_a_parent_that_is_lost_costs_no_byte_twice(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 7, stays=True)
        pods.origin.stop_at[0] = 10
        tasks = [pods.start(pod) for pod in range(7)]
        await pods.until(lambda: min(each.state.have for each in pods.exchanges.values()) == 10)
        await killed(tasks[1])
        later = pods.start(1)
        await pods.until(lambda: pods.exchanges[1].state.have == 10)
        assert max(number for _, number in pods.origin.read) == 9
        for task in (*tasks[2:], tasks[0], later):
            await killed(task)

    run(test)


def test_a_reader_whose_work_is_done_stays_for_those_that_still_copy(tmp_path: Path) -> None:
    async def test() -> None:
        pods, may_send = Pods(tmp_path, Origin(), 3, stays=True), asyncio.Event()
        first = pods.start(0)
        stream = pods.exchanges[0]._server._stream

        async def held(wire: Wire, said: Json) -> None:
            await may_send.wait()
            await stream(wire, said)

        make_liar(pods, 0, held)
        second = pods.start(1)
        await pods.until(lambda: bool(pods.exchanges[1].state.hashes))
        pods.exchanges[0].release()
        await pods.until(lambda: any("staying while index 1 still" in each for each in pods.said))
        assert not first.done()
        may_send.set()
        await all_of(first)
        assert pods.has_all(1) and len(pods.origin.read) == 20
        await killed(second)

    run(test)


def test_what_is_done_at_once_is_read_once_by_all_that_come_in_turn(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 4, stays=True)
        tasks = []
        for pod in range(4):
            tasks.append(pods.start(pod))
            await pods.until(lambda pod=pod: pod in pods.done)  # type: ignore[misc]
            pods.exchanges[pod].release()
            assert any(not task.done() for task in tasks), "nobody has it for the next one"
        await all_of(*tasks)
        assert all(map(pods.has_all, range(4))) and {pod for pod, _ in pods.origin.read} == {0}

    run(test)


def test_a_pod_whose_reader_is_there_may_go_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 2, stays=True)
        reader, other = pods.start(0), pods.start(1)
        await pods.until(lambda: pods.done == {0, 1})
        pods.exchanges[1].release()
        await all_of(other)
        await killed(reader)

    run(test)


def make_liar(pods: Pods, pod: int, chunks: Callable[[Wire, Json], Awaitable[None]]) -> None:
    """A pod that has the job's key, and serves its children as `chunks` does."""
    pods.exchanges[pod]._server._stream = chunks  # type: ignore[method-assign, assignment]


async def wrong_bytes(wire: Wire, said: Json) -> None:
    await wire.send({"chunk": said["want"], "have": 20}, b"x" * CHUNK)
    await asyncio.sleep(PATIENCE_S)


async def another_chunk(wire: Wire, said: Json) -> None:
    await wire.send({"chunk": said["want"] + 1, "have": 20}, b"x" * CHUNK)
    await asyncio.sleep(PATIENCE_S)


async def silence(wire: Wire, said: Json) -> None:
    await asyncio.sleep(PATIENCE_S)


async def close(wire: Wire, said: Json) -> None:
    return


async def nothing_more(wire: Wire, said: Json) -> None:
    while True:
        await wire.send({"have": said["want"]})
        await asyncio.sleep(0.1)


async def slowness(wire: Wire, said: Json) -> None:
    while True:
        await wire.send({"have": 20})
        await asyncio.sleep(0.1)


async def no_frame(wire: Wire, said: Json) -> None:
    wire._writer.write(b"\xff" * 100)
    await asyncio.sleep(PATIENCE_S)


async def no_header(wire: Wire, said: Json) -> None:
    await wire.send({})
    await asyncio.sleep(PATIENCE_S)


@pytest.mark.parametrize(
    "does",
    [wrong_bytes, another_chunk, silence, close, nothing_more, slowness, no_frame, no_header],
)
def test_pods_whose_parent_does_ill_get_all_from_another_one(
    tmp_path: Path, does: Callable[[Wire, Json], Awaitable[None]]
) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 7)
        pods.origin.stop_at = dict.fromkeys(range(7), 3)
        tasks = []
        for pod in range(7):
            tasks.append(pods.start(pod))
            if pod in (1, 2):
                make_liar(pods, pod, does)
            started = pods.exchanges[pod].state
            await pods.until(lambda state=started: bool(state.hashes))  # type: ignore[misc]
        await pods.until(lambda: all(each.state.have == 3 for each in pods.exchanges.values()))
        assert any("Asking for another one" in line for line in pods.said)
        for task in tasks:
            await killed(task)
        told = any("handed wrong bytes" in line for line in pods.said)
        assert told == (does in (wrong_bytes, another_chunk))

    run(test)


@pytest.mark.usefixtures("no_wait_for_lower_indexes")
def test_who_has_not_the_key_of_the_job_gets_nothing_and_is_not_asked(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 2, stays=True)
        ours, other = pods.start(0), pods.start(1, key="another-job")
        await pods.until(lambda: pods.done == {0, 1})
        assert [pod for pod, _ in pods.origin.read].count(1) == 20  # from the origin, by itself
        host, _, port = pods.peers[0].rpartition(":")
        with pytest.raises(Refused, match="does not have the key"):
            await peering.connect(host, int(port), b"another-job", 5)
        await killed(ours)
        await killed(other)

    run(test)


def test_strangers_are_closed_counted_and_named_and_do_not_keep_pods_from_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GREETING_S", 0.5)

    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 2, stays=True)
        tasks = [pods.start(0)]
        await pods.until(lambda: pods.done == {0})
        host, _, port = pods.peers[0].rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        tasks.append(pods.start(1))
        await pods.until(lambda: pods.done == {0, 1})
        for each, end in [*silent, (reader, writer)]:
            assert await asyncio.wait_for(each.read(), PATIENCE_S) == b""
            end.close()
        entrance = pods.exchanges[0]._server.entrance
        assert (entrance.strangers, entrance.unproved) == (201, [])
        assert [pod for pod, _ in pods.origin.read].count(1) == 0
        for task in tasks:
            await killed(task)
        said = [text for text in pods.said if "refused a connection from 127.0.0.1: " in text]
        assert len(said) == 1  # of many at once, and of the rest at the end
        assert "0: refused 201 connections in all" in pods.said

    run(test)


def test_a_failure_of_the_reader_is_that_of_all(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 4)
        pods.origin.failure = Failure(contract.EXIT_ORIGIN, "HTTP 404")
        tasks = [pods.start(pod) for pod in range(4)]
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)
        assert [str(each) for each in found] == ["HTTP 404", *["index 0: HTTP 404"] * 3]
        assert all(isinstance(e, Failure) and e.exit_code == contract.EXIT_ORIGIN for e in found)

    run(test)


def test_an_origin_that_changes_between_two_readers_is_found(tmp_path: Path) -> None:
    async def test() -> None:
        pods = Pods(tmp_path, Origin(), 2, stays=True)
        pods.origin.stop_at[0] = 4
        first, second = pods.start(0), pods.start(1)
        await pods.until(lambda: pods.exchanges[1].state.have == 4)
        pods.origin.data = pods.origin.data[::-1]
        pods.exchanges[1].state.have = 3  # so that chunk 3, whose hash is known, is read again
        await killed(first)
        with pytest.raises(Failure, match="has changed while it was read"):
            await asyncio.wait_for(second, PATIENCE_S)

    run(test)
