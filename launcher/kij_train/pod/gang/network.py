"""Whether this pod is cut off: it reaches neither all others, nor DNS, nor the API server.

Kubernetes does not notice that a pod's link is gone as long as the pod's machine is well. Such a
pod ends itself, so that the Job creates another one. If whole machines are cut off, the Job creates
their pods again elsewhere after a while. If the leader is on a machine that is cut off, it ends
before that.

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
"""How long a pod that was in a round may reach neither other pods nor DNS nor the API server.

When a leader falls silent, the others are not connected until they have agreed on another leader,
although nothing is wrong with their network. That takes 7.4 s with 64 nodes
(benchmarks/results/supervisors.md), so this has to be longer. There is time for two probes, so that
one lost packet is not taken for a lost link.
"""
PROBE_S = 3.0
"""How long DNS and the API server may take to answer. TCP tries a connection again after 1 s."""
RESOLV_CONF = "/etc/resolv.conf"
DNS_PORT = 53


_looked_up: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Any]]" = (
    weakref.WeakKeyDictionary()
)
"""The look-up that is going on. There is one at a time, because a look-up holds a thread, and for
longer than a probe if DNS is silent."""


async def await_cut_off(is_connected: Callable[[], bool], peer: str, crowd: float = 1.0) -> float:
    """Return when this pod is cut off. Gives the seconds since it last had a network.

    `is_connected` says whether this pod now has its connections to other pods. `peer` is the name
    of another pod. All pods of a job may look at the same time: each does so `crowd` times less
    often, for DNS and the API server to carry it.
    """
    reached, look_s = time.monotonic(), LOOK_S * crowd
    alone_s = ALONE_S + 2 * (look_s - LOOK_S)
    while True:
        await asyncio.sleep(look_s)
        if is_connected() or await has_network(peer) or is_connected():
            reached = time.monotonic()
        elif time.monotonic() - reached >= alone_s:
            return time.monotonic() - reached


async def has_network(peer: str) -> bool:
    """Whether DNS gives any answer, or a DNS server or the API server can be reached by TCP.

    A connection that is refused proves a network as well: the server's machine, or the cluster if
    DNS has no pods, has answered.
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
