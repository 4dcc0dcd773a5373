"""Whether this pod is cut off: it reaches neither all others, nor DNS, nor the API server.

Kubernetes does not notice a pod whose link is gone as long as its machine is well. Such a pod ends
itself, so that the Job makes another one. Where whole machines are cut off, their pods are made
again elsewhere after a while: a leader that is there with some of the others ends before that.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import os
import socket
import time
from typing import Awaitable, Callable, List, Optional, Tuple

LOOK_S = 4.0
ALONE_S = 20.0
"""How long a node that was in a round may miss others, and reach nothing else either."""
PROBE_S = 8.0
"""How long DNS and the API server may take to answer."""


async def await_cut_off(is_connected: Callable[[], bool], peer: str) -> float:
    """Return when this pod is cut off, with the seconds since it was not.

    `is_connected` says whether it misses no other node now; `peer` is the name of one.
    """
    reached = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        if is_connected() or await has_network(peer) or is_connected():
            reached = time.monotonic()
        elif time.monotonic() - reached > ALONE_S:
            return time.monotonic() - reached


async def has_network(peer: str) -> bool:
    """Whether DNS answers, even that there is no such name, or the API server can be reached."""
    loop = asyncio.get_running_loop()
    asked: List[Awaitable[object]] = [loop.getaddrinfo(peer, 1, type=socket.SOCK_STREAM)]
    server = _api_server()
    if server is not None:
        asked.append(_connects(*server))
    answers = await asyncio.gather(
        *(asyncio.wait_for(each, PROBE_S) for each in asked), return_exceptions=True
    )
    return any(_is_answer(answer) for answer in answers)


def _is_answer(answer: object) -> bool:
    if isinstance(answer, socket.gaierror):
        return answer.errno == socket.EAI_NONAME
    return isinstance(answer, ConnectionRefusedError) or not isinstance(answer, BaseException)


def _api_server() -> Optional[Tuple[str, int]]:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return (host, int(port)) if host and port.isdigit() else None


async def _connects(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
