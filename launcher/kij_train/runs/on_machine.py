"""Jobs as processes of this machine.

What starts and judges them is imported where it begins, so that rendering starts fast.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kij_train import scripts, units
from kij_train.code import leftout
from kij_train.errors import (
    InterruptedByUserError,
    JobFailedError,
    KijError,
    RequestError,
    TimedOutError,
    no_such_index,
)
from kij_train.pod import contract, unpack
from kij_train.runs.backend import Backend, Line, Run
from kij_train.runs.plan import Note, Plan
from kij_train.spec import Common, JobSpec
from kij_train.specfile import Resolved

if TYPE_CHECKING:
    from kij_train import diagnosis, local
    from kij_train.diagnosis import JobState
    from kij_train.runs.arrays import ArrayPlan


LOOK_S = 0.2
"""Between two looks of who follows: a handler of Python's runs in the main thread, once that wakes,
and the signal may have come to another one."""
SomePlan = TypeVar("SomePlan", Plan, "ArrayPlan")


class OnMachine(Backend):
    """This machine, in this process and below it: no job outlives it."""

    def __init__(
        self,
        *,
        stop: local.Stop | None = None,
        streams: Callable[[JobSpec], local.Streams] | None = None,
        merged: bool = True,
        as_shipped: bool = False,
    ) -> None:
        """`stop` ends all that it starts. `streams` are the nodes' input and output; None: kept.

        What is kept is in the order in which it was printed, or, without `merged`, told apart by
        stream. `as_shipped` runs a copy of the code as pods get it.
        """
        self._stop, self._streams = stop, streams
        self._merged, self._as_shipped = merged, as_shipped

    def locate(self, resolved: Resolved[Common], cwd: Path, code_dir: Path) -> str | None:
        return scripts.locate(resolved, cwd, code_dir, is_here=True)

    def with_ranks(self, resolved: Resolved) -> JobSpec:
        from kij_train import local

        spec = resolved.spec
        if not isinstance(spec.nproc_per_node, str):
            return spec
        return local.with_counted_ranks(spec, os.environ)

    def ships(self, spec: Common) -> bool:
        return self._as_shipped and spec.code

    def notes(self, spec: JobSpec) -> Iterator[Note]:
        del spec
        return iter(())

    def where(self, spec: Common) -> str:
        del spec
        return "this machine"

    def recorded(self, spec: JobSpec) -> dict[str, str | None]:
        del spec
        return {"where": "this machine", "image": None}

    def doubts(self, spec: Common) -> Iterator[Note]:
        del spec
        return iter(())

    def start(self, plan: Plan) -> LocalRun:
        """Start the nodes. Raises RequestError when the machine cannot run them."""
        from kij_train import local

        environ, stop = dict(os.environ), self._stop or local.Stop()
        with contextlib.ExitStack() as stack:
            here = stack.enter_context(unpacked(plan))
            # Not in the thread: a request that is wrong is an error of whoever starts it.
            local.check_machine(here.spec, environ, here.code_dir)
            spec, data = local.fetched(here.spec, environ)
            here = with_changes(here, spec=spec)
            packages = {**local.offered(plan.packages, environ), **data}
            until_the_end = stack.pop_all()

        def work(streams: local.Streams) -> float:
            with until_the_end:
                return _run(here, plan.code_dir, environ, packages, streams, stop)

        streams = None if self._streams is None else self._streams(plan.spec)
        return LocalRun(
            plan.name, plan.spec.pods, work, stop=stop, streams=streams, merged=self._merged
        )


class LocalRun(Run):
    """A thread that runs the nodes, and what they have printed, all of it in memory."""

    def __init__(
        self,
        name: str,
        indexes: int,
        work: Callable[[local.Streams], float],
        *,
        stop: local.Stop,
        streams: local.Streams | None = None,
        merged: bool = True,
    ) -> None:
        """`work` runs until all is over, or `stop` was called; the seconds that it took.

        Lines are kept unless `streams` leads them elsewhere.
        """
        from kij_train import local

        super().__init__(name)
        self._indexes = indexes
        self._stop = stop
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._ended = False
        self._seconds = 0.0
        self._error: BaseException | None = None
        args = (work, streams or local.Streams(self._take, merged=merged))
        self._thread = threading.Thread(target=self._run, args=args, name=name, daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[local.Streams], float], streams: local.Streams) -> None:
        try:
            self._seconds = work(streams)
        except BaseException as error:  # whoever waits gets it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, index: int, stream: str, line: str) -> None:
        with self._changed:
            self._lines.append(Line(index, line, is_error=stream == "stderr"))
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it has, however."""
        with self._changed:
            return self._ended

    def follow(self, on_line: Callable[[Line], None] | None = None) -> float:
        """Stay until it ends, passing on the lines that are kept; the seconds it took.

        Raises what `wait` does, and InterruptedByUserError where it was stopped.
        """
        for line in self._lines_of(None, follow=True):
            if on_line is not None:
                on_line(line)
        if self._error is not None:
            raise self._error
        return self._seconds

    def wait(self, timeout_s: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout_s):
                raise TimedOutError(f"{self.name} has not ended within {timeout_s:g} s; it goes on")
        if isinstance(self._error, InterruptedByUserError):
            raise JobFailedError(f"{self.name} was cancelled") from self._error
        if self._error is not None:
            raise self._error

    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        if index is not None and not 0 <= index < self._indexes:
            raise no_such_index(self.name, index, self._indexes)
        return self._lines_of(index, follow)

    def _lines_of(self, index: int | None, follow: bool) -> Iterator[Line]:
        shown = 0
        while True:
            with self._changed:
                while follow and not self._ended and len(self._lines) == shown:
                    self._changed.wait(LOOK_S)
                lines, ended = self._lines[shown:], self._ended
            yield from (line for line in lines if index in (None, line.index))
            shown += len(lines)
            if ended or not follow:
                return

    def status(self) -> JobState:
        from kij_train.diagnosis import JobState

        with self._changed:
            if not self._ended:
                return JobState.RUNNING
        if self._error is None:
            return JobState.SUCCEEDED
        if isinstance(self._error, InterruptedByUserError):
            return JobState.CANCELLED
        return JobState.FAILED

    def why(self) -> str:
        if isinstance(self._error, KijError):
            return self._error.message
        return f"{self.name}: {self.status().value}"

    def cancel(self) -> None:
        """Returns when nothing of it is left."""
        with self._changed:
            ended = self._ended
        if not ended:  # others may have the same Stop
            self._stop()
        self._thread.join()

    def delete(self) -> None:
        self.cancel()
        with self._changed:
            self._lines.clear()


@contextlib.contextmanager
def unpacked(plan: SomePlan) -> Iterator[SomePlan]:
    """The plan with the code that ships as its folder, unpacked as in pods; removed at the end.

    What the script writes into its folder goes with it, as in pods.
    """
    if plan.archive is None:
        yield plan
        return
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kij-train-"))
            Path(scratch, f"{contract.CODE_PREFIX}000").write_bytes(plan.archive.packed)
            code_dir = Path(scratch, "code")
            unpack.unpack_code(scratch, str(code_dir), plan.archive.sha256)
        except (OSError, contract.Failure) as error:
            raise _no_room(error) from None
        yield with_changes(plan, code_dir=code_dir)


def _no_room(error: OSError | contract.Failure) -> RequestError:
    """The error of temporary files that cannot be written."""
    cause = error if isinstance(error, OSError) else error.__cause__
    why = cause.strerror if isinstance(cause, OSError) else str(error)
    where = ""
    with contextlib.suppress(FileNotFoundError):  # none can be written, which `why` says of all
        where = f" below {tempfile.gettempdir()}, the folder for temporary files"
    return RequestError(
        f"cannot unpack the code{where}: {why}",
        hints=("make room there, or name another: TMPDIR=/PATH kij-train launch --local …",),
    )


def _run(
    plan: Plan,
    home: Path,
    environ: Mapping[str, str],
    packages: Mapping[str, str],
    streams: local.Streams,
    stop: local.Stop,
) -> float:
    """Run the nodes until none is left; the seconds it took.

    `home` is the user's folder, of which the plan's code may be a copy.

    Raises JobFailedError with the verdict, TimedOutError at spec.timeout, InterruptedByUserError
    after `stop`.
    """
    from kij_train import diagnosis, local

    named = plan.spec.model_copy(update={"name": plan.name})
    outcome = local.run_nodes(
        named,
        cwd=plan.code_dir,
        environ=environ,
        streams=streams,
        stop=stop,
        packages=packages,
        home=home,
    )
    after = units.format_seconds(outcome.seconds)
    if outcome.succeeded:
        return outcome.seconds
    if outcome.stopped_by is not None:
        why = ": nobody reads its output any more" if outcome.stopped_by == signal.SIGPIPE else ""
        raise InterruptedByUserError(
            f"{plan.name} was stopped after {after}{why}; nothing of it is left running",
            signum=outcome.stopped_by,
        )
    if outcome.deadline_exceeded:
        limit = units.format_seconds(float(plan.spec.timeout or 0))
        raise TimedOutError(f"{plan.name} did not end within its --timeout of {limit}")
    failures = list(outcome.failures) or [
        _unrecorded(index, code) for index, code in outcome.exit_codes.items() if code
    ]
    hints: tuple[str, ...] = ()
    cause = diagnosis.first_failure(failures)
    if cause is not None:
        recorded = None if plan.archive is None else leftout.record(plan.archive.left_out)
        hint = diagnosis.missing_file(cause.message, recorded, str(plan.code_dir))
        hint = hint or diagnosis.hint_here(cause.message, cause.exit_code)
        hints = () if hint is None else (f"try: {hint}",)
    raise JobFailedError(diagnosis.verdict(plan.name, after, failures), hints=hints)


def _unrecorded(index: int, exit_code: int) -> diagnosis.Failure:
    from kij_train import diagnosis

    how = f"ended with exit code {exit_code}" if exit_code > 0 else f"killed by signal {-exit_code}"
    return diagnosis.Failure(
        index=index,
        rank=None,
        message=f"the node's first process {how}",
        callstack="",
        exit_code=exit_code,
        time=0.0,
    )
