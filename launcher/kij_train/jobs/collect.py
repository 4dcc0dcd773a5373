"""Brings the records of an array's Job into its folder: what its pods said last, then their logs.

Requests: a page of pods for 500 of them, and a log for each index whose records do not fit into its
pod's termination message. An index that is whole in the folder costs nothing any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kij_train import diagnosis
from kij_train.arrays import numbers
from kij_train.arrays.facts import Attempt
from kij_train.arrays.outcomes import State
from kij_train.arrays.progress import Progress
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import indexes_of, items_of, trial_nodes
from kij_train.diagnosis import TOLD_TO_END, JobState, Object, Phase
from kij_train.errors import KijError
from kij_train.jobs.trial_nodes import TrialNodes
from kij_train.pod import itemfigures, itemplan, itemrecords, results, trials

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MOST_AT_ONCE = 16
"""Logs that are read at the same time."""
ENDED = (Phase.DONE, Phase.FAILED)
GOING = (Phase.RUNNING, Phase.WAITING, Phase.STANDBY, Phase.ENDING)


class _Pod(NamedTuple):
    """What is kept of a pod: there may be tens of thousands."""

    name: str
    created: float
    phase: Phase
    machine: str
    life: Any
    """Whether its container has started, for the reader of its log."""


@dataclass
class _Index:
    """What is known of an index of this attempt."""

    items: int
    whole: bool = False
    """Its records are in the folder, or, as far as they are on a volume, accounted for."""
    over: bool = False
    """No pod of it comes any more."""
    is_read: bool = False
    """Its log is."""
    done: int = 0
    failed: int = 0
    """Items."""
    pods: dict[str, _Pod] = field(default_factory=dict)
    """By uid, those that may have records which nothing else has."""
    seen: dict[str, results.LogReader] = field(default_factory=dict)
    """By the name of a pod, the records that it has given while it was there: a pod that is deleted
    takes its log with it."""

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, and items of it are left that nothing is known of."""
        return self.over and not self.whole and not self.is_read

    @property
    def newest(self) -> _Pod | None:
        """The pod that counts."""
        return max(self.pods.values(), key=lambda pod: pod.created, default=None)


class Collector:
    """Takes the pods of one attempt as they come, from a list or a watch."""

    def __init__(
        self,
        cluster: Cluster,
        folder: ArrayFolder,
        attempt: Attempt,
    ) -> None:
        self._cluster, self._folder, self._attempt = cluster, folder, attempt
        self._on_volume = bool(folder.about.request.get("results"))
        plan = folder.plan()
        positions = items_of(attempt, plan)
        self._numbers = indexes_of(attempt, plan)
        self._positions = positions
        self._nodes = TrialNodes() if trial_nodes(folder) > 1 else None
        self._indexes = {index: _Index(len(positions(index))) for index in self._numbers}
        self._left = folder.left(attempt.number)
        self._kept = {index: dict(one) for index, one in self._left.items()}
        self._seen: set[str] = set()
        """Uids of pods that have ended and were taken."""
        self._sent: set[int] = set()
        """Indexes whose numbers have come from a volume."""
        self._failing: list[int] = []
        self._has_failed = self._is_cancelled = False
        """The Job."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="log")
        self._reading: list[Future[None]] = []
        for index in folder.parts(attempt.number).whole & self._indexes.keys():
            data = folder.part(attempt.number, index).read_bytes()
            self._count(index, results.read_part(data).records)

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- pods -------------------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to collect."""
        return all(one.whole for one in self._indexes.values())

    def needs(self, number: int) -> bool:
        """Whether the pod of a completion index may have records that are not in the folder."""
        return number < len(self._numbers) and not self._indexes[self._numbers[number]].whole

    def take_job(self, job: Object) -> None:
        """The Job as it is now: indexes of it are given up, or all of them."""
        state = diagnosis.JobView(job).state
        ended = state in (JobState.SUCCEEDED, JobState.FAILED)
        self._has_failed = state is JobState.FAILED
        self._is_cancelled = state is JobState.CANCELLED
        text = job.get("status", {}).get("failedIndexes") or ""
        given_up = numbers.parse(text, below=len(self._numbers)) if text and not ended else []
        for number in range(len(self._numbers)) if ended else given_up:
            self._indexes[self._numbers[number]].over = True

    def take(self, pod: Object, *, deleted: bool = False) -> None:
        """One pod as it is now."""
        number, uid = diagnosis.index_of(pod), str(pod["metadata"]["uid"])
        if self._nodes is not None:
            self._nodes.take(pod)
        if not 0 <= number < len(self._numbers):
            return
        index = self._numbers[number]
        known = self._indexes[index]
        if known.whole or uid in self._seen:
            return
        node = diagnosis.node_of(pod)
        if node.phase in ENDED:
            self._seen.add(uid)
        elif deleted:
            gone = known.pods.pop(uid, None)
            if gone is not None and gone.name in known.seen:
                known.pods[uid] = gone._replace(phase=Phase.FAILED)
            return
        from kij_train.cluster.logs import ContainerLife

        life = ContainerLife.of(pod)
        name, machine = str(node.pod), str(node.node or "")
        known.pods[uid] = _Pod(name, node.created or 0.0, node.phase, machine, life)
        if node.phase in ENDED:
            self._take_ended(pod, index, known, known.pods[uid])

    def _take_ended(self, pod: Object, index: int, known: _Index, ended: _Pod) -> None:
        state = diagnosis.own(pod.get("status", {}).get("containerStatuses")).get("state") or {}
        end = state.get("terminated") or {}
        account = results.decode_account(str(end.get("message") or ""))
        if account is None or not self._is_verdict(account, index, known, end.get("exitCode")):
            if account is not None and self._is_mine(account, index) and not self._on_volume:
                reader = known.seen.setdefault(ended.name, results.LogReader())
                for number, line in enumerate(account.lines):
                    reader.feed(results.encode_line(number, line).decode())
            self._take_killed(pod, index, ended)
            return
        if account.figures is not None:
            self._reading.append(
                self._pool.submit(self._read_figures, index, ended, account.figures)
            )
        part = account.part()
        if part is not None and not part.damage:
            self._keep_whole(index, part)
        elif self._on_volume:
            known.done, known.failed, known.whole = account.done, account.failed, True
            said = {"failed_items": account.failed_items, "failed": account.failed}
            self._left[index] = {
                "account": {**said, "done": account.done, "error": account.error},
                "machine": ended.machine,
            }
            self._tell_failing(index, known)
        else:
            known.is_read = True
            self._reading.append(self._pool.submit(self._read, index, [ended], account))

    def _is_verdict(
        self, account: results.Account, index: int, known: _Index, exit_code: Any
    ) -> bool:
        """Whether it is the last word on this index: of a pod that was not told to end."""
        all_ran = account.done + account.failed == known.items
        ended_well = exit_code in (0, itemplan.EXIT_ITEMS)
        return self._is_mine(account, index) and all_ran and ended_well

    def _is_mine(self, account: results.Account, index: int) -> bool:
        return (account.index, account.attempt) == (index, self._attempt.number)

    def _take_killed(self, pod: Object, index: int, ended: _Pod) -> None:
        """It has ended without a word, or was told to end before all items were done."""
        failure = next(iter(diagnosis.failures_of_pods([pod])), None)
        if failure is None:
            return
        if self._is_cancelled and failure.exit_code in TOLD_TO_END and not failure.oom_killed:
            return  # that the Job is cancelled is why
        said = "OOMKilled: out of memory" if failure.oom_killed else diagnosis.last_words(pod)
        self._left[index] = {
            "error": f"its pod was ended: {itemrecords.shortened(said or 'without a word')}",
            "exit_code": failure.exit_code,
            "machine": ended.machine,
            "pod": ended.name,
        }

    def saw(self, index: int, pod: str, line: str) -> None:
        """A line with a record, from a log that is followed; it counts until all of them come."""
        known = self._indexes[index]
        if self._on_volume or known.whole:
            return
        record = known.seen.setdefault(pod, results.LogReader()).feed(line)
        if record is not None and not record.get("line"):
            known.done += not itemrecords.failed(record)
            known.failed += itemrecords.failed(record)

    def keep_seen(self) -> None:
        """Keep what was seen of indexes that are not whole, for when nobody follows any more."""
        for index, known in self._indexes.items():
            data = b"".join(reader.part().data for reader in known.seen.values())
            if data and not known.whole:
                self._folder.write_part(self._attempt.number, index, data, whole=False)

    def index_of(self, number: int) -> int:
        """The index of the first attempt that a completion index of this one stands for."""
        return self._numbers[number]

    # --- records ----------------------------------------------------------------------------------

    def _keep_whole(self, index: int, part: results.Part) -> None:
        self._folder.write_part(self._attempt.number, index, part.data)
        with self._lock:
            self._left.pop(index, None)
            self._count(index, part.records)

    def _count(self, index: int, records: Iterable[Mapping[str, Any]]) -> None:
        known = self._indexes[index]
        bad = {one["key"] for one in records if itemrecords.failed(one)}
        known.done = len({one["key"] for one in records} - bad)
        known.failed, known.whole = len(bad), True
        known.pods.clear()
        known.seen.clear()
        self._tell_failing(index, known)

    def _tell_failing(self, index: int, known: _Index) -> None:
        if known.failed:
            self._failing.append(index)

    def _read(self, index: int, pods: list[_Pod], account: results.Account | None) -> None:
        """Read the records of an index from the logs of its pods, the oldest first."""
        data, damage = b"", []
        part = results.Part([], [], b"")
        for pod in pods:
            seen = self._indexes[index].seen.get(pod.name) if account is None else None
            reader = seen or results.LogReader()
            why = self._feed(reader, index, pod)
            part = reader.part(account)
            data += part.data
            damage += [one.text for one in part.damage] + ([why] if why else [])
        self._indexes[index].is_read = False
        if account is not None and not damage:
            self._keep_whole(index, part)
            return
        if data:
            self._folder.write_part(self._attempt.number, index, data, whole=False)
        if account is not None:
            with self._lock:
                self._left[index] = {
                    "error": f"its record is lost: {damage[0]}",
                    "damage": damage,
                    "machine": pods[-1].machine,
                    "pod": pods[-1].name,
                }

    def _read_figures(self, index: int, pod: _Pod, said: Mapping[str, Any]) -> None:
        """Make parts of the figures that the last pod has sent, of all attempts so far."""
        reader = results.LogReader()
        why = "" if "error" in said else self._feed(reader, index, pod)
        plan = self._folder.plan()
        try:
            data = itemfigures.joined(reader.part().records, said)
            for attempt, each, part in itemfigures.parts(data, plan):
                self._folder.write_part(attempt, each, part)
                if attempt == self._attempt.number:
                    self._sent.add(each)
        except ValueError as error:
            with self._lock:
                left = self._left.setdefault(index, {})
                left["damage"] = [f"the numbers of all indexes: {why or error}"]

    def _feed(self, reader: results.LogReader, index: int, pod: _Pod) -> str:
        """Read one log; why it could not be read, or that it has lost something."""
        from kij_train.cluster.apierrors import BrokenStreamError
        from kij_train.cluster.logs import ATTEMPTS, LogChoice, Reader

        notes: list[str] = []
        log = Reader(self._cluster, pod.name, index, LogChoice(), note=notes.append, life=pod.life)
        for _ in range(ATTEMPTS):
            try:
                for line in log.read(follow=False):
                    reader.feed(line.text)
                return ""
            except BrokenStreamError as error:
                why = error.message
            except KijError as error:
                return f"no log of pod {pod.name}: {error.message}"
        return f"the log of pod {pod.name} broke off: {why}"

    def drain(self, *, unfinished: bool = False) -> None:
        """Wait for the logs that are read; with `unfinished`, also of pods that end early or run.

        Raises the first error of a file that could not be written.
        """
        self._await_logs()
        if unfinished:
            for index, known in self._indexes.items():
                pods = sorted(known.pods.values(), key=lambda pod: pod.created)
                begun = [pod for pod in pods if pod.phase in (*ENDED, *GOING)]
                if begun and not known.whole and not self._on_volume:
                    self._reading.append(self._pool.submit(self._read, index, begun, None))
            self._await_logs()
            self._take_first_failure()
        for index in self._sent:
            self._left.pop(index, None)
        if self._left != self._kept:
            self._folder.keep_left(self._attempt.number, self._left)
            self._kept = {index: dict(one) for index, one in self._left.items()}

    def _take_first_failure(self) -> None:
        """Of an item of several pods, the one that failed first has its cause."""
        if self._nodes is None:
            return
        index = self._numbers[0]
        known, first = self._indexes[index], self._nodes.first
        if first is None or not self._has_failed or (known.whole and not first.number):
            return
        plan = self._folder.plan()
        key, value = plan.item(self._positions(index)[0])
        (record,) = itemrecords.item_records(key, first.run(index, self._attempt.number), b"")
        if isinstance(value, dict):
            seed = itemplan.seed_of(plan.seed, key)
            record = trials.with_parameters(record, value, seed)
        self._keep_whole(index, results.read_part(itemrecords.dumps(record).encode() + b"\n"))

    def _await_logs(self) -> None:
        reading, self._reading = self._reading, []
        for each in reading:
            each.result()

    # --- what is known ----------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far the attempt is, by the pods that were taken."""
        found = list(self._indexes.values())
        lost = [index for index, one in self._indexes.items() if one.is_lost]
        running = [
            (index, one.newest.life.started if one.newest and one.newest.life else 0.0)
            for index, one in self._indexes.items()
            if _runs(one)
        ]
        return Progress(
            items=sum(one.items for one in found),
            done=sum(one.done for one in found),
            failed=sum(one.failed for one in found),
            indexes=len(found),
            ended=sum(one.whole or one.over for one in found),
            missing=sum(one.items - one.done - one.failed for one in found if one.is_lost),
            running=len(running),
            failing=(*lost, *reversed(self._failing)),
            slowest=min(running, key=lambda each: each[1], default=None),
        )

    def live(self) -> dict[int, State]:
        """What indexes do that have not ended."""
        return {
            index: State.RUNNING if _runs(one) else State.PENDING
            for index, one in self._indexes.items()
            if not one.whole and not one.over
        }


def _runs(index: _Index) -> bool:
    newest = index.newest
    going = newest is not None and newest.phase in GOING
    return going and not index.whole and not index.over
