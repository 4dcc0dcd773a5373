"""Files to and from the pod of an index, by a small Python program in it: pod/copying.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kij_train.errors import KijError, RequestError, UnreachableError
from kij_train.jobs.asking import get
from kij_train.jobs.inside import CODE, pod_of
from kij_train.pod import copying
from kij_train.pod.copying import CopyError, Progress, Summary, Wire

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.cluster.execute import Session

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
    """A path in the pod of an index."""

    job: str
    index: int
    path: str

    def __str__(self) -> str:
        return f"{self.job}:{self.index}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """`NAME:INDEX:PATH`; None for what is a path of this machine."""
        found = re.fullmatch(r"([^/:]*):([0-9]{1,9}):(.+)", text, re.DOTALL)
        return None if found is None else cls(found[1], int(found[2]), found[3])


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


def _pod(cluster: Cluster, place: Place) -> str:
    """Raises RequestError where it does not run."""
    job = get(cluster, place.job, about_local=ABOUT_LOCAL)
    try:
        return pod_of(cluster, job, place.index)
    except RequestError as error:
        keep = (
            "what a pod leaves is gone with it, but on a volume: launch with --mount pvc:NAME:/out"
        )
        results = cluster.address.on_job("results", place.job)
        of_array = () if job.array is None else (f"results of its items: {results}",)
        error.hints = (*error.hints, *of_array, keep)
        raise


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
