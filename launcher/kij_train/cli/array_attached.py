"""Staying with an attempt of an array until it ends: on a cluster, or on this machine."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from kij_train import jobs, runs
from kij_train.arrays.facts import Attempt
from kij_train.arrays.progress import Progress
from kij_train.arrays.store import ArrayFolder
from kij_train.cli import output
from kij_train.cli.array_end import finish
from kij_train.cli.array_view import array_view
from kij_train.cli.attach import interrupted, signum_of, sigterm_as_interrupt
from kij_train.cli.onarray import opened, up_to_date
from kij_train.cli.submitting import signals_to
from kij_train.errors import JobFailedError, RequestError, TimedOutError

if TYPE_CHECKING:
    from kij_train import local
    from kij_train.cluster import LogChoice
    from kij_train.diagnosis import JobView


# --- a cluster ------------------------------------------------------------------------------------


def attach_array(
    run: runs.ClusterRun, job: JobView, params: dict[str, Any], log_choice: LogChoice
) -> None:
    """Stay with an attempt that is there; `params` are the flags that say where."""
    assert job.array is not None
    folder, cluster = opened(job.array, params)
    up_to_date(folder, cluster)
    attempt = next((one for one in folder.attempts() if one.uid == job.uid), None)
    if attempt is None:
        raise RequestError(
            f"{folder.path} is of another array {job.array} than {run.name} of the cluster"
        )
    stay_on_cluster(run, folder, attempt, log_choice)


def stay_on_cluster(
    run: runs.ClusterRun,
    folder: ArrayFolder,
    attempt: Attempt,
    log_choice: LogChoice | None = None,
) -> None:
    """Show an attempt until its Job ends, and collect its results; then exit as it has ended.

    Ctrl-C asks whether to detach or to cancel. What was collected until then stays.
    """
    if follow_there(run, folder, attempt, log_choice):
        code = finish(folder)
        if code and is_late(run):
            code = TimedOutError.exit_code
        raise click.exceptions.Exit(code)


def is_late(run: runs.ClusterRun) -> bool:
    """Whether the Job was ended at its deadline."""
    return jobs.get(run.cluster, run.name).is_at_deadline


def follow_there(
    run: runs.ClusterRun,
    folder: ArrayFolder,
    attempt: Attempt,
    log_choice: LogChoice | None = None,
) -> bool:
    """Show an attempt until its Job ends, and collect its results.

    False where the user has detached. Raises InterruptedByUserError.
    """
    from kij_train.jobs.array_follow import follow_array

    try:
        with sigterm_as_interrupt():
            if run.created is not None:
                run.await_a_pod()
            with array_view(run.name) as shown:
                follow_array(
                    run.cluster,
                    folder,
                    attempt,
                    log_choice=log_choice,
                    on_line=shown.line,
                    on_change=lambda collector: shown.progress(collector.progress),
                    on_note=shown.note,
                )
    except KeyboardInterrupt as interrupt:
        interrupted(run, signum_of(interrupt), lambda: _cancel(run, folder))
    except BrokenPipeError:  # the reader of the log has left
        interrupted(run, signal.SIGPIPE)
    else:
        return True
    return False


def _cancel(run: runs.ClusterRun, folder: ArrayFolder) -> None:
    """Cancel an attempt, and keep what it has done; another Ctrl-C does not wait for its pods."""
    from kij_train.jobs.array_cancel import keeping

    cancelled = False
    try:
        with keeping(run.cluster, folder, run.uid, output.warning):
            run.cancel()
            cancelled = True
    except KeyboardInterrupt:
        if not cancelled:
            raise


# --- this machine ---------------------------------------------------------------------------------


def run_here(plan: runs.ArrayPlan, folder: ArrayFolder) -> None:
    """Run an attempt on this machine, which its folder knows; then exit as it has ended.

    The first Ctrl-C ends it, with a grace period for the items that run; what was done is kept.
    """
    failure = follow_here(plan, folder)
    code = finish(folder) or (failure.exit_code if isinstance(failure, RequestError) else 0)
    if isinstance(failure, JobFailedError) and not code:
        output.verdict(failure.message, failure.hints)
        code = failure.exit_code
    raise click.exceptions.Exit(code)


def follow_here(plan: runs.ArrayPlan, folder: ArrayFolder) -> JobFailedError | RequestError | None:
    """Run an attempt on this machine, and show it; how it failed.

    Raises InterruptedByUserError, TimedOutError.
    """
    from kij_train import local
    from kij_train.jobs.array_follow import Labels

    stop, counted = local.Stop(), _Counted(plan)
    labels = Labels(folder, runs.attempt_of(plan))
    with array_view(plan.name) as shown:

        def emit(number: int, stream: str, line: str) -> None:
            del stream
            index = labels.index_of(number) if number >= 0 else number
            key = labels.key_of(str(number), number, line) if number >= 0 else ""
            try:
                shown.line(index, key, line)
            except BrokenPipeError:
                if not stop.calls:
                    stop(signal.SIGPIPE)

        def begun(number: int) -> None:
            counted.begun(number)
            shown.progress(counted.progress)

        def ended(how: local.Ended) -> None:
            counted.ended(labels.index_of(how.index), how)
            shown.progress(counted.progress)

        streams = local.Streams(emit, merged=True)
        failure: JobFailedError | RequestError | None = None
        with signals_to(stop, "runners"):
            run = runs.start_array(
                plan, folder, stop=stop, streams=streams, on_begin=begun, on_end=ended
            )
            try:
                run.follow()
            except (JobFailedError, RequestError) as error:
                failure = error
    if isinstance(failure, RequestError):
        # The items have run: what could not be kept of them does not hide the rest.
        output.verdict(failure.message, failure.hints)
    return failure


class _Counted:
    """How far a run on this machine is."""

    def __init__(self, plan: runs.ArrayPlan) -> None:
        chosen, items = plan.selection, plan.pinned.items
        if chosen is None:
            self._sizes = [len(items.positions(index)) for index in range(items.indexes)]
        else:
            self._sizes = [len(positions) for _, positions in chosen]
        self._items = sum(self._sizes)
        self._counts: Counter[str] = Counter()
        self._since: dict[int, float] = {}
        """Index of this attempt that runs → when it began."""
        self._failing: list[int] = []

    def begun(self, number: int) -> None:
        """An index of this attempt begins."""
        self._since[number] = time.time()

    def ended(self, index: int, how: local.Ended) -> None:
        """An index has ended; `index` is that of the first attempt."""
        self._since.pop(how.index, None)
        self._counts["ended"] += 1
        self._counts["done"] += how.done
        self._counts["failed"] += how.failed
        self._counts["missing"] += self._sizes[how.index] - how.done - how.failed
        if how.exit_code:
            self._failing.insert(0, index)

    def progress(self) -> Progress:
        """As it is shown."""
        since = dict(self._since)
        slowest = min(since.items(), key=lambda each: each[1], default=None)
        return Progress(
            items=self._items,
            done=self._counts["done"],
            failed=self._counts["failed"],
            missing=self._counts["missing"],
            indexes=len(self._sizes),
            ended=self._counts["ended"],
            running=len(since),
            failing=tuple(self._failing),
            slowest=slowest,
        )
