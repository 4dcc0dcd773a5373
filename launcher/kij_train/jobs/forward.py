"""Ports of this machine that lead to a pod of a job, and to the pod that takes its place."""

from __future__ import annotations

import errno
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kij_train.diagnosis import JobView, Node, Phase
from kij_train.errors import (
    KijError,
    RefusedError,
    RequestError,
    UnreachableError,
    no_such_index,
)
from kij_train.jobs.asking import get
from kij_train.jobs.inside import UP, not_up

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, Observation

HOSTS = ("127.0.0.1", "::1")
"""Both that `localhost` may be. Nobody else's machine can come in by them."""
HOLD_S = 30.0
"""How long what has connected here waits for a pod."""
ABOUT_LOCAL = "the ports of a run with --local are on this machine already, by the same numbers"


@dataclass(frozen=True)
class Ports:
    """A port of this machine, 0 for any free one, and the port of the pod that it leads to."""

    local: int
    remote: int

    @classmethod
    def parse(cls, text: str) -> Ports:
        """`PORT`, or `LOCAL:REMOTE`. Raises RequestError."""
        found = re.fullmatch(r"(?:([0-9]{0,5}):)?([0-9]{1,5})", text)
        here, there = (int(part or 0) for part in found.groups()) if found else (0, 0)
        if found is None or here > 65535 or not 0 < there <= 65535:
            raise RequestError(
                f"{text!r} names no ports",
                hints=(
                    "one that is the same here and in the pod: 6006",
                    "one here, and one in the pod: 8080:6006; any free one here: 0:6006",
                ),
            )
        return cls(there if found[1] is None else here, there)


class Forwarding:
    """Listens, and knows which pod is meant now."""

    def __init__(
        self, cluster: Cluster, job: JobView, index: int | None, note: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._job = job
        self._index = index if index is not None or job.restarts_by_itself else 0
        """None: the index that trains as rank 0."""
        self._note = note
        self._changed = threading.Condition()
        self._node: Node | None = None
        self._said: set[object] = set()
        """Of the pod that is meant now, what needs no second telling."""
        self._failure: KijError | None = None
        self._open: set[socket.socket] = set()

    def listen(self, listeners: Sequence[tuple[socket.socket, Ports]]) -> None:
        """Take connections until the job has ended. Raises RefusedError, UnreachableError."""
        from kij_train.cluster.observe import Note, Observation

        for listener, ports in listeners:
            args = (listener, ports)
            threading.Thread(target=self._accept, args=args, daemon=True).start()
        with Observation(self._cluster, self._job.name, job=self._job) as observed:
            try:
                for event in observed.events():
                    if isinstance(event, Note):
                        self._note(event.text)
                    elif self._look(observed):
                        return
                    if self._failure is not None:
                        raise self._failure
            finally:
                for here in list(self._open):
                    with suppress(OSError):
                        here.shutdown(socket.SHUT_RDWR)

    def _look(self, observed: Observation) -> bool:
        """Which pod is meant now. True where none is, and none will be."""
        nodes = observed.nodes
        if self._index is None:
            training = (node for node in nodes if node.phase is Phase.RUNNING and node.pod)
            node = next(training, None)
            said, is_done = "no index trains now", False
        else:
            found = next(
                (n for n in nodes if n.index == self._index), Node(self._index, Phase.PENDING)
            )
            node = found if found.phase in UP and found.pod else None
            said, is_done = f"index {self._index} is {found.phase.value}", found.phase in _OVER
        with self._changed:
            is_new = node is not None and (self._node is None or self._node.pod != node.pod)
            if is_new:
                self._said.clear()
            self._node = node
            self._changed.notify_all()
        if is_new and node is not None:
            self._say(f"to index {node.index}: pod {node.pod} on {node.node}")
        elif node is None:
            self._say(f"{said}: {'nothing to lead to' if is_done else 'waiting for its pod'}")
        return is_done

    def _say(self, text: str) -> None:
        with self._changed:
            is_known = text in self._said
            self._said.add(text)
        if not is_known:
            self._note(text)

    def _accept(self, listener: socket.socket, ports: Ports) -> None:
        with suppress(OSError):  # closed
            while True:
                here, _ = listener.accept()
                threading.Thread(target=self._serve, args=(here, ports), daemon=True).start()

    def _serve(self, here: socket.socket, ports: Ports) -> None:
        """One connection, from its beginning to its end."""
        self._open.add(here)
        try:
            with here:
                self._lead(here, ports.remote)
        except RefusedError as error:
            self._failure = error
        except KijError as error:
            self._say(error.message)
        except OSError:
            pass  # the program here has left
        finally:
            self._open.discard(here)

    def _lead(self, here: socket.socket, port: int) -> None:
        from kij_train.cluster.apierrors import GoneError
        from kij_train.cluster.tunnel import Tunnel

        tried: str | None = None
        deadline = time.monotonic() + HOLD_S
        while (node := self._next(tried, deadline)) is not None:
            tried = str(node.pod)
            try:
                tunnel = Tunnel.open(self._cluster, tried, port)
            except GoneError:
                continue  # another one is coming, which the watch has not told yet
            try:
                tunnel.join(here)
            except UnreachableError:
                # With what it has not read, a server that closes may lose its last words.
                if tunnel.has_spoken:
                    raise
                if not tunnel.error:
                    self._say(f"{_nobody(port, node)}, it seems: the connection broke at once")
            if tunnel.error:
                self._say(_told(tunnel.error, port, node))
            return

    def _next(self, tried: str | None, deadline: float) -> Node | None:
        """The pod that is meant, where it is not the one that was tried; None: in time, none is."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._node is not None and self._node.pod != tried,
                max(deadline - time.monotonic(), 0),
            )
            is_other = self._node is not None and self._node.pod != tried
            return self._node if is_other else None


_OVER = (Phase.DONE, Phase.CANCELLED, Phase.ENDED, Phase.LOST)
"""Phases of an index that gets no pod any more."""


def forward(
    cluster: Cluster,
    name: str,
    ports: Sequence[Ports],
    *,
    index: int | None = None,
    note: Callable[[str], None],
) -> None:
    """Lead ports of this machine to the pod of an index, until that has ended for good.

    Without an index it is index 0, or, of a job that restarts, the index that trains as rank 0,
    which may change. `note` hears where they lead. Raises RequestError, RefusedError,
    UnreachableError.
    """
    job = get(cluster, name, about_local=ABOUT_LOCAL)
    if index is not None and not 0 <= index < job.completions:
        raise no_such_index(name, index, job.completions)
    if job.state.ended:
        raise not_up(cluster, name, f"{name} does not run any more: {job.state.value}")
    with _listening(ports, name, cluster) as listeners:
        for listener, one in listeners:
            host, local = listener.getsockname()[:2]
            if host == HOSTS[0]:
                note(f"localhost:{local} leads to port {one.remote} of {name}")
        Forwarding(cluster, job, index, note).listen(listeners)


@contextmanager
def _listening(
    ports: Sequence[Ports], name: str, cluster: Cluster
) -> Iterator[list[tuple[socket.socket, Ports]]]:
    """Sockets that listen; none of them where one cannot. Raises RequestError."""
    made: list[tuple[socket.socket, Ports]] = []
    try:
        for one in ports:
            local = one.local
            for host in HOSTS:
                listener = _listener(host, local, one, name, cluster)
                if listener is not None:
                    made.append((listener, one))
                    local = listener.getsockname()[1]
        yield made
    finally:
        for listener, _ in made:
            with suppress(OSError):  # wakes up who waits for a connection
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _listener(
    host: str, local: int, ports: Ports, name: str, cluster: Cluster
) -> socket.socket | None:
    """None on a machine without IPv6."""
    is_6 = ":" in host
    try:
        return socket.create_server(
            (host, local), family=socket.AF_INET6 if is_6 else socket.AF_INET
        )
    except OSError as error:
        if is_6 and error.errno != errno.EADDRINUSE:
            return None
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        any_free = cluster.address.on_job("forward", name, f"0:{ports.remote}")
        raise RequestError(
            f"port {local} of this machine {why}",
            hints=(f"take any free one: {any_free}", f"who has it: lsof -i :{local}"),
        ) from None


def _told(error: str, port: int, node: Node) -> str:
    """What a machine says of a port, for people."""
    if "refused" in error:
        return _nobody(port, node)
    return (
        f"port {port} of pod {node.pod}: {error.rpartition(' uid ')[2].partition(': ')[2] or error}"
    )


def _nobody(port: int, node: Node) -> str:
    return f"nothing listens on port {port} of pod {node.pod} (index {node.index})"
