"""Trials of several pods on a cluster: a Job each, which is an attempt of the array.

They are started here, as others end. What was started goes on without us.
"""

from __future__ import annotations

import queue
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from kij_train import runs
from kij_train.arrays.facts import Attempt, Where
from kij_train.arrays.progress import Progress
from kij_train.arrays.store import ArrayFolder, check_free, prepare
from kij_train.cli import output
from kij_train.cli.array_end import finish
from kij_train.cli.array_view import array_view
from kij_train.cli.attach import ask, signum_of, sigterm_as_interrupt
from kij_train.cli.onarray import up_to_date
from kij_train.cli.rerun import begin
from kij_train.errors import InterruptedByUserError, KijError, RequestError
from kij_train.jobs import array_found
from kij_train.paths import shown
from kij_train.runs.arrays import Positions, Selection


def run_trials(
    plan: runs.ArrayPlan,
    folder: ArrayFolder,
    backend: runs.OnCluster,
    chosen: Selection,
    at_once: int,
) -> bool:
    """Run these items, `at_once` at the same time, and collect their results.

    `plan` has all else of their Jobs. False where the user has detached. Raises
    InterruptedByUserError, and RefusedError where the cluster takes one no more; those that run
    go on.
    """
    return _Trials(plan, folder, backend, chosen, at_once).run()


def begin_trials(
    plan: runs.ArrayPlan, backend: runs.OnCluster, *, detach: bool, replaces: bool
) -> None:
    """A new array of trials, until they have ended, or are started; then exit so."""
    count, at_once = plan.indexes, at_once_of(plan)
    if detach:
        _check_detached(plan)
    prepare(Path.cwd())
    check_free(Path.cwd(), plan.array, replace=replaces)
    output.status(runs.array_summary(plan, where=backend.where(plan.spec), at_once=at_once))
    cluster = backend.cluster(plan.spec)
    chosen = [(index, plan.pinned.items.positions(index)) for index in range(count)]
    if replaces:
        # Before anything is given up.
        runs.dry_run(replace(plan, selection=chosen[:1]), cluster, replace=True)
        array_found.delete_all(cluster, plan.array)
    where = Where("cluster", plan.spec.kubeconfig, plan.spec.context, cluster.namespace)
    folder = runs.keep_array(plan, Path.cwd(), where, replace=replaces)
    try:
        _run_or_leave(plan, folder, backend, chosen, detach)
    except KijError:
        if not folder.attempts():  # nothing was made of it
            shutil.rmtree(folder.path)
        raise


def rerun_trials(
    plan: runs.ArrayPlan,
    folder: ArrayFolder,
    backend: runs.OnCluster,
    chosen: Selection,
    *,
    detach: bool,
) -> None:
    """Trials of an array again, until they have ended, or are started; then exit so."""
    if detach:
        _check_detached(plan)
    where = backend.where(plan.spec)
    output.status(runs.array_summary(plan, where=where, at_once=at_once_of(plan)))
    _run_or_leave(plan, folder, backend, chosen, detach)


def _check_detached(plan: runs.ArrayPlan) -> None:
    count, at_once = plan.indexes, at_once_of(plan)
    if count <= at_once:
        return
    raise RequestError(
        f"--detach: {count:,} trials of {plan.spec.trial_nodes} pods, {at_once:,} at once, are "
        "started here, as others end",
        hints=(
            f"all at once: --parallelism {count}",
            "in the background: nohup kij-train sweep … > sweep.log 2>&1 &",
        ),
    )


def _run_or_leave(
    plan: runs.ArrayPlan,
    folder: ArrayFolder,
    backend: runs.OnCluster,
    chosen: Selection,
    detach: bool,
) -> None:
    if not detach:
        is_over = run_trials(plan, folder, backend, chosen, at_once_of(plan))
        if not is_over:
            raise click.exceptions.Exit(0)
        live = up_to_date(folder, backend.cluster(plan.spec))  # others may run still
        raise click.exceptions.Exit(finish(folder, live))
    for one in chosen:
        run, _ = _started(plan, folder, backend, one)
        output.status(f"created job {run.name}")
    output.data(folder.name)


def at_once_of(plan: runs.ArrayPlan) -> int:
    """Trials that run at the same time."""
    return min(plan.indexes, plan.spec.parallelism or 1)


def _started(
    plan: runs.ArrayPlan,
    folder: ArrayFolder,
    backend: runs.OnCluster,
    one: tuple[int, Positions],
) -> tuple[runs.ClusterRun, Attempt]:
    own = replace(plan, array=folder.name, number=folder.next_attempt(), selection=[one])
    run = backend.start(own)
    attempt = runs.attempt_of(own, run.uid)
    begin(folder, attempt)
    return run, attempt


class _Trials:
    def __init__(
        self,
        plan: runs.ArrayPlan,
        folder: ArrayFolder,
        backend: runs.OnCluster,
        chosen: Selection,
        at_once: int,
    ) -> None:
        self._plan, self._folder, self._backend = plan, folder, backend
        self._ahead, self._total, self._at_once = deque(chosen), len(chosen), at_once
        self._going: dict[int, runs.ClusterRun] = {}
        """By attempt."""
        self._ended: queue.Queue[tuple[int, BaseException | None]] = queue.Queue()
        self._progress: dict[int, Callable[[], Progress]] = {}
        self._shown = array_view(folder.name)
        self._lock = threading.Lock()
        """Of what is shown."""

    def run(self) -> bool:
        try:
            with sigterm_as_interrupt(), self._shown:
                while self._ahead or self._going:
                    while self._ahead and len(self._going) < self._at_once:
                        self._start()
                    number, error = self._ended.get()
                    del self._going[number]
                    if error is not None:
                        raise error
        except KeyboardInterrupt as interrupt:
            self._interrupted(signum_of(interrupt))
            return False
        except BrokenPipeError:  # the reader of the log has left
            self._interrupted(signal.SIGPIPE)
            return False
        except KijError as error:
            error.hints = (*error.hints, *self._rest())
            raise
        return True

    def _start(self) -> None:
        index, positions = self._ahead[0]
        run, attempt = _started(self._plan, self._folder, self._backend, (index, positions))
        self._ahead.popleft()
        self._going[attempt.number] = run
        key = self._folder.plan().item(positions[0])[0]
        with self._lock:
            self._shown.note(f"index {index}, {shown(key)}: job {run.name}")
        threading.Thread(target=self._follow, args=(run, attempt), daemon=True).start()

    def _follow(self, run: runs.ClusterRun, attempt: Attempt) -> None:
        from kij_train.jobs.array_follow import follow_array
        from kij_train.jobs.collect import Collector

        def line(index: int, key: str, text: str) -> None:
            with self._lock:
                self._shown.line(index, key, text)

        def note(text: str) -> None:
            with self._lock:
                self._shown.note(text)

        def changed(collector: Collector) -> None:
            with self._lock:
                self._progress[attempt.number] = collector.progress
                self._shown.progress(self._sum)

        error: BaseException | None = None
        try:
            run.await_a_pod()
            follow_array(
                run.cluster,
                self._folder,
                attempt,
                on_line=line,
                on_change=changed,
                on_note=note,
            )
        except BaseException as caught:  # whoever waits raises it
            error = caught
        self._ended.put((attempt.number, error))

    def _sum(self) -> Progress:
        """How far all of them are."""
        found = [get() for get in list(self._progress.values())]
        slowest = [one.slowest for one in found if one.slowest is not None]
        return Progress(
            items=self._total,
            done=sum(one.done for one in found),
            failed=sum(one.failed for one in found),
            missing=sum(one.missing for one in found),
            indexes=self._total,
            ended=sum(one.ended for one in found),
            running=sum(one.running for one in found),
            failing=tuple(index for one in reversed(found) for index in one.failing),
            slowest=min(slowest, key=lambda each: each[1], default=None),
        )

    def _interrupted(self, signum: int) -> None:
        """As `attach.interrupted` of one job."""
        name = self._folder.name
        asks = signum == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()
        said = ask(name) if asks else None
        if said == "c":
            for run in self._going.values():
                run.cancel()
            raise InterruptedByUserError(
                f"{name} is cancelled: the pods of its trials end",
                signum=signum,
                hints=self._rest(),
            )
        detached = (
            f"{name} goes on without us: {len(self._going):,} trials run, {len(self._ahead):,} "
            "were not begun"
        )
        if said is None:
            raise InterruptedByUserError(detached, signum=signum, hints=self._rest())
        output.note(detached, self._rest())

    def _rest(self) -> tuple[str, ...]:
        name, flags = self._folder.name, self._folder.about.where.flags
        return (
            f"how far they are: kij-train report {name}{flags}",
            f"run the rest: kij-train rerun {name} --failed{flags}",
            f"end them: kij-train cancel {name}{flags}",
        )
