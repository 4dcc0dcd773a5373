"""A job as it goes: its Job, its pods and their logs, from two watches and a stream a pod.

Requests, however many nodes: a list of the Job and a watch of it; with pods, a page of 500 each and
a watch; a log request a followed node, two where several are followed. Quiet watches are asked
again every 50 s. No polling.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from kij_train import names
from kij_train.cluster.apierrors import GoneError, NotAcceptedError
from kij_train.cluster.client import Cluster
from kij_train.cluster.credentials import CredentialsError
from kij_train.cluster.logs import (
    HOLD_S,
    MOST_STREAMS,
    ContainerLife,
    InOrder,
    LogChoice,
    LogLine,
    Reader,
    Stream,
)
from kij_train.cluster.watch import Back, Changed, Event, Lost, Synced, changes
from kij_train.diagnosis import (
    STARTED,
    JobState,
    JobView,
    Node,
    Phase,
    last_words,
    node_of,
    nodes_of_job,
    trimmed,
)
from kij_train.errors import KijError

LAST_WORDS_S = 10.0
"""How long nodes may take to end, and to say why, after the Job has its verdict."""
TICK_S = 1.0


@dataclass(frozen=True)
class Note:
    """Something about the watching itself: the API server is away, or back."""

    text: str


@dataclass(frozen=True)
class Change:
    """The job or a pod is different, or a second has passed."""


@dataclass(frozen=True)
class LogEnd:
    """The log of a pod is read to its end."""

    pod_uid: str


@dataclass(frozen=True)
class CaughtUp:
    """What a pod had said before we came is read."""

    pod: str


class Observation:
    """Watches one job, from `with` on. Everything is read by the thread that iterates."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        *,
        uid: str | None = None,
        job: JobView | None = None,
        pods: bool = True,
        log_indexes: Set[int] | None = frozenset(),
        log_choice: LogChoice | None = None,
        most_streams: int = MOST_STREAMS,
        late_logs: bool = True,
        on_pod: Callable[[dict[str, Any], bool], None] | None = None,
    ) -> None:
        """`uid` is the Job's, `job` the Job itself, where they are known.

        `log_indexes` are followed; None: all. `log_choice` is of the pods that are there already:
        of one that comes later, every line is wanted. At most `most_streams` logs are followed at
        once: others wait until one of them has come to its end; without `late_logs`, those of pods
        that end meanwhile are left out. `on_pod` gets every pod as it is now, and whether it was
        deleted.
        """
        self._cluster = cluster
        self.name = name
        self._uid = job.uid if job is not None else uid
        self._with_pods = pods
        self._log_indexes = log_indexes
        self._log_choice = log_choice or LogChoice()
        self._synced = False
        """Whether the pods that were there at first are known."""
        self.job = job
        self.pods: dict[str, dict[str, Any]] = {}
        """uid → pod, cut to what diagnosis reads; one that was deleted stays, as it was last."""
        self._nodes: dict[str, Node] = {}
        self._streams: dict[str, Stream] = {}
        """Pod's uid → what follows its log."""
        self._awaiting: dict[str, None] = {}
        """Uids of pods whose logs are to be followed when there is room for one more."""
        self._followed: set[str] = set()
        """Uids of all pods that are in one of these, or have been."""
        self._most_streams, self._late_logs, self._on_pod = most_streams, late_logs, on_pod
        self._queue: queue.Queue[
            tuple[str, Event | Exception] | LogLine | CaughtUp | LogEnd | Note
        ] = queue.Queue()
        self._lines = InOrder()
        self._stop = threading.Event()

    def __enter__(self) -> Observation:
        self._start("Job", fieldSelector=f"metadata.name={self.name}")
        if self._with_pods:
            self._start("Pod", labelSelector=f"{names.LABEL_JOB_NAME}={self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for stream in self._streams.values():
            stream.pod_has_ended()

    @property
    def nodes(self) -> list[Node]:
        """Every completion index, by its newest pod."""
        assert self.job is not None
        return nodes_of_job(self.job, self._nodes.values())

    def events(self) -> Iterator[Change | LogLine | Note]:
        """What happens, until the job has ended and its logs are shown.

        Raises GoneError when the job is deleted or replaced, RefusedError when the permission to
        watch is taken away, UnreachableError when the API server is away for long.
        """
        deadline: float | None = None
        while True:
            yield from self._lines.due(time.monotonic())
            try:
                item = self._queue.get(timeout=HOLD_S / 4 if self._lines.holds else TICK_S)
            except queue.Empty:
                if self._is_known():
                    yield Change()
            else:
                if isinstance(item, (LogLine, CaughtUp, Note)):
                    yield from self._pass_on(item)
                    continue
                if isinstance(item, LogEnd):
                    del self._streams[item.pod_uid]
                    self._begin_streams()
                else:
                    try:
                        yield from self._take(*item)
                    except KijError:
                        yield from self._lines.rest()
                        raise
            if self.job is None or not self.job.state.ended or self._awaiting:
                deadline = None
                continue
            deadline = deadline or time.monotonic() + self._last_words_s()
            if self._all_said() or time.monotonic() > deadline:
                while not self._queue.empty():
                    item = self._queue.get()
                    if isinstance(item, LogLine):
                        yield from self._pass_on(item)
                yield from self._lines.rest()
                return

    def _pass_on(self, item: LogLine | CaughtUp | Note) -> Iterator[LogLine | Note]:
        """Lines by time, where they come from several pods at once."""
        if isinstance(item, CaughtUp):
            self._lines.caught_up(item.pod)
        elif isinstance(item, LogLine) and self._several():
            self._lines.take(item, time.monotonic())
        else:
            yield item

    def _several(self) -> bool:
        """Whether more than one index is followed."""
        if self._log_indexes is not None:
            return len(self._log_indexes) > 1
        return self.job is None or self.job.completions > 1

    def _start(self, kind: str, **query: str) -> None:
        def pump() -> None:
            keep = trimmed if kind == "Pod" else _whole
            try:
                found = changes(self._cluster, kind, stop=self._stop, keep=keep, **query)
                for event in found:
                    self._queue.put((kind, event))
            except Exception as error:  # whoever iterates gets it: a thread would end unheard
                self._queue.put((kind, error))

        threading.Thread(target=pump, name=f"watch-{kind}", daemon=True).start()

    def _take(self, kind: str, event: Event | Exception) -> Iterator[Change | Note]:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, (Lost, Back)):
            if kind == "Job":  # one of the watches speaks for both
                yield Note(f"{self.name}  {_of_outage(event)}")
            return
        if kind == "Job":
            self._take_job(event)
        else:
            self._take_pods(event)
        if self._is_known():
            yield Change()

    def _is_known(self) -> bool:
        """Whether the first lists have come: without its pods, every node would look pending."""
        return self.job is not None and (self._synced or not self._with_pods)

    def _take_job(self, event: Synced | Changed) -> None:
        deleted = isinstance(event, Changed) and event.deleted
        found = event.objects if isinstance(event, Synced) else [event.object]
        namespace = self._cluster.namespace
        hints = (f"see what there is: {self._cluster.address.command('list')}",)
        if deleted or not found:
            if self.job is None and self._uid is None:
                raise GoneError(f"namespace {namespace} has no job {self.name}", hints=hints)
            raise GoneError(f"job {self.name} was deleted while we watched", hints=hints)
        job = JobView(found[0])
        self._uid = self._uid or job.uid
        if job.uid != self._uid:
            raise GoneError(
                f"job {self.name} was replaced by another of that name while we watched",
                hints=(f"watch that one: {self._cluster.address.on_job('attach', self.name)}",),
            )
        self.job = job

    def _take_pods(self, event: Synced | Changed) -> None:
        if isinstance(event, Changed):
            self._take_pod(event.object, event.deleted)
            return
        there = {str(pod["metadata"]["uid"]) for pod in event.objects}
        for uid in self.pods.keys() - there:
            self._take_pod(self.pods[uid], deleted=True)
        for pod in sorted(event.objects, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            self._take_pod(pod, deleted=False)
        self._synced = True

    def _take_pod(self, pod: dict[str, Any], deleted: bool) -> None:
        uid, node = str(pod["metadata"]["uid"]), node_of(pod)
        self.pods[uid], self._nodes[uid] = pod, node
        started = node.phase in STARTED
        wanted = self._log_indexes is None or node.index in self._log_indexes
        if started and wanted and uid not in self._followed:
            self._followed.add(uid)
            self._awaiting[uid] = None
            self._begin_streams()
        if uid in self._streams and (deleted or node.phase in (Phase.DONE, Phase.FAILED)):
            self._streams[uid].pod_has_ended()
        if deleted and node.phase not in (Phase.DONE, Phase.FAILED):
            pod["metadata"].setdefault("deletionTimestamp", pod["metadata"]["creationTimestamp"])
        if self._on_pod is not None:
            self._on_pod(pod, deleted)

    def _begin_streams(self) -> None:
        """Follow the next logs, as far as there is room."""
        while self._awaiting and len(self._streams) < self._most_streams:
            uid = next(iter(self._awaiting))
            del self._awaiting[uid]
            if self._late_logs or self._nodes[uid].phase not in (Phase.DONE, Phase.FAILED):
                self._begin_stream(uid)

    def _begin_stream(self, uid: str) -> None:
        pod, node = self.pods[uid], self._nodes[uid]
        own = self._log_choice
        choice = LogChoice(container=own.container) if self._synced else own
        reader = Reader(
            self._cluster,
            node.pod or "",
            node.index,
            choice,
            note=self._note,
            life=ContainerLife.of(pod),
        )
        read_before = self._several() and choice.tail != 0
        if read_before:
            self._lines.begin(reader.pod, time.monotonic())
        self._streams[uid] = Stream(
            reader,
            emit=self._queue.put,
            note=self._note,
            done=lambda: self._queue.put(LogEnd(uid)),
            last_words=lambda: last_words(self.pods[uid]),
            caught_up=(lambda: self._queue.put(CaughtUp(reader.pod))) if read_before else None,
        )
        self._streams[uid].start()
        if node.phase in (Phase.DONE, Phase.FAILED):
            self._streams[uid].pod_has_ended()

    def _note(self, text: str) -> None:
        self._queue.put(Note(text))

    def _last_words_s(self) -> float:
        """How long to listen on: ranks of a cancelled job have their grace period to save."""
        assert self.job is not None
        cancelled = self.job.state is JobState.CANCELLED
        return LAST_WORDS_S + (self.job.grace_s if cancelled else 0)

    def _all_said(self) -> bool:
        """Whether nothing more is to come: every pod has ended, every log is read."""
        assert self.job is not None
        if not self._is_known() or self._streams or self._awaiting:
            return False
        if not self._with_pods or self.job.state is JobState.CANCELLED:
            return self._queue.empty()
        ended = (Phase.DONE, Phase.FAILED)
        gone = (pod["metadata"].get("deletionTimestamp") for pod in self.pods.values())
        done = (node.phase in ended for node in self._nodes.values())
        return self._queue.empty() and all(a or b for a, b in zip(done, gone, strict=True))


def _of_outage(event: Lost | Back) -> str:
    if isinstance(event, Back):
        return "the API server is back"
    if isinstance(event.error, (CredentialsError, NotAcceptedError)):
        return f"{event.error.message}; the job goes on"
    return "the API server does not answer; the job goes on"


def _whole(job: dict[str, Any]) -> dict[str, Any]:
    return job
