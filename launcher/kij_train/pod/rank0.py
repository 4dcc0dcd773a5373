"""The wait for rank 0: until something accepts connections there.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import socket
import time

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.status import Attempt, WaitingForRank0, say

CONNECT_TIMEOUT_S = 3.0
STILL_WAITING_S = 30.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
ATTEMPTS_PER_S = 500
"""Of all nodes together, at rank 0: how long each pauses follows from it."""


def wait_for_rank0(address: str, port: int, timeout_s: float, nnodes: int) -> None:
    """Return once something accepts connections at rank 0. Raises Failure at the deadline.

    Resolving and connecting are tried together: negative DNS answers are cached, and a name that
    resolves says nothing about the process behind it.
    """
    import random

    started = time.monotonic()
    longest_pause_s = min(LONGEST_PAUSE_S, max(2 * FIRST_PAUSE_S, nnodes / ATTEMPTS_PER_S))
    pause_s, next_word_s, resolved = FIRST_PAUSE_S, STILL_WAITING_S, ""
    while True:
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            resolved = ", ".join(sorted({str(entry[4][0]) for entry in found}))
        except OSError as error:
            found, last = [], Attempt(address, error.strerror or str(error), False)
        for family, kind, protocol, _, where in found:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.settimeout(CONNECT_TIMEOUT_S)
                    probe.connect(where)
                    return
            except OSError as error:
                last = Attempt(f"{where[0]} port {port}", error.strerror or str(error), True)
        waited_s = time.monotonic() - started
        if waited_s >= timeout_s:
            raise Failure(
                contract.EXIT_RENDEZVOUS, rank0_message(address, port, waited_s, last, resolved)
            )
        if waited_s >= next_word_s:
            next_word_s += STILL_WAITING_S
            say(WaitingForRank0(round(waited_s), last).text())
        # Thousands of pods ask the same DNS server: spread them.
        time.sleep(min(pause_s * random.uniform(0.7, 1.3), timeout_s - waited_s))  # noqa: S311
        pause_s = min(pause_s * 1.5, longest_pause_s)


def rank0_message(address: str, port: int, waited_s: float, last: Attempt, resolved: str) -> str:
    """What was tried, what came back, and what usually causes it."""
    if not resolved:
        cause = (
            "the pod of index 0 has no address yet (pending, pulling its image), the headless "
            "Service is missing, or a NetworkPolicy blocks DNS"
        )
    elif last.refused:
        cause = (
            f"the pod of index 0 ({resolved}) runs, but its torchrun does not listen: see its log"
        )
    else:
        cause = (
            f"the pod of index 0 ({resolved}) does not answer: it is gone, or a NetworkPolicy or "
            f"firewall blocks port {port}"
        )
    return (
        f"rank 0 never came: tried {address} port {port} for {waited_s:.0f} s, "
        f"last: {last.text()}. Likely: {cause}"
    )
