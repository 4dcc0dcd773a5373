"""Files to and from the pod of an index, by a small Python program in it: pod/copying.py."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kij_train import diagnosis
from kij_train.diagnosis import JobView, Phase
from kij_train.errors import KijError, RequestError, UnreachableError
from kij_train.jobs.asking import get, pods_of
from kij_train.jobs.inside import CODE, UP, not_up, pod_of
from kij_train.pod import copying
from kij_train.pod.copying import CopyError, Progress, Summary, Wire

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.cluster.execute import Session

AT_ONCE = 8
"""Pods that are copied from, or to, at the same time."""
MOST_TRIES = 3
"""In a row, without a byte that has come through, when the connection breaks."""
SIGNALLED = 128
"""Exit codes above it are those of signals: with its pod, as a rule."""
LAST_WORDS_S = 5.0
WRITING_S = 120.0
"""How long the pod may take for the next piece: its disk may be slow."""
ABOUT_LOCAL = "the files of a run with --local are on this machine: cp"
_PROGRAM = Path(copying.__file__).read_bytes()
# Nothing is sent before it is there to read: a server that closes on what it has not read may lose
# its last words.
_RECEIVE = (
    "import os, sys; os.write(1, b'K\\0\\0\\0\\0'); "
    f"exec(compile(sys.stdin.buffer.read({len(_PROGRAM)}), 'copying.py', 'exec'))"
)
COMMAND = ["python3", "-S", "-c", _RECEIVE]


@dataclass(frozen=True)
class Place:
    """A path in the pod of an index, or in every pod."""

    job: str
    index: int | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """`NAME:INDEX:PATH` or `NAME:/PATH`; None for what is a path of this machine."""
        found = re.fullmatch(r"([^/:]*):(?:([0-9]{1,9}):(.+)|(/.*))", text, re.DOTALL)
        if found is None:
            return None
        if found[2] is None:
            return cls(found[1], None, found[4])
        return cls(found[1], int(found[2]), found[3])


def copy(
    cluster: Cluster,
    source: Place | str,
    target: Place | str,
    *,
    progress: Progress,
    note: Callable[[str], None],
) -> Summary:
    """Copy a file or a folder; one of the two is in a pod. See pod/copying.py.

    A connection that breaks is opened again, and the copy goes on where it was. Raises
    RequestError, RefusedError, UnreachableError, KijError where it cannot go on.
    """
    there = source if isinstance(source, Place) else target
    assert isinstance(there, Place)
    pod = _pod(cluster, there)
    tries = size_bytes = 0
    while True:
        before = size_bytes

        def counted(done: int, total: int, name: str, before: int = before) -> None:
            nonlocal size_bytes
            size_bytes = before + done
            progress(size_bytes, before + total, name)

        try:
            summary = _once(cluster, pod, source, target, counted)
            return summary._replace(size_bytes=before + summary.size_bytes)
        except UnreachableError as error:
            tries = 1 if size_bytes > before else tries + 1
            now = _pod(cluster, there)
            if now != pod:
                raise UnreachableError(
                    f"pod {pod} was replaced by {now} while it was copied",
                    hints=("to copy with that one: the same command again",),
                ) from None
            if tries > MOST_TRIES:
                raise
            note(f"{error.message.partition(';')[0]}; going on")


def copy_all(
    cluster: Cluster,
    source: Place | str,
    target: Place | str,
    *,
    progress: Progress,
    note: Callable[[str], None],
) -> Summary:
    """`copy` for every index that runs, some at once: from PATH into a folder of its number.

    What cannot be copied for one index is a problem in the summary; raised where all have failed.
    """
    there = source if isinstance(source, Place) else target
    assert isinstance(there, Place)
    running, silent = _indexes(cluster, there)
    shares: dict[int, tuple[int, int]] = {}
    results: queue.Queue[tuple[int, Summary | BaseException]] = queue.Queue()
    waiting = iter(running)
    lock = threading.Lock()

    def one(index: int) -> Summary:
        def counted(done: int, total: int, name: str) -> None:
            with lock:
                shares[index] = (done, total)
                dones, totals = zip(*shares.values(), strict=True)
                progress(sum(dones), sum(totals), f"{index}/{name}")

        said = partial(_of_index, index, note)
        if isinstance(target, str):
            from_pod = replace(there, index=index)
            return copy(
                cluster, from_pod, f"{Path(target, str(index))}/", progress=counted, note=said
            )
        return copy(cluster, source, replace(there, index=index), progress=counted, note=said)

    def work() -> None:
        while True:
            with lock:
                index = next(waiting, None)
            if index is None:
                return
            try:
                results.put((index, one(index)))
            except BaseException as error:
                results.put((index, error))

    # They end with this process: an interrupted copy leaves parts, wherever it is.
    for _ in range(min(AT_ONCE, len(running))):
        threading.Thread(target=work, daemon=True).start()
    return _together(dict(results.get() for _ in running), silent)


def _of_index(index: int, note: Callable[[str], None], text: str) -> None:
    note(f"index {index}: {text}")


def _together(results: dict[int, Summary | BaseException], silent: dict[int, str]) -> Summary:
    """One summary of all. Raises what is no KijError, and the first error where all have failed."""
    summaries = {index: one for index, one in results.items() if isinstance(one, Summary)}
    problems = dict(silent)
    for index, error in sorted(results.items()):
        if isinstance(error, BaseException):
            if not isinstance(error, KijError) or not summaries:
                raise error
            problems[index] = error.message
    told = [f"index {index}: {why}" for index, why in sorted(problems.items())]
    told += [f"{index}/{why}" for index, one in sorted(summaries.items()) for why in one.problems]
    more = sum(one.more_problems for one in summaries.values())
    most = copying.MOST_PROBLEMS
    return Summary(
        sum(one.files for one in summaries.values()),
        sum(one.size_bytes for one in summaries.values()),
        sum(one.kept for one in summaries.values()),
        told[:most],
        more + len(told[most:]),
    )


def _indexes(cluster: Cluster, place: Place) -> tuple[list[int], dict[int, str]]:
    """Those that run; and those that do not, and why. Raises RequestError where none runs."""
    job = get(cluster, place.job, about_local=ABOUT_LOCAL)
    pods = pods_of(cluster, place.job)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    running = [node.index for node in nodes if node.phase in UP and node.pod]
    if not running:
        state = job.state.value
        raise _elsewhere(
            cluster, job, not_up(cluster, job.name, f"no pod of {job.name} runs: it is {state}")
        )
    silent = {
        node.index: f"it is {node.phase.value}"
        for node in nodes
        if node.index not in running and node.phase is not Phase.LOST
    }
    return running, silent


def _pod(cluster: Cluster, place: Place) -> str:
    """Raises RequestError where it does not run."""
    job = get(cluster, place.job, about_local=ABOUT_LOCAL)
    assert place.index is not None
    try:
        return pod_of(cluster, job, place.index)
    except RequestError as error:
        raise _elsewhere(cluster, job, error) from None


def _elsewhere(cluster: Cluster, job: JobView, error: RequestError) -> RequestError:
    """With where else its files may be."""
    keep = "what a pod leaves is gone with it, but on a volume: launch with --mount pvc:NAME:/out"
    results = cluster.address.on_job("results", job.name)
    of_array = () if job.array is None else (f"results of its items: {results}",)
    error.hints = (*error.hints, *of_array, keep)
    return error


def _once(
    cluster: Cluster,
    pod: str,
    source: Place | str,
    target: Place | str,
    progress: Progress,
) -> Summary:
    """With one connection."""
    from kij_train.cluster.execute import Session

    session = Session.open(cluster, pod, COMMAND, stdin=True, tty=False)
    pipes = _Pipes(session, pod)
    wire = Wire(pipes.read, pipes.write, pipes.has_news)
    try:
        try:
            return _spoken(wire, pipes, source, target, progress)
        except UnreachableError:
            if pipes.has_last_words():
                wire.receive()
            pipes.check_end()
            raise
    except CopyError as error:
        raise (RequestError if error.is_request else KijError)(error.message) from None
    except (ValueError, LookupError, TypeError):  # no JSON, or not what is to stand in it
        raise KijError(f"the Python of pod {pod} does not speak as it should") from None
    finally:
        session.close()


def _spoken(
    wire: Wire, pipes: _Pipes, source: Place | str, target: Place | str, progress: Progress
) -> Summary:
    wire.receive()
    pipes.write(_PROGRAM)
    if isinstance(source, Place):
        assert isinstance(target, str)
        wire.tell("Q", {"sends": True, "path": source.path, "folder": CODE})
        return copying.take(wire, target, progress)
    assert isinstance(target, Place)
    wire.tell("Q", {"sends": False, "path": target.path, "folder": CODE})
    return copying.send(wire, source, progress)


class _Pipes:
    """stdin and stdout of the program in the pod."""

    def __init__(self, session: Session, pod: str) -> None:
        self._session, self._pod = session, pod
        self._buffer = bytearray()
        self._errors = b""
        self._is_deaf = False
        """Something could not be written."""

    def has_news(self) -> bool:
        return bool(self._buffer) or (not self._session.ended and self._session.waits(0))

    def has_last_words(self) -> bool:
        """Whether a frame has come from a program that did not hear us any more."""
        with suppress(KijError):
            while not self._session.ended and self._session.waits(LAST_WORDS_S):
                self._fill()
        return self._is_deaf and bool(self._buffer)

    def read(self, count: int) -> bytes:
        """Raises KijError where the program has ended instead."""
        while len(self._buffer) < count:
            self._fill()
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def write(self, data: bytes) -> None:
        """Raises UnreachableError."""
        from kij_train.cluster.execute import STDIN

        self._is_deaf = True
        for start in range(0, len(data), copying.CHUNK_BYTES):
            self._session.write(STDIN, data[start : start + copying.CHUNK_BYTES])
        self._is_deaf = False

    def check_end(self) -> None:
        """Raise what the program's exit code says, where it has ended."""
        if not self._session.ended:
            return
        code = self._session.exit_code()
        last = self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if code > SIGNALLED:
            raise UnreachableError(f"the copying in pod {self._pod} was ended")
        raise KijError(f"pod {self._pod} cannot copy: exit code {code} {last}".rstrip())

    def _fill(self) -> None:
        from kij_train.cluster.channels import PING_S
        from kij_train.cluster.execute import STDERR, STDOUT

        self.check_end()
        if not self._session.waits(PING_S):
            self._session.ping()
            return
        try:
            channel, data = self._session.read(WRITING_S)
        except TimeoutError:
            return
        if channel == STDOUT:
            self._buffer += data
        elif channel == STDERR:
            self._errors = (self._errors + data)[-4096:]
