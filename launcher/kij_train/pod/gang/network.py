"""Whether this pod is cut off: it reaches neither all others, nor DNS, nor the API server.

Kubernetes does not notice a pod whose link is gone as long as its machine is well. Such a pod ends
itself, so that the Job makes another one. Where whole machines are cut off, their pods are made
again elsewhere after a while: a leader that is there with some of the others ends before that.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import os
import socket
import time
import weakref
from typing import Any, Awaitable, Callable, List, Tuple

LOOK_S = 1.0
ALONE_S = 8.0
"""How long a node that was in a round may miss others, and reach nothing else either.

Longer than nodes take to agree on another leader when theirs falls silent, in which they miss each
other and nothing is wrong: 7.4 s with 64 of them (benchmarks/results/supervisors.md). It holds two
probes, so that one lost packet is not taken for a lost link.
"""
PROBE_S = 3.0
"""How long DNS and the API server may take to answer: a connection is tried again after 1 s."""
RESOLV_CONF = "/etc/resolv.conf"
DNS_PORT = 53


_looked_up: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Any]]" = (
    weakref.WeakKeyDictionary()
)
"""The look-up that goes on. Where DNS is silent, each holds a thread for longer than a probe."""


async def await_cut_off(is_connected: Callable[[], bool], peer: str) -> float:
    """Return when this pod is cut off, with the seconds since it was not.

    `is_connected` says whether it misses no other node now; `peer` is the name of one.
    """
    reached = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        if is_connected() or await has_network(peer) or is_connected():
            reached = time.monotonic()
        elif time.monotonic() - reached >= ALONE_S:
            return time.monotonic() - reached


async def has_network(peer: str) -> bool:
    """Whether DNS answers, whatever it says, or its machine or the API server can be reached.

    DNS that is down takes connections while its machine is up, or has them refused by the cluster.
    """
    asked: List[Awaitable[object]] = [_look_up(peer)]
    asked += [_connects(*server) for server in (*_api_server(), *_name_servers())]
    answers = await asyncio.gather(
        *(asyncio.wait_for(each, PROBE_S) for each in asked), return_exceptions=True
    )
    return any(_is_answer(answer) for answer in answers)


def _look_up(peer: str) -> Awaitable[object]:
    loop = asyncio.get_running_loop()
    found = _looked_up.get(loop)
    if found is None or found.done():
        new = asyncio.ensure_future(loop.getaddrinfo(peer, 1, type=socket.SOCK_STREAM))
        new.add_done_callback(lambda done: done.cancelled() or done.exception())
        found = _looked_up[loop] = new
    return asyncio.shield(found)


def _is_answer(answer: object) -> bool:
    if isinstance(answer, socket.gaierror):
        return answer.errno not in (socket.EAI_AGAIN, socket.EAI_SYSTEM)
    return isinstance(answer, ConnectionRefusedError) or not isinstance(answer, BaseException)


def _api_server() -> List[Tuple[str, int]]:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return [(host, int(port))] if host and port.isdigit() else []


def _name_servers() -> List[Tuple[str, int]]:
    with contextlib.suppress(OSError), open(RESOLV_CONF) as file:
        words = [line.split() for line in file]
        return [(each[1], DNS_PORT) for each in words if each[:1] == ["nameserver"] and each[1:]]
    return []


async def _connects(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
