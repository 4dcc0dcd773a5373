"""Start the nodes of a local run, pass their output on by whole lines, end them together.

Every node is the leader of a session of its own, so a Ctrl-C at the terminal reaches only the
launcher, which passes it on. Nothing outlives a run: a node has a keeper (pod/gang/processes.py),
which ends what the node leaves behind, and the node when the launcher is killed itself (Linux).
Then what still carries the run's id is killed, which is all that other systems allow.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kij_train.diagnosis import Failure, parse_record
from kij_train.errors import RequestError
from kij_train.local.machine import ENV_RUN_ID, for_node, free_port, node_environment
from kij_train.local.output import Emit, Output
from kij_train.local.rundirs import run_dirs
from kij_train.pod import bootstrap, contract, gang, signals
from kij_train.pod.gang import processes
from kij_train.spec import JobSpec

KEEPER_S = 10.0
"""How long a keeper may take to end, once its node has."""
PROMPT_S = 0.5
"""After this time without more, text without a line end is shown to whoever sits at stdin."""
REPLACE_AFTER_S = 1.0
"""How long after its loss a node of a job that restarts is replaced."""
SETTLE_S = 1.0
"""How long nodes may still end by themselves, and say why, after the first one failed."""
TICK_S = 0.1


@dataclass(frozen=True)
class Streams:
    """Where the nodes' input comes from, and their output goes."""

    emit: Emit | None
    """None: they write to this process's own stdout and stderr, as torchrun's ranks do."""
    merged: bool = False
    """One pipe for stdout and stderr, which keeps their order; all of it is "stdout"."""
    stdin: bool = False
    """They read this process's own stdin; else they have none."""


class Stop:
    """A request from outside, a signal handler say, to end a run. Calling it twice means: now."""

    def __init__(self) -> None:
        self.signum: int | None = None
        """The signal that the nodes get: SIGTERM in place of one that cannot be passed on."""
        self.calls = 0
        self._first_at = float("inf")

    def is_over(self, grace_s: float) -> bool:
        """Whether the time to save is over: `grace_s` after the first call, or a second call."""
        return self.calls > 1 or time.monotonic() >= self._first_at + grace_s

    def __call__(self, signum: int = signal.SIGTERM) -> None:
        if not self.calls:
            self._first_at = time.monotonic()
        self.signum = self.signum or signum
        self.calls += 1


@dataclass(frozen=True)
class Outcome:
    """How a local run ended."""

    exit_codes: dict[int, int]
    """Index → of the node's first process, negative for a signal; not of nodes that others have
    replaced."""
    failures: tuple[Failure, ...]
    """At most one a node."""
    seconds: float
    """From the first start to the last end."""
    stopped_by: int | None
    """The signal that a Stop asked with."""
    deadline_exceeded: bool
    """spec.timeout was over."""
    enough: int
    """Nodes that must succeed: all, but for spares."""

    @property
    def succeeded(self) -> bool:
        """Enough nodes ended with exit code 0, by themselves."""
        if self.stopped_by is not None or self.deadline_exceeded:
            return False
        return list(self.exit_codes.values()).count(0) >= self.enough


@dataclass
class _Run:
    spec: JobSpec
    run_id: str
    start: Callable[[int, int], subprocess.Popen[bytes]]
    """Starts the node of an index, in one of the places that there are for nodes."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """By index; those that were lost are among them."""
    places: list[int] = field(default_factory=list)
    """By index, its share of what this machine has."""
    replace_at: list[tuple[float, int]] = field(default_factory=list)
    """When a node is to take a place that another one has lost."""
    # No SimpleQueue: its get waits for ever where a signal handler outlasts the timeout (CPython).
    ended: queue.Queue[int] = field(default_factory=queue.Queue)
    output: Output | None = None

    def begin(self, place: int) -> int:
        """Start the next index, in a place; gives the index."""
        index = len(self.processes)
        self.processes.append(self.start(index, place))
        self.places.append(place)
        return index

    def is_to_replace(self, index: int) -> bool:
        """Whether a node that ended was lost, and one of the reserve comes, as the Job does it.

        One that ended with a verdict, good or bad, was not lost.
        """
        verdicts = (0, contract.EXIT_FAILED, contract.EXIT_PREPARE, contract.EXIT_CONTRACT)
        if not self.spec.supervised or self.processes[index].returncode in verdicts:
            return False
        if len(self.processes) + len(self.replace_at) >= self.spec.indexes:
            return False
        self.replace_at.append((time.monotonic() + REPLACE_AFTER_S, self.places[index]))
        return True

    def replace(self, now: float) -> list[int]:
        """Start those that are due; gives their indexes."""
        due = [place for at, place in self.replace_at if at <= now]
        self.replace_at = [(at, place) for at, place in self.replace_at if at > now]
        return [self.begin(place) for place in due]

    def newest(self) -> list[int]:
        """The index that every place has, or had last."""
        return sorted({place: index for index, place in enumerate(self.places)}.values())

    def has_succeeded(self) -> bool:
        """Whether all nodes that must end well have; spares may be left."""
        return [each.returncode for each in self.processes].count(0) >= self.spec.least_nodes


def run_nodes(
    spec: JobSpec,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    streams: Streams,
    stop: Stop,
    packages: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Outcome:
    """Run the job in `cwd` and return how it ended; blocks until no process of it is left.

    `home` is where the folders of its indexes stay; None: in `cwd`. `packages` are variables of
    the nodes, from `packages.offered`.

    Raises RequestError when a node cannot be started, and what `streams.emit` has raised, which
    ends the nodes.
    """
    started = time.monotonic()
    run_id = f"{os.getpid()}-{uuid.uuid4().hex}"
    output = None
    if streams.emit is not None:
        output = Output(streams.emit, prompt_s=_prompt_s(streams))
    with ExitStack() as stack:
        if output is not None:
            stack.callback(output.close, lambda: stop.is_over(_grace_s(spec)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=processes.FOLDER_PREFIX))
        own = stack.enter_context(run_dirs(home or cwd, spec.name or run_id, Path(scratch)))
        error_files = [Path(scratch, f"node-{index}.json") for index in range(spec.indexes)]
        port, preflight_port = spec.port or free_port(), free_port()
        supervisor_ports = [free_port() for _ in error_files] if spec.supervised else []

        def start(index: int, place: int) -> subprocess.Popen[bytes]:
            env = node_environment(
                spec,
                index,
                place=place,
                port=port,
                preflight_port=preflight_port,
                supervisor_ports=supervisor_ports,
                run_id=run_id,
                error_file=error_files[index],
                run_dir=own / str(index),
                environ=environ,
                packages=packages or {},
            )
            return _start(run, index, cwd, env, streams, scratch)

        run = _Run(spec, run_id, start, output=output)
        try:
            for place in range(spec.pods):
                run.begin(place)
            deadline_exceeded = _supervise(run, stop, started)
        finally:
            kill_everything(run.processes, run.run_id)
        failures = [_failure(path, index) for index, path in enumerate(error_files)]
    if output is not None and output.error is not None:
        raise output.error
    return Outcome(
        exit_codes={index: run.processes[index].returncode for index in run.newest()},
        failures=tuple(failure for failure in failures if failure),
        seconds=time.monotonic() - started,
        stopped_by=stop.signum,
        deadline_exceeded=deadline_exceeded,
        enough=spec.least_nodes,
    )


def _grace_s(spec: JobSpec) -> float:
    return spec.grace or contract.GRACE_S


def _prompt_s(streams: Streams) -> float:
    return PROMPT_S if streams.stdin and os.isatty(0) else float("inf")


def _start(
    run: _Run, index: int, cwd: Path, env: dict[str, str], streams: Streams, scratch: str
) -> subprocess.Popen[bytes]:
    command = [for_node(argument, index) for argument in run.spec.command]
    first = str(gang.SUPERVISOR) if run.spec.supervised else bootstrap.__file__
    keeper = [sys.executable, "-I", "-S", processes.__file__, contract.ENV_PARENT_PID]
    keeper += [str(_grace_s(run.spec)), scratch]
    pipe = None if run.output is None else subprocess.PIPE
    try:
        process = subprocess.Popen(
            [*keeper, sys.executable, "-u", first, *command],
            cwd=cwd,
            env=env,
            stdin=None if streams.stdin else subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.STDOUT if pipe and streams.merged else pipe,
            start_new_session=True,
        )
    except OSError as error:
        raise RequestError(f"cannot start node {index} on this machine: {error.strerror}") from None
    if run.output is not None:
        if process.stdout is not None:
            run.output.add(index, "stdout", process.stdout)
        if process.stderr is not None:
            run.output.add(index, "stderr", process.stderr)

    def wait() -> None:
        process.wait()
        run.ended.put(index)

    threading.Thread(target=wait, daemon=True).start()
    return process


def _supervise(run: _Run, stop: Stop, started: float) -> bool:
    """Wait for the end of all nodes, ending the others when one fails. True: deadline exceeded."""
    alive = set(range(len(run.processes)))
    terminate_at = kill_at = float("inf")
    deadline = started + run.spec.timeout if run.spec.timeout else float("inf")
    deadline_exceeded = terminated = False
    while alive or run.replace_at:
        try:
            index = run.ended.get(timeout=TICK_S)
        except queue.Empty:
            pass
        else:
            alive.discard(index)
            if not (terminated or stop.calls) and run.is_to_replace(index):
                continue
            if run.processes[index].returncode != 0 or run.has_succeeded():
                terminate_at = min(terminate_at, time.monotonic() + SETTLE_S)
        now = time.monotonic()
        alive.update(run.replace(now))
        if now >= deadline and not deadline_exceeded:
            deadline_exceeded, terminate_at = True, now
        if stop.calls == 1 or (run.output is not None and run.output.error is not None):
            terminate_at = min(terminate_at, now)
        if stop.calls > 1 or now >= kill_at:
            return deadline_exceeded
        if now >= terminate_at and not terminated:
            terminated, kill_at = True, now + _grace_s(run.spec)
            run.replace_at.clear()
            for index in alive:
                run.processes[index].send_signal(passed_on(stop.signum))
    return deadline_exceeded


def passed_on(signum: int | None) -> int:
    """The signal that processes get where this one asked for the end."""
    return signum if signum in signals.ENDINGS else signal.SIGTERM


def kill_everything(keepers: Sequence[subprocess.Popen[bytes]], run_id: str) -> None:
    """SIGKILL what is left of a run."""
    deadline = time.monotonic() + KEEPER_S
    while any(keeper.poll() is None for keeper in keepers):
        for keeper in keepers:
            if keeper.poll() is None:
                _kill_node(keeper, also_keeper=time.monotonic() > deadline)
        time.sleep(TICK_S / 10)
    while left := [each for each in psutil.process_iter() if _belongs(each, run_id)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def _kill_node(keeper: subprocess.Popen[bytes], *, also_keeper: bool) -> None:
    """SIGKILL the node; its keeper, which kills what the node leaves behind, only if asked."""
    if also_keeper:
        keeper.kill()
    with suppress(psutil.Error):
        for process in psutil.Process(keeper.pid).children():
            process.kill()


def _belongs(process: psutil.Process, run_id: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(ENV_RUN_ID) == run_id
    except (psutil.Error, OSError):
        return False


def _failure(path: Path, index: int) -> Failure | None:
    try:
        return parse_record(path.read_text(encoding="utf-8", errors="replace"), index=index)
    except OSError:
        return None
