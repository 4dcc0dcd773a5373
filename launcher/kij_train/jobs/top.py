"""Looks at the ranks of a job as it goes: a program in some of its pods, one connection each.

Every pod is sent pod/vitals.py through exec, once, and then asked for a look at each tick, all at
about one time, so that ranks can be compared. Of a large job, MOST_PODS pods are looked at, evenly:
so `top` costs the API server no more than `status`, on jobs without supervisors as on those with
them. Steps are known of all pods where supervisors run: the leader hears them anyway, and any pod
tells which ranks it calls slow.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kij_train import diagnosis
from kij_train.diagnosis import JobView, Node, Phase
from kij_train.diagnosis.vitals import Board
from kij_train.errors import KijError, RefusedError, RequestError, UnreachableError, no_such_index
from kij_train.jobs.asking import get, pods_of
from kij_train.jobs.inside import not_up
from kij_train.pod import contract, devices, vitals
from kij_train.pod.vitals import Look

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.cluster.execute import Session

MOST_PODS = 8
"""Pods that are looked at where nobody asks for more."""
MOST_SLOW = 2
"""Pods that are looked at beside those, because the leader calls one of their ranks slow."""
STARTS_S = 30.0
"""How long the first pod may take to answer: Python starts, and loads the library of the GPUs."""
AGAIN_S = 5.0
"""Between two looks at which pods there are, while one of those looked at is gone."""
REFRESH_S = 60.0
"""The same while all are there: an elastic job may have more."""
LOCAL_HINT = (
    "a run with --local is in no cluster: kij-train top NAME --local, on the machine where it runs"
)
_FILES = (contract.__file__, devices.__file__, vitals.__file__)
_PROGRAM = repr([(Path(file).stem, Path(file).read_text("utf-8")) for file in _FILES]).encode()
# The files become the modules that they import each other as.
_RECEIVE = f"""
import ast, os, sys, types
os.write(1, b"{vitals.READY}\\n")
for name in ("kij_train", "kij_train.pod"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, text in ast.literal_eval(sys.stdin.buffer.read({len(_PROGRAM)}).decode()):
    module = types.ModuleType("kij_train.pod." + name)
    sys.modules[module.__name__] = module
    setattr(sys.modules["kij_train.pod"], name, module)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.exit(sys.modules["kij_train.pod.vitals"].serve())
"""
COMMAND = ["python3", "-c", _RECEIVE]


def chosen(
    nodes: Sequence[Node],
    *,
    index: int | None = None,
    everyone: bool = False,
    slow: Collection[int] = (),
    now: Collection[str] = (),
) -> list[Node]:
    """Which running pods to look at: one index, all, or MOST_PODS and those of slow ranks.

    Of those that are looked at `now`, by their names, all that still run stay.
    """
    up = [node for node in nodes if node.phase is Phase.RUNNING and node.pod]
    if index is not None:
        return [node for node in up if node.index == index]
    if everyone:
        return up
    stay = [node for node in up if node.pod in now]
    named = [node for node in up if node.index in slow and node not in stay][:MOST_SLOW]
    free = MOST_PODS - len([node for node in stay if node.index not in slow])
    others = [node for node in up if node not in stay and node not in named]
    step = max(1, -(-len(others) // free)) if free > 0 else 0
    fresh = others[::step][:free] if step else []
    return sorted([*stay, *named, *fresh], key=lambda node: node.index)


class Top:
    """Looks at the pods of one job. Use it as a context; `board` has what they said."""

    def __init__(
        self, cluster: Cluster, name: str, *, index: int | None = None, everyone: bool = False
    ) -> None:
        """Raises RequestError for a job of which no pod runs, and what `get` raises."""
        self.board = Board()
        self._cluster, self._name = cluster, name
        self._index, self._everyone = index, everyone
        self._news: queue.Queue[tuple[_Stream, Look | KijError]] = queue.Queue()
        self._streams: dict[str, _Stream] = {}
        self._next = 0.0
        self.running = 0
        """Pods that run, looked at or not."""
        job = get(cluster, name, about_local=LOCAL_HINT)
        if index is not None and not 0 <= index < job.completions:
            raise no_such_index(name, index, job.completions)
        if job.state.ended:
            raise RequestError(
                f"{name} does not run any more: {job.state.value}",
                hints=(f"how it ended: {cluster.address.on_job('status', name)}",),
            )
        self._open(job)
        if not self._streams:
            which = f"no pod of {name} runs" if index is None else f"index {index} does not run"
            raise not_up(cluster, name, which, index)

    def __enter__(self) -> Top:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def first(self) -> None:
        """Wait for the first answers.

        Raises RefusedError where no pod may be looked at, UnreachableError where none answers.
        """
        deadline = time.monotonic() + STARTS_S
        waiting, errors = set(self._streams.values()), list[KijError]()
        while waiting and time.monotonic() < deadline:
            with suppress(queue.Empty):
                stream, said = self._news.get(timeout=0.25)
                waiting.discard(stream)
                self._take(stream, said)
                errors += [said] if isinstance(said, KijError) else []
        if any(pod.look is not None for pod in self.board.pods.values()):
            self.board.compare(time.monotonic())
            return
        refusals = [error for error in errors if isinstance(error, RefusedError)]
        if errors:
            raise (refusals or errors)[0]
        raise UnreachableError(f"no pod of {self._name} has answered for {STARTS_S:.0f} s")

    def look(self, seconds: float) -> bool:
        """Ask all, and take in what they say for so long. False when the job has ended."""
        asked = time.monotonic()
        for stream in self._streams.values():
            stream.ask()
        while (left := asked + seconds - time.monotonic()) > 0:
            with suppress(queue.Empty):
                self._take(*self._news.get(timeout=left))
        self.board.compare(asked)
        return self._refresh()

    def _take(self, stream: _Stream, said: Look | KijError) -> None:
        pod = self.board.pods.get(stream.index)
        if pod is None or pod.name != stream.pod:
            return  # of a pod that another one has replaced
        if isinstance(said, Look):
            self.board.take(stream.index, said, time.monotonic())
            return
        pod.problem = said.message
        stream.close()
        self._next = min(self._next, time.monotonic() + AGAIN_S)

    def _refresh(self) -> bool:
        if time.monotonic() < self._next:
            return True
        try:
            job = get(self._cluster, self._name)
            if job.state.ended:
                return False
            self._open(job)
        except RefusedError:
            raise
        except UnreachableError:  # the server is away: the next time
            self._next = time.monotonic() + AGAIN_S
        return True

    def _open(self, job: JobView) -> None:
        """Look at the pods that are chosen now."""
        now = time.monotonic()
        self._next = now + REFRESH_S
        pods = pods_of(self._cluster, self._name, self._index)
        nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
        self.running = sum(node.phase is Phase.RUNNING for node in nodes)
        alive = {pod for pod, stream in self._streams.items() if stream.alive}
        wanted = chosen(
            nodes,
            index=self._index,
            everyone=self._everyone,
            slow=self.board.slow_indexes(),
            now=alive,
        )
        names = {str(node.pod) for node in wanted}
        for pod in set(self._streams) - names:
            self._streams.pop(pod).close()
        self.board.keep({node.index for node in wanted})
        for node in wanted:
            pod = str(node.pod)
            self.board.watch(node.index, pod, node.node or "", now)
            if pod not in alive:
                self._streams[pod] = _Stream(self._cluster, pod, node.index, self._news)
        if len(alive & names) < len(names) or not names:
            self._next = now + AGAIN_S


class _Stream:
    """The program in one pod."""

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        index: int,
        news: queue.Queue[tuple[_Stream, Look | KijError]],
    ) -> None:
        self.pod, self.index = pod, index
        self.alive = True
        self._cluster, self._news = cluster, news
        self._session: Session | None = None
        self._ready = False
        # Nobody waits for one that hangs.
        threading.Thread(target=self._run, name=f"top of {pod}", daemon=True).start()

    def ask(self) -> None:
        """Ask for a look; what is broken is told by who reads."""
        from kij_train.cluster.execute import STDIN

        if self._ready and self._session is not None:
            with suppress(KijError):
                self._session.write(STDIN, b"\n")

    def close(self) -> None:
        self.alive = False
        if self._session is not None:
            self._session.close()

    def _run(self) -> None:
        from kij_train.cluster.execute import Session

        try:
            self._session = Session.open(self._cluster, self.pod, COMMAND, stdin=True, tty=False)
            if not self.alive:  # it was closed meanwhile
                self._session.close()
                return
            self._read(self._session)
        except KijError as error:
            if self.alive:
                self._news.put((self, error))
        except (OSError, ValueError):  # `close` takes the connection away from under select
            if self.alive:
                raise
        finally:
            self.alive = False

    def _read(self, session: Session) -> None:
        """Send the program, then take in its lines until it ends. Raises KijError."""
        from kij_train.cluster.channels import LONG_S, PING_S
        from kij_train.cluster.execute import STDERR, STDIN, STDOUT

        unread, errors, greetings = b"", b"", 0
        while not session.ended:
            if not session.waits(PING_S):
                session.ping()
                continue
            channel, data = session.read(LONG_S)
            errors = (errors + data)[-4096:] if channel == STDERR else errors
            *lines, unread = (unread + (data if channel == STDOUT else b"")).split(b"\n")
            for line in lines:
                if line.decode("utf-8", "replace") == vitals.READY:
                    greetings += 1
                    session.write(STDIN, _PROGRAM if greetings == 1 else b"\n")
                    self._ready = greetings > 1
                elif (look := Look.read(line.decode("utf-8", "replace"))) is not None:
                    self._news.put((self, look))
        code = session.exit_code()
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise KijError(f"the look at it ended: exit code {code} {last}".rstrip())
