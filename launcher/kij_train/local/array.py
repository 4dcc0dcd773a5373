"""An array as processes of this machine: some runners, each of which takes index after index.

A runner is what runs in a pod (pod/items.py), with its interpreter kept warm from index to index.
It writes the records of an index into a folder, and answers when the index is done. One that dies
in the middle is started again as a pod would be, `retries` times an index.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kij_train import gpus, pod
from kij_train.errors import RequestError
from kij_train.local.machine import ENV_RUN_ID, check_command, cores
from kij_train.local.nodes import TICK_S, Stop, Streams, kill_everything, passed_on
from kij_train.local.output import Output
from kij_train.pod import contract, itemplan, records
from kij_train.pod.gang import processes
from kij_train.spec import ArraySpec

VERDICTS = (contract.EXIT_PREPARE, contract.EXIT_CONTRACT, contract.EXIT_CODE)
"""Exit codes of a runner that another one would repeat."""
MOST_RUNNERS = 256


@dataclass(frozen=True)
class Share:
    """What an attempt runs here, and where its records go."""

    settings: itemplan.ArraySettings
    indexes: int
    """Of the attempt."""


@dataclass(frozen=True)
class Ended:
    """How an index ended."""

    index: int
    """Of the attempt."""
    exit_code: int
    """0 when all its items were well."""
    done: int = 0
    failed: int = 0
    error: str = ""
    """Why there is no account of its items."""


@dataclass
class ArrayOutcome:
    """How the runners ended."""

    seconds: float = 0.0
    ended: dict[int, Ended] = field(default_factory=dict)
    """By index; those that are missing were not run to their end."""
    stopped_by: int | None = None
    """The signal that a Stop asked with."""
    deadline_exceeded: bool = False
    too_many_failed: bool = False


def runners_here(spec: ArraySpec, indexes: int, environ: Mapping[str, str]) -> int:
    """How many indexes run at once on this machine. Raises RequestError for too many GPUs."""
    most = MOST_RUNNERS
    if spec.gpus and spec.trial_nodes > 1:
        raise RequestError(
            f"--local --nodes {spec.trial_nodes} with GPUs: the nodes would share those of this "
            "machine",
            hints=(
                f"one node with them all: --gpus {spec.trial_nodes * spec.gpus}, without --nodes",
            ),
        )
    if spec.gpus:
        have = len(gpus.kind(spec.gpu_kind).on_this_machine(environ))
        most = have // spec.gpus
        wanted = spec.parallelism or 1
        if wanted > most:
            raise RequestError(
                f"--local --gpus {spec.gpus} with {wanted} at once needs {wanted * spec.gpus} "
                f"GPUs, this machine has {have}",
                hints=(f"fewer at once: --parallelism {most}",) if most else ("without --gpus",),
            )
    elif spec.parallelism is None:
        most = 1 if spec.trial_nodes > 1 else max(1, cores() // spec.ranks_per_item)
    return max(1, min(indexes, most, spec.parallelism or most))


def check_machine_for_array(spec: ArraySpec, environ: Mapping[str, str], cwd: Path) -> None:
    """Raise RequestError unless this machine can run the items, in `cwd`."""
    check_command(spec, environ, cwd, with_own_path=False)
    ranks = spec.ranks_per_item * spec.trial_nodes
    if ranks > 1:
        import importlib.util

        if importlib.util.find_spec("torch") is None and not spec.installs:
            raise RequestError(
                f"--local with {ranks} ranks an item needs torch, which "
                f"{sys.executable} does not have",
                hints=(f"{sys.executable} -m pip install 'kij-train[local]'",),
            )


def run_array(
    spec: ArraySpec,
    share: Share,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    streams: Streams,
    stop: Stop,
    on_begin: Callable[[int], None] = lambda _: None,
    on_end: Callable[[Ended], None] = lambda _: None,
    packages: Mapping[str, str] | None = None,
) -> ArrayOutcome:
    """Run the indexes in `cwd`; blocks until no process of it is left.

    `streams.emit` gets the index that a line is of, `on_begin` each index that begins, `on_end` how
    it ended; `packages` are variables of the runners. Raises RequestError when a runner cannot be
    started, and what `streams.emit` has raised.
    """
    assert streams.emit is not None
    started = time.monotonic()
    with ExitStack() as stack:
        grace_s = spec.grace or contract.GRACE_S
        run = _Run(spec, share, cwd, environ, streams, stop, on_begin, on_end, packages or {})
        stack.callback(run.output.close, lambda: stop.is_over(grace_s))
        run.scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=processes.FOLDER_PREFIX)
        )
        try:
            run.start(runners_here(spec, share.indexes, environ))
            run.supervise(started + spec.timeout if spec.timeout else float("inf"))
        finally:
            kill_everything([each.process for each in run.runners + run.old], run.run_id)
    if run.output.error is not None:
        raise run.output.error
    run.outcome.seconds = time.monotonic() - started
    run.outcome.stopped_by = stop.signum
    return run.outcome


class _Runner:
    """One process, and the index that it runs."""

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number, self.process = number, process
        self.index: int | None = None

    def take(self, index: int | None) -> None:
        """Run this index next; None: end."""
        assert self.process.stdin is not None
        self.index = index
        try:
            if index is None:
                self.process.stdin.close()
            else:
                self.process.stdin.write(f"{index}\n".encode())
                self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which is told by itself

    def was_killed(self) -> bool:
        """Whether a signal has ended what starts it; the thread that waits may not know yet."""
        if hasattr(os, "waitid"):  # not with Python before 3.13 on macOS
            with contextlib.suppress(ChildProcessError):
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                found = os.waitid(os.P_PID, self.process.pid, options)
                return found is not None and found.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        return (self.process.poll() or 0) < 0


class _Run:
    def __init__(
        self,
        spec: ArraySpec,
        share: Share,
        cwd: Path,
        environ: Mapping[str, str],
        streams: Streams,
        stop: Stop,
        on_begin: Callable[[int], None],
        on_end: Callable[[Ended], None],
        packages: Mapping[str, str],
    ) -> None:
        self._spec, self._share, self._cwd, self._environ = spec, share, cwd, environ
        self._streams, self._stop = streams, stop
        self._on_begin, self._on_end, self._packages = on_begin, on_end, packages
        self.run_id = f"{os.getpid()}-{uuid.uuid4().hex}"
        self.scratch = ""
        self.runners: list[_Runner] = []
        self.old: list[_Runner] = []
        """That have died and were replaced."""
        self.outcome = ArrayOutcome()
        self.output = Output(self._emit)
        self._ahead = deque(range(share.indexes))
        self._failed, self._most = 0, spec.failed_indexes(share.indexes)
        """Indexes that have failed, and as many as may."""
        self._died: dict[int, int] = {}
        """Index → runners that have died of it."""
        self._events: queue.Queue[tuple[_Runner, Ended | None]] = queue.Queue()
        """A runner has answered, or, with None, has ended."""

    def _emit(self, number: int, stream: Any, line: str) -> None:
        index = self.runners[number].index if number < len(self.runners) else None
        assert self._streams.emit is not None
        self._streams.emit(-1 if index is None else index, stream, line)

    # --- processes --------------------------------------------------------------------------------

    def start(self, count: int) -> None:
        """Start runners, and give each its first index."""
        for number in range(count):
            self.runners.append(self._start(number))
            self._next(self.runners[number])

    def _start(self, number: int) -> _Runner:
        grace_s = self._spec.grace or contract.GRACE_S
        answers, answer = os.pipe()
        keeper = [sys.executable, "-I", "-S", processes.__file__, contract.ENV_PARENT_PID]
        keeper += [str(grace_s), self.scratch]
        first = [sys.executable, "-u", str(pod.ITEMS[0]), "--serve", str(answer)]
        try:
            process = subprocess.Popen(
                [*keeper, *first, *self._spec.command],
                cwd=self._cwd,
                env=self._environment(number),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if self._streams.merged else subprocess.PIPE,
                pass_fds=(answer,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(answers)
            raise RequestError(f"cannot start a runner on this machine: {error.strerror}") from None
        finally:
            os.close(answer)
        runner = _Runner(number, process)
        assert process.stdout is not None
        self.output.add(number, "stdout", process.stdout)
        if process.stderr is not None:
            self.output.add(number, "stderr", process.stderr)

        def answered(number: int, line: str) -> None:
            del number
            self._events.put((runner, _ended(json.loads(line))))

        # Not buffered: an answer is to be read when it comes.
        self.output.add_answers(number, os.fdopen(answers, "rb", buffering=0), answered)

        def wait() -> None:
            process.wait()
            self._events.put((runner, None))

        threading.Thread(target=wait, daemon=True).start()
        return runner

    def _environment(self, number: int) -> dict[str, str]:
        spec = self._spec
        at_once = runners_here(spec, self._share.indexes, self._environ)
        threads = max(1, cores() // (at_once * spec.ranks_per_item * spec.trial_nodes))
        env = {
            "OMP_NUM_THREADS": str(threads),
            **{k: v for k, v in self._environ.items() if contract.OF_A_RUN.fullmatch(k) is None},
            "PYTHONUNBUFFERED": "1",
            **spec.env,
            contract.ENV_JOB: self._share.settings.name,
            itemplan.ENV_ARRAY: self._share.settings.to_json(),
            contract.ENV_NODE_NAME: socket.gethostname(),
            contract.ENV_SCRATCH_DIR: self.scratch,
            contract.ENV_PARENT_PID: str(os.getpid()),
            contract.ENV_ERROR_FILE: str(self._error_file(number)),
            ENV_RUN_ID: self.run_id,
            **self._packages,
        }
        if spec.setup is not None:
            env[contract.ENV_SETUP] = spec.setup
        if spec.gpus:
            kind = gpus.kind(spec.gpu_kind)
            mine = kind.on_this_machine(self._environ)
            env[kind.visible] = ",".join(mine[number * spec.gpus : (number + 1) * spec.gpus])
        return env

    # --- what happens -----------------------------------------------------------------------------

    def supervise(self, deadline: float) -> None:
        """Hand out indexes until there is none left, and no runner."""
        alive = {runner.number for runner in self.runners}
        told, kill_at = False, float("inf")
        while alive:
            try:
                runner, ended = self._events.get(timeout=TICK_S)
            except queue.Empty:
                pass
            else:
                if ended is not None:
                    # What a runner says that was ended in the middle is no end of an index.
                    if self._is_ending() or not runner.was_killed():
                        self._count(ended)
                        self._next(runner)
                elif not self._is_replaced(runner):
                    alive.discard(runner.number)
            now = time.monotonic()
            if now >= deadline and not told:
                self.outcome.deadline_exceeded = True
            if self._stop.calls > 1 or now >= kill_at:
                return
            if self._is_ending() and not told:
                told, kill_at = True, now + (self._spec.grace or contract.GRACE_S)
                self._ahead.clear()
                for number in alive:
                    self.runners[number].process.send_signal(passed_on(self._stop.signum))

    def _is_ending(self) -> bool:
        outcome, asked = self.outcome, self._stop.calls > 0 or self.output.error is not None
        return asked or outcome.deadline_exceeded or outcome.too_many_failed

    def _count(self, ended: Ended) -> None:
        self.outcome.ended[ended.index] = ended
        self._failed += ended.exit_code != 0
        self.outcome.too_many_failed = self._most is not None and self._failed > self._most
        self._on_end(ended)

    def _next(self, runner: _Runner) -> None:
        index = self._ahead.popleft() if self._ahead else None
        runner.take(index)
        if index is not None:
            self._on_begin(index)

    def _is_replaced(self, runner: _Runner) -> bool:
        """Whether a runner that has ended in the middle of an index comes again for it."""
        index, code = runner.index, runner.process.returncode
        if index is None or index in self.outcome.ended:
            return False
        if self._is_ending():
            return False
        died = self._died[index] = self._died.get(index, 0) + 1
        if code in VERDICTS or died > self._spec.retries:
            exit_code = code if code >= 0 else 128 - code
            self._count(Ended(index, exit_code, error=self._why(runner)))
        else:
            self._ahead.appendleft(index)
        if code in VERDICTS:
            self._ahead.clear()  # what every other index would meet, too
        if not self._ahead:
            return False
        self.old.append(runner)
        self.runners[runner.number] = self._start(runner.number)
        self._next(self.runners[runner.number])
        return True

    def _why(self, runner: _Runner) -> str:
        """What ended a runner: its own last words, where it has left some."""
        code = runner.process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        details = records.read_record(str(self._error_file(runner.number))).get("message")
        said = details.get("message") if isinstance(details, dict) else None
        return str(said or f"its runner {how}")

    def _error_file(self, number: int) -> Path:
        return Path(self.scratch, f"runner-{number}.json")


def _ended(answer: Mapping[str, Any]) -> Ended:
    account = answer["account"]
    return Ended(
        index=int(answer["number"]),
        exit_code=int(answer["exit_code"]),
        done=int(account["done"]),
        failed=int(account["failed"]),
    )
