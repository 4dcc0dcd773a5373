"""The supervisors' messages, through the encoder and the decoder, and over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod.gang import messages
from kij_train.pod.gang.channel import Channel, Door, connect
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.jsontypes import MalformedError
from kij_train.pod.gang.messages import LONGEST_LINE, decode, encode
from kij_train.pod.peering import Wire

from tests.unit.test_gang_election import free_ports

KEY = b"key"

KINDS: tuple[Any, ...] = (
    messages.Ping,
    messages.Hello,
    *messages.ANSWERS,
    *messages.ORDERS,
    *messages.REPORTS,
    *messages.TASK_ORDERS,
    *messages.TASK_REPORTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
WHO = Who(1, "uid", "10.0.0.1", "job-1", "machine")
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: st.text(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """All values of a type that a message may have a field of."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    inner = [values(each) for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Union:
        return st.none() | inner[0]
    if get_origin(kind) is list:
        return st.lists(inner[0], max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(*inner, max_size=3)
    return st.builds(kind, **{name: values(each) for name, each in get_type_hints(kind).items()})


MESSAGES = st.one_of([values(kind) for kind in dict.fromkeys(KINDS)])


def test_every_message_that_is_defined_is_tested() -> None:
    defined = {
        each
        for each in vars(messages).values()
        if isinstance(each, type)
        and issubclass(each, tuple)
        and each.__module__ == messages.__name__
    }
    parts = {messages.News, messages.Loss, messages.RankStack}
    assert defined - parts == set(KINDS)


@given(MESSAGES)
def test_what_is_decoded_is_what_was_encoded(message: Any) -> None:
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    read = decode(line, KINDS)
    assert read == message and type(read) is type(message)
    others = tuple(each for each in KINDS if not isinstance(message, each))
    with pytest.raises(MalformedError, match=f"a message of type '{type(message).__name__}', not"):
        decode(line, others)


@given(st.binary() | JSON.map(lambda said: json.dumps(said).encode()))
def test_garbage_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(line, KINDS)


@given(MESSAGES, JSON, st.data())
def test_a_field_of_another_type_is_refused_or_read_as_its_own(
    message: Any, wrong: Any, data: st.DataObject
) -> None:
    said = json.loads(encode(message))
    said[data.draw(st.sampled_from(sorted(said)))] = wrong
    try:
        read = decode(json.dumps(said).encode(), KINDS)
    except MalformedError:
        return
    assert decode(encode(read), KINDS) == read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"GET / HTTP/1.1", "no JSON: b'GET / HTTP/1.1'"),
        (b"[" * 100_000, "no JSON: "),
        (b"[1]", r"no JSON object: b'\[1\]'"),
        (b"{}", "a message of type 'None', not Step or RanksEnded"),
        (b'{"type": "Ready"}', "a message of type 'Ready', not Step or RanksEnded"),
        (b'{"type": "Step", "step": 1, "round": 2}', "Step: missing .*'again_s'"),
        (b'{"type": "Step", "steps": 1}', "Step has no field 'steps'"),
        (b'{"type": "Step", "step": "7"}', "Step.step is '7', not an integer"),
        (b'{"type": "Step", "step": true}', "Step.step is True, not an integer"),
        (b'{"type": "Step", "again_s": NaN}', "Step.again_s is nan, not a number"),
        (b'{"type": "Step", "again_s": 1' + b"0" * 400 + b"}", "Step.again_s is too large"),
        (b'{"type": "RanksEnded", "record": []}', r"RanksEnded.record is \[\], not an object"),
        (b'{"type": "' + b"x" * LONGEST_LINE + b'"}', "a line of 1048588 bytes, more than"),
    ],
    ids=lambda each: each[:20].decode() if isinstance(each, bytes) else "",
)
def test_what_is_wrong_is_said(line: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        decode(line, (messages.Step, messages.RanksEnded))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"ips": {"a": "10.0.0.1"}}, "Start.news.ips has the key 'a', not an integer"),
        ({"ips": {"0": 1}}, "Start.news.ips.0 is 1, not a text"),
        ({"history": {"took_part": [[0, "1"]]}}, r"history.took_part\[0\]\[1\] is '1', not an"),
        ({"history": None}, "Start.news.history is None, not an object"),
    ],
)
def test_a_fault_deep_in_a_message_is_named(said: dict[str, Any], reason: str) -> None:
    line = json.dumps({"type": "Start", "news": said}).encode()
    with pytest.raises(MalformedError, match=reason):
        decode(line, messages.ORDERS)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[tuple[str, int], asyncio.Future[Channel]]]:
    """Where a connection can be made, and its other end once it is proved."""
    there: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def serve(channel: Channel) -> None:
        there.set_result(channel)

    door, (port,) = Door(KEY, serve, print), free_ports(1)
    await door.open(port)
    yield ("127.0.0.1", port), there
    await door.close()
    (await there).close()


def test_messages_come_as_they_were_sent_and_pings_are_not_shown() -> None:
    news = messages.News(History(rounds=2, blame={"machine": [1.0, 2.5]}), {0: "10.0.0.1"})
    orders: list[messages.Order] = [
        messages.Start(1, 0, 2, "10.0.0.1", news),
        messages.Stop(2.0, messages.Loss(0.5, WHO), news),
        messages.Inform(None, news),
    ]

    async def whole() -> list[messages.Order | None]:
        async with served() as (address, there):
            one = await connect(address, KEY, 10)
            assert one is not None
            for order in orders:
                one.send_ping()
                one.send(order)
            other = await there
            found = [await other.receive(messages.ORDERS, 10) for _ in orders]
            one.close()
            assert await other.receive(messages.ORDERS, 10) is None
            assert other.refused == ""  # the connection has ended, which is no fault of a message
            return found

    assert asyncio.run(whole()) == orders


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"type": "Ready", "more": 1}\n', "Ready has no field 'more'"),
        (b'{"type": "Stop"}\n', "a message of type 'Stop', not Ready or Leaving or "),
        (b"x" * (LONGEST_LINE + 1), "a line of more than 1048576 bytes"),
    ],
    ids=["unknown field", "an order", "no end"],
)
def test_a_connection_tells_why_it_refused_a_message(line: bytes, reason: str) -> None:
    async def whole() -> str:
        async with served() as (address, there):
            reader, writer = await asyncio.open_connection(*address)
            await Wire(reader, writer).greet(KEY, 10)
            writer.write(line)
            other = await there
            assert await other.receive(messages.REPORTS, 10) is None
            writer.close()
            return other.refused

    refused = asyncio.run(whole())
    with pytest.raises(ValueError, match=reason):
        raise ValueError(refused)


def test_a_history_of_another_release_is_read_as_far_as_it_is_known() -> None:
    said = {**History(rounds=3).as_json(), "of_the_future": 1}
    del said["highest"]
    assert History.read(said) == History(rounds=3)
    with pytest.raises(MalformedError, match=r"history.rounds is '3', not an integer"):
        History.read({"rounds": "3"})
    assert {each.name for each in dataclasses.fields(History)} == History().as_json().keys()
