"""Logs of pods: every line once, across broken connections, rotation and restarted API servers.

The kubelet stamps every line with nine digits, so stamps sort as text does. A stream that breaks is
asked for again from the second of its last line, and what was shown is dropped.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from kij_train import names
from kij_train.cluster.apierrors import (
    BrokenStreamError,
    GoneError,
    NotAcceptedError,
    NotReadyError,
)
from kij_train.cluster.client import Cluster, lines_of
from kij_train.errors import RefusedError, UnreachableError

PAUSE_S = 1.0
ATTEMPTS = 5
"""How often a log that breaks is asked for again when no more lines come of it."""
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)")
MOST_STREAMS = 256
"""One connection and one thread each."""
HOLD_S = 0.5
"""How long a line that is followed waits for older ones of other pods."""
BEHIND_S = 10.0
"""How long lines wait for a pod that gives nothing of what it has said before."""


@dataclass(frozen=True)
class LogLine:
    """A line of a node's log."""

    index: int
    pod: str
    time: str
    """RFC 3339 with nine digits."""
    text: str


@dataclass(frozen=True)
class LogChoice:
    """What of a log is wanted."""

    since_s: int | None = None
    tail: int | None = None
    """Lines from the end."""

    def query(self) -> dict[str, str]:
        """For the first request."""
        query = {"container": names.CONTAINER, "timestamps": "true"}
        if self.since_s is not None:
            query["sinceSeconds"] = str(self.since_s)
        if self.tail is not None:
            query["tailLines"] = str(self.tail)
        return query


class Reader:
    """Reads one pod's log, again and again, without repeating."""

    def __init__(self, cluster: Cluster, pod: str, index: int, choice: LogChoice) -> None:
        self._cluster = cluster
        self.pod = pod
        self.index = index
        self._choice = choice
        self._last = ""
        self._with_last = 0
        """Lines shown that carry the newest stamp."""
        self._words: set[str] = set()
        """Lines shown that carry none."""

    def read(self, *, follow: bool) -> Iterator[LogLine]:
        """New lines until the connection, or the container with `follow`, ends.

        Raises GoneError (the pod), NotReadyError, RefusedError, UnreachableError; a broken
        connection is one of the last, after which reading goes on where it broke.
        """
        query = self._choice.query()
        if self._last:
            # Whole seconds are all that the API takes.
            since = re.sub(r"\.\d+", "", self._last)
            query = {**LogChoice().query(), "sinceTime": since}
        if follow:
            query["follow"] = "true"
        response = self._cluster.stream_log(self.pod, **query)
        before, shown, repeated = self._last, self._with_last, 0
        try:
            for line in lines_of(response):
                stamp, _, text = line.partition(" ")
                if _STAMP.fullmatch(stamp) is None:
                    # The kubelet's own words about a log, at every request anew.
                    if line not in self._words:
                        self._words.add(line)
                        yield LogLine(self.index, self.pod, self._last, line)
                    continue
                repeated += stamp == before
                if stamp < before or (stamp == before and repeated <= shown):
                    continue
                self._with_last = self._with_last + 1 if stamp == self._last else 1
                self._last = stamp
                yield LogLine(self.index, self.pod, stamp, text)
            if not self._last and self._choice.tail:
                # Whatever comes now is new, and may be more than the tail.
                self._choice = replace(self._choice, tail=None)
        finally:
            response.close()


def merged(
    cluster: Cluster,
    pods: Iterable[tuple[int, str]],
    choice: LogChoice,
    note: Callable[[str], None],
    last_words: Callable[[str], str | None],
) -> Iterator[LogLine]:
    """What the logs of (index, pod) hold now, by time. `note` hears of those without one.

    `last_words` are what is known of the end of a pod otherwise. Raises UnreachableError when a log
    breaks again and again.
    """

    def one(index: int, pod: str) -> Iterator[LogLine]:
        reader = Reader(cluster, pod, index, choice)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                yield from reader.read(follow=False)
                return
            except (GoneError, NotReadyError) as error:
                note(without_log(index, pod, error.message, last_words(pod)))
                return
            except BrokenStreamError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S)

    yield from heapq.merge(*(one(index, pod) for index, pod in pods), key=lambda line: line.time)


def without_log(index: int, pod: str, why: str, last_words: str | None) -> str:
    """What is left of a pod whose log cannot be had."""
    said = f"; its last words: {last_words}" if last_words else ""
    return f"index {index}: no log of pod {pod}: {why}{said}"


class InOrder:
    """Lines of several pods, as they come, given back by time.

    A line is held for HOLD_S, and longer while a pod is behind: while what it has said before we
    came is being read, and has not come as far as the line.
    """

    def __init__(self) -> None:
        self._held: list[tuple[str, int, float, LogLine]] = []
        """Heap of stamp, number of arrival, when it arrived, and the line."""
        self._numbers = itertools.count()
        self._behind: dict[str, tuple[str, float]] = {}
        """Pod → stamp and arrival of its last line."""

    def begin(self, pod: str, now: float) -> None:
        """Lines of this pod are to come that may be older than all others."""
        self._behind[pod] = ("", now)

    def caught_up(self, pod: str) -> None:
        """What the pod says from now on is new."""
        self._behind.pop(pod, None)

    def take(self, line: LogLine, now: float) -> None:
        """Hold a line."""
        heapq.heappush(self._held, (line.time, next(self._numbers), now, line))
        if line.pod in self._behind:
            self._behind[line.pod] = (line.time, now)

    def due(self, now: float) -> Iterator[LogLine]:
        """The lines that need wait no longer."""
        late = [stamp for stamp, at in self._behind.values() if now - at < BEHIND_S]
        safe = min(late) if late else None
        while self._held and now - self._held[0][2] >= HOLD_S:
            if safe is not None and self._held[0][0] > safe:
                return
            yield heapq.heappop(self._held)[3]

    @property
    def holds(self) -> bool:
        """Whether a line waits."""
        return bool(self._held)

    def rest(self) -> Iterator[LogLine]:
        """All that is held."""
        while self._held:
            yield heapq.heappop(self._held)[3]


class Stream(threading.Thread):
    """Follows one pod until it has ended and its last line is shown.

    With `caught_up`, which it calls once, it first reads what was said before it came.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        emit: Callable[[LogLine], None],
        note: Callable[[str], None],
        done: Callable[[], None],
        last_words: Callable[[], str | None],
        caught_up: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name="log", daemon=True)
        self._reader = reader
        self._emit = emit
        self._note = note
        self._done = done
        self._last_words = last_words
        self._caught_up = caught_up
        self._ended = threading.Event()
        self.finished = False
        """Whether every line has been emitted; `done` is called when it comes true."""

    def pod_has_ended(self) -> None:
        """No line comes any more; what is there is shown, then the thread ends."""
        self._ended.set()

    def run(self) -> None:
        self._read_all()
        self.finished = True
        self._done()

    def _read_all(self) -> None:
        index, pod = self._reader.index, self._reader.pod
        attempts = 0
        while True:
            last_round, caught_up = self._ended.is_set(), self._caught_up
            try:
                for line in self._reader.read(follow=not last_round and caught_up is None):
                    self._emit(line)
                    attempts = 0
            except GoneError as error:
                self._note(without_log(index, pod, error.message, self._last_words()))
                return
            except NotReadyError:
                pass
            except (UnreachableError, NotAcceptedError) as error:
                # The API server is away, which the watches report; the log waits for it.
                attempts += last_round
                if attempts == ATTEMPTS:
                    self._note(f"index {index}: the log of pod {pod} may lack its end: {error}")
                    return
                time.sleep(PAUSE_S)
                continue
            except RefusedError as error:
                self._note(f"no log: {error.message}")
                return
            finally:
                if caught_up is not None:
                    caught_up()
                    self._caught_up = None
            if last_round:
                return
            if caught_up is None:
                self._ended.wait(PAUSE_S)
