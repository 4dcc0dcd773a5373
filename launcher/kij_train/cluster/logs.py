"""Logs of pods: every line once, across broken connections, rotation and restarted API servers.

The kubelet stamps every line with nine digits, so stamps sort as text does. A stream that breaks is
asked for again from the second of its last line, and what was shown is dropped. Pieces of a long
line have one stamp, that of the first, also where the log is rotated between them.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kij_train import lines, names
from kij_train.cluster.apierrors import (
    BrokenStreamError,
    GoneError,
    NotAcceptedError,
    NotReadyError,
)
from kij_train.cluster.client import Cluster, lines_and_bars_of
from kij_train.diagnosis import epoch, last_words, own
from kij_train.errors import RefusedError, UnreachableError
from kij_train.pod import status

PAUSE_S = 1.0
ATTEMPTS = 5
"""How often a log that breaks is asked for again when no more lines come of it."""
PIECE_CHARS = 8000
"""Shorter lines are never in pieces: of runtimes CRI-O's are the smallest, with 8 KiB."""
HEAD_S = 2.0
"""By when the bootstrap has said its first words, since its container's second of start."""
_SECONDS = re.compile(r"\.\d+")
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
class ContainerLife:
    """What a pod tells of its container."""

    started: float
    """Epoch seconds, whole."""
    ended: bool

    @classmethod
    def of(cls, pod: Mapping[str, Any]) -> ContainerLife | None:
        """None for one that has not started, as far as is known."""
        state = own(pod.get("status", {}).get("containerStatuses")).get("state") or {}
        ended = state.get("terminated") or {}
        started = epoch((state.get("running") or ended).get("startedAt"))
        return None if started is None else cls(started, bool(ended))


@dataclass(frozen=True)
class LogChoice:
    """What of a log is wanted."""

    since_s: int | None = None
    tail: int | None = None
    """Lines from the end."""
    container: str = names.CONTAINER
    """Which one of the pods: Jobs that others made have no container of ours."""

    def query(self) -> dict[str, str]:
        """For the first request."""
        query = {"container": self.container, "timestamps": "true"}
        if self.since_s is not None:
            query["sinceSeconds"] = str(self.since_s)
        if self.tail is not None:
            query["tailLines"] = str(self.tail)
        return query


class Reader:
    """Reads one pod's log, again and again, without repeating.

    A kubelet gives the newest file of a log alone: what it has rotated away before it was read
    cannot be had, and `note` hears of that.
    """

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        index: int,
        choice: LogChoice,
        *,
        note: Callable[[str], None] = lambda _: None,
        life: ContainerLife | None = None,
    ) -> None:
        """`life` is what is known of the container: whether the log can be without a beginning."""
        self._cluster = cluster
        self.pod = pod
        self.index = index
        self._choice = choice
        self._note = note
        self._life = life
        self._last = ""
        """The newest stamp of what was shown, or left out on purpose."""
        self._recent: Counter[tuple[str, int]] = Counter()
        """What was shown of that second: all that the API lets one ask for again."""
        self._tail_began = ""
        """Stamp of the first line of a tail: older ones of that second are not wanted."""
        self._words: set[str] = set()
        """Lines shown that carry no stamp."""
        self._broke = False

    def read(self, *, follow: bool) -> Iterator[LogLine]:
        """New lines until the connection, or the container with `follow`, ends.

        Of a progress bar, its last state, and one now and then while it goes on.

        Raises GoneError (the pod), NotReadyError, RefusedError, UnreachableError; a broken
        connection is one of the last, after which reading goes on where it broke.
        """
        if self._choice.tail is not None:
            yield from self._read_tail(self._choice.tail)
            # Whatever comes now is new, and may be more than the tail.
            self._choice = replace(self._choice, tail=None)
            if not follow:
                return
        query = replace(self._choice, tail=None).query()
        if self._last:
            # Whole seconds are all that the API takes.
            query = {
                **LogChoice(container=self._choice.container).query(),
                "sinceTime": _SECONDS.sub("", self._last),
            }
        if follow:
            query["follow"] = "true"
        before, shown, met = self._last, self._recent.copy(), False
        for line in self._lines(query):
            if not line.time:
                yield replace(line, time=self._last)
                continue
            key = (line.time, hash(line.text))
            if line.time < self._tail_began:
                met = True
                continue
            if shown[key] > 0:
                shown[key] -= 1
                met = True
                continue
            if before and not met:
                self._say_gap(before, line.time)
            elif not self._last:
                self._say_without_beginning(line)
            met = True
            self._count(line)
            yield _shown(line)
        if not met and not follow:
            self._say_nothing_left(before)
        self._broke = False

    def _lines(self, query: dict[str, str]) -> Iterator[LogLine]:
        """The lines of one request, as they were written.

        Now and then, without a time, the state of a progress bar that goes on. `note` hears what
        the kubelet says about the log.
        """
        response = self._cluster.stream_log(self.pod, **query)
        try:
            for line, ended in lines_and_bars_of(response):
                stamp, _, text = line.partition(" ")
                if not ended:
                    state = lines.last_state(text.rpartition("\r")[0])  # the newest may be cut
                    if state and _STAMP.fullmatch(stamp) is not None:
                        yield LogLine(self.index, self.pod, "", state)
                elif _STAMP.fullmatch(stamp) is not None:
                    yield LogLine(self.index, self.pod, stamp, text)
                elif "\r" in line:
                    pass  # the end of a bar that began before the time that was asked for
                elif line not in self._words:  # the kubelet's own, at every request
                    self._words.add(line)
                    self._note(f"index {self.index}: the kubelet says of its log: {line}")
        except BrokenStreamError:
            self._broke = True
            raise
        finally:
            response.close()

    def _count(self, line: LogLine) -> None:
        """Stamps of stdout and stderr may cross, so that the newest is not always the last."""
        if line.time > self._last:
            if _SECONDS.sub("", line.time) != _SECONDS.sub("", self._last):
                self._recent.clear()
            self._last = line.time
        self._recent[line.time, hash(line.text)] += 1

    def _read_tail(self, count: int) -> Iterator[LogLine]:
        """The last lines, whole.

        A runtime writes long lines in pieces, and pieces are what the kubelet counts: it gives
        fewer lines than asked for, and the first may lack its head.
        """
        pieces, before = count + 1, -1
        while True:
            query = {**self._choice.query(), "tailLines": str(pieces)}
            found = [line for line in self._lines(query) if line.time]
            long = any(len(line.text) >= PIECE_CHARS for line in found)
            size = sum(len(line.text) for line in found)
            if len(found) > count or not long or size == before:
                break
            pieces, before = pieces * 8, size
        self._tail_began = found[0].time if found else ""
        for number, line in enumerate(found, start=1):
            self._count(line)
            if number > len(found) - count:
                yield _shown(line)

    def _say_gap(self, before: str, after: str) -> None:
        self._note(
            f"index {self.index}: its log was rotated while nothing was read: lines between "
            f"{before} and {after} may be missing"
        )

    def _say_without_beginning(self, line: LogLine) -> None:
        """Note a log whose first line is not the bootstrap's: its beginning is missing."""
        life = self._life
        if life is None or self._choice.since_s is not None or line.text.startswith(status.PREFIX):
            return
        at = epoch(line.time)
        if at is not None and at - life.started > HEAD_S:
            self._note(
                f"index {self.index}: its log begins at {line.time}: the machine has rotated away "
                "what came before, and maybe the first line's head (containerLogMaxSize)"
            )

    def _say_nothing_left(self, before: str) -> None:
        """Note that the newest file is empty, where lines were shown or must have been written."""
        silent = not before and self._life is not None and self._life.ended
        if silent and self._choice.since_s is None:
            self._note(
                f"index {self.index}: nothing is left of its log: the machine has rotated it away"
            )
        elif before and self._broke:
            self._note(
                f"index {self.index}: its log was rotated while nothing was read: lines after "
                f"{before} may be missing"
            )


def _shown(line: LogLine) -> LogLine:
    return replace(line, text=lines.last_state(line.text))


def merged(
    cluster: Cluster,
    pods: Iterable[tuple[int, str]],
    choice: LogChoice,
    note: Callable[[str], None],
    pods_by_name: Mapping[str, Mapping[str, Any]],
) -> Iterator[LogLine]:
    """What the logs of (index, pod) hold now, by time. `note` hears of those without one.

    Raises UnreachableError when a log breaks again and again.
    """

    def one(index: int, pod: str) -> Iterator[LogLine]:
        known = pods_by_name[pod]
        life = ContainerLife.of(known)
        reader = Reader(cluster, pod, index, choice, note=note, life=life)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                yield from reader.read(follow=False)
                return
            except (GoneError, NotReadyError) as error:
                note(without_log(index, pod, error.message, last_words(known)))
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
