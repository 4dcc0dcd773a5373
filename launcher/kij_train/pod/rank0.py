"""The wait for rank 0: until something accepts connections there.

Thousands of pods wait at the same time, and ask the same DNS server and the same pod. How often
each of them does follows from how many they are.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import socket
import time
from typing import Any, List, Tuple

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.status import Attempt, WaitingForRank0, say

CONNECT_TIMEOUT_S = 3.0
STILL_WAITING_S = 30.0
FIRST_PAUSE_S = 0.05
SHORTEST_PAUSE_S = 2 * FIRST_PAUSE_S
"""The longest pause of the smallest job: between the attempts of a wait that takes longer."""
LOOK_UPS_PER_S = 500
"""Of all nodes together, in DNS. A look-up is one or two queries; see `Name`."""
CONNECTS_PER_S = 2500
"""Of all nodes together, at rank 0, once it has an address: its kernel refuses them."""
LONGEST_PAUSE_S = 30.0
AS_GIVEN_EVERY = 8
RESOLV_CONF = "/etc/resolv.conf"


class Name:
    """The name of rank 0's node, and how it is looked up.

    In a pod, resolv.conf(5) has some search domains, and `ndots:5`: until INDEX.SERVICE has an
    address, getaddrinfo asks for it in each of them and as it is, for an IPv4 and for an IPv6
    address: eight queries, of which the last two leave the cluster. So most look-ups are of the
    whole name that the first domain makes of it, for an address of the kind that the DNS server
    has, which is that of the cluster: one query. Others are of the name as it was given.
    """

    def __init__(self, address: str) -> None:
        self._given, self._whole, self._family = address, "", socket.AF_UNSPEC
        self._look_ups = 0
        try:
            with open(RESOLV_CONF) as file:
                lines = [line.split() for line in file]
        except (OSError, ValueError):
            return
        domains = [each for words in lines if words[:1] == ["search"] for each in words[1:]]
        servers = [words[1] for words in lines if words[:1] == ["nameserver"] and words[1:]]
        if address.count(".") == 1 and domains and ".svc." in domains[0] and servers:
            self._whole = f"{address}.{domains[0].rstrip('.')}."
            self._family = socket.AF_INET6 if ":" in servers[0] else socket.AF_INET

    def resolve(self, port: int) -> List[Tuple[Any, ...]]:
        """As socket.getaddrinfo. Raises OSError."""
        is_as_given = not self._whole or self._look_ups % AS_GIVEN_EVERY == 1
        self._look_ups += 1
        if is_as_given:
            return list(socket.getaddrinfo(self._given, port, type=socket.SOCK_STREAM))
        return list(socket.getaddrinfo(self._whole, port, self._family, socket.SOCK_STREAM))


def longest_pause_s(nnodes: int, per_s: int) -> float:
    """Between two attempts of a node, so that all of them make `per_s` in a second."""
    return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, nnodes / per_s))


def wait_for_rank0(address: str, port: int, timeout_s: float, nnodes: int) -> None:
    """Return once something accepts connections at rank 0. Raises Failure at the deadline.

    Resolving and connecting are tried together: negative DNS answers are cached, and a name that
    resolves says nothing about the process behind it. Nor does it stay: a pod that is made again
    has another address.
    """
    import random

    started = time.monotonic()
    look_up_s = longest_pause_s(nnodes, LOOK_UPS_PER_S)
    connect_s = longest_pause_s(nnodes, CONNECTS_PER_S)
    pause_s, next_word_s, resolved = max(FIRST_PAUSE_S, look_up_s / 4), STILL_WAITING_S, ""
    found: List[Tuple[Any, ...]] = []
    name, look_up_at = Name(address), started
    while True:
        if not found or time.monotonic() >= look_up_at:
            look_up_at = time.monotonic() + look_up_s
            try:
                found = name.resolve(port)
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
        pause_s = min(pause_s, connect_s if found else look_up_s)
        time.sleep(min(pause_s * random.uniform(0.7, 1.3), timeout_s - waited_s))  # noqa: S311
        pause_s *= 1.5


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
