"""A sweep whose points are chosen by the results of others: batch after batch, until all are told.

Each batch is an attempt of the array, and the list of items grows with it. What is waiting to be
told is in the study, so that the same command goes on where one was ended, at any moment.
"""

from __future__ import annotations

import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from kij_train import runs
from kij_train.arrays import plan as plans
from kij_train.arrays import sought, sweeps
from kij_train.arrays.facts import STUDY, Where
from kij_train.arrays.objective import Objective, UnknownMetricError
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.plan import Pinned
from kij_train.arrays.points import Space
from kij_train.arrays.search import Search, check_space, steps_of
from kij_train.arrays.store import BASE, ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli import output
from kij_train.cli.array_attached import follow_here, follow_there, is_late
from kij_train.cli.array_end import finish
from kij_train.cli.array_trials import at_once_of, run_trials
from kij_train.cli.attach import signum_of
from kij_train.cli.map import Way, print_plan
from kij_train.cli.onarray import connect_to, up_to_date
from kij_train.cli.options import warn_about_plan, warn_of_doubts, warn_of_what_is_left_out
from kij_train.cli.render import print_offline
from kij_train.cli.rerun import begin
from kij_train.cli.submitting import dry_run_server, submit
from kij_train.errors import (
    InterruptedByUserError,
    RefusedError,
    RequestError,
    TimedOutError,
    UnreachableError,
)
from kij_train.jobs import array_found
from kij_train.pod.trials import point_key
from kij_train.spec import ArraySpec, request_of
from kij_train.spec.array import MOST_RERUNS
from kij_train.specfile import Resolved

Place = runs.OnMachine | runs.OnCluster

BATCH = 8
"""Points that are chosen at once where no --parallelism is given."""
_TOLD_TO_END = {128 + signum for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)}
SAME = ("script", "module", "program", "args", "style", "metrics", "chunk", "results")
"""Of a request: what makes its results those of the same search."""


@dataclass(frozen=True)
class Wanted:
    """A search, as it was asked for."""

    resolved: Resolved[ArraySpec]
    space: Space
    objective: Objective
    points: int
    repeat: int

    @property
    def spec(self) -> ArraySpec:
        return self.resolved.spec

    @property
    def batch(self) -> int:
        """Points that are chosen at once."""
        return self.spec.parallelism or BATCH

    def study(self, path: Path) -> Search:
        """The study in a file. Raises RequestError where it is one of another search."""
        return Search.open(
            path, self.space, self.objective, seed=self.spec.seed, repeat=self.repeat
        )


def wanted_of(resolved: Resolved[ArraySpec], space: Space, points: int, repeat: int) -> Wanted:
    """Raises RequestError for what no search can be."""
    spec = resolved.spec
    objective = sought.objective_of({"minimize": spec.minimize, "maximize": spec.maximize})
    if objective is None:
        raise RequestError(
            "--sampler tpe chooses points by the results of others: it needs to know which one "
            "to make small or large",
            hints=("--min loss, or --max accuracy",),
        )
    if spec.indexes is not None:
        raise RequestError(
            f"{resolved.origin(('indexes',))} {spec.indexes}: a search has no end of indexes that "
            "is known before",
            hints=("trials of an index: --chunk N",),
        )
    check_space(space, points)
    return Wanted(resolved, space, objective, points, repeat)


def search(wanted: Wanted, way: Way) -> None:
    """From a search that was asked for to one that has ended; then exit so."""
    if way.detach:
        raise RequestError(
            "--detach does not go with --sampler tpe: the next points are chosen here, by the "
            "results of those before",
            hints=("in the background: nohup kij-train sweep … > search.log 2>&1 &",),
        )
    place: Place = runs.OnMachine(as_shipped=way.as_shipped)
    if not way.is_local:
        place = runs.OnCluster(replace=way.replace)
        _check_batches(wanted)
    folder = None if way.replace or way.dry_run else _known(wanted, way)
    if folder is None:
        folder = _begun(wanted, place, way)
    if folder is None:
        return
    with folder.searching(), _going_on(folder.name):
        code = _Rounds(folder, wanted, place, replaces=way.replace).run()
    raise click.exceptions.Exit(code)


def _check_batches(wanted: Wanted) -> None:
    batches = -(-wanted.points // wanted.batch)
    if batches > MOST_RERUNS:
        least = -(-wanted.points // MOST_RERUNS)
        raise RequestError(
            f"{wanted.points:,} points, {wanted.batch} at once, are {batches:,} Jobs, one after "
            f"another; the most is {MOST_RERUNS}",
            hints=(f"more at once: --parallelism {least}",),
        )


# --- the folder -----------------------------------------------------------------------------------


def _known(wanted: Wanted, way: Way) -> ArrayFolder | None:
    """The folder of a search that is to go on; None where there is none of that name."""
    name = wanted.spec.name
    if name is None or not (Path.cwd() / BASE / name / STUDY).exists():
        return None
    folder = ArrayFolder.open(Path.cwd(), name)
    if folder.about.where.is_local != way.is_local:
        there = "on this machine" if folder.about.where.is_local else "on a cluster"
        raise RequestError(
            f"the search {name} runs {there}",
            hints=("go on there, with --local or without", "or take another --name"),
        )
    now, before = request_of(wanted.spec), folder.about.request
    other = next((field for field in SAME if now.get(field) != before.get(field)), None)
    if other is not None:
        raise RequestError(
            f"the search {name} was begun with another value of {other}: "
            f"{before.get(other)!r}, not {now.get(other)!r}",
            hints=("begin anew, without its results: --replace", "or take another --name"),
        )
    return folder


def _begun(wanted: Wanted, place: Place, way: Way) -> ArrayFolder | None:
    """The folder of a new search, with its first points; None after a dry run."""
    with tempfile.TemporaryDirectory(prefix="kij-train-") as scratch:
        path = Path(scratch, STUDY)
        study = wanted.study(path)
        study.ask(min(wanted.batch, wanted.points))
        journal = path.read_bytes()
        trials = sweeps.trials_of(study.waiting().values(), wanted.repeat)
    items = sweeps.items_of(trials)
    plan = runs.plan_array(
        wanted.resolved, items, cwd=Path.cwd(), place=place, random_name=not way.dry_run
    )
    plan = replace(plan, study=journal)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if way.dry_run:
        _dry_run(plan, place, wanted, way)
        return None
    where = Where()
    if isinstance(place, runs.OnMachine):
        runs.check_here(plan)
    else:
        cluster = place.cluster(plan.spec)
        where = Where("cluster", plan.spec.kubeconfig, plan.spec.context, cluster.namespace)
        warn_of_doubts(place, plan.spec)
        if way.replace:
            runs.dry_run(plan, cluster, replace=True)  # before anything is given up
            array_found.delete_all(cluster, plan.array)
    return runs.keep_array(plan, Path.cwd(), where, replace=way.replace, study=journal)


def _dry_run(plan: runs.ArrayPlan, place: Place, wanted: Wanted, way: Way) -> None:
    if way.dry_run == "plan":
        print_plan(plan, way.form)
    elif isinstance(place, runs.OnMachine):
        raise RequestError(
            f"--dry-run {way.dry_run} does not go with --local",
            hints=("which index has which items: --dry-run plan",),
        )
    elif way.dry_run == "client":
        print_offline(plan, way.form)
    else:
        dry_run_server(plan, place, way.form)
    first = min(wanted.batch, wanted.points)
    output.status(
        f"these are the first {first:,} of {wanted.points:,} points; the others are chosen by "
        "their results"
    )


@contextmanager
def _going_on(name: str) -> Iterator[None]:
    """Say, where a search ends before its time, how it goes on."""
    words = [word for word in click.get_current_context().find_root().obj if word != "--replace"]
    if not any(word == "--name" or word.startswith("--name=") for word in words):
        words[1:1] = ["--name", name]
    again = f"go on with it: {shlex.join(['kij-train', *words])}"
    try:
        yield
    except (InterruptedByUserError, TimedOutError) as error:
        error.hints = (f"what there is: kij-train report {name}", again)
        raise
    except (RefusedError, UnreachableError) as error:
        error.hints = (*error.hints, again)
        raise
    except KeyboardInterrupt as interrupt:  # between two batches, or before one is followed
        raise InterruptedByUserError(
            "interrupted; trials that were begun on a cluster go on",
            signum=signum_of(interrupt),
            hints=(f"what there is: kij-train report {name}", again),
        ) from None
    except Detached:
        output.status(f"the trials that were begun go on; {again}")
        raise click.exceptions.Exit(0) from None


class Detached(Exception):  # noqa: N818 - nothing went wrong
    """The user has left a batch that goes on, and with it the search."""


# --- batch after batch ----------------------------------------------------------------------------


class _Rounds:
    """A search whose folder is there, on its way."""

    def __init__(
        self, folder: ArrayFolder, wanted: Wanted, place: Place, *, replaces: bool
    ) -> None:
        """`replaces`: Jobs that have the names of its own are deleted."""
        self._folder, self._wanted, self._place = folder, wanted, place
        self._study = wanted.study(folder.path / STUDY)
        self._cluster = None if isinstance(place, runs.OnMachine) else connect_to(folder, {})
        if self._cluster is not None:
            self._place = runs.OnCluster(self._cluster, replace=replaces)

    def run(self) -> int:
        """Until all points are told, or nothing comes of them; the exit code."""
        folder, wanted, study = self._folder, self._wanted, self._study
        self._await_others()
        try:
            self._tell(only_ended=True)
            while True:
                if not study.waiting():
                    study.ask(max(0, min(wanted.batch, wanted.points - study.count)))
                if not study.waiting():
                    break
                self._grow()
                if self._run_batch():
                    return finish(folder) or TimedOutError.exit_code
                if not self._tell():
                    output.verdict(
                        f"no trial of this batch has a {wanted.objective.metric}: the search ends"
                    )
                    finish(folder)
                    return 1
        except UnknownMetricError:
            pass  # which is what the end tells
        return finish(folder)

    def _live(self) -> Live:
        return up_to_date(self._folder, self._cluster)

    def _await_others(self) -> None:
        """Wait for batches that run already, since the user had detached."""
        live = self._live()
        for attempt in self._folder.attempts():
            if not live.get(attempt.number):
                continue
            if self._cluster is None:
                raise RequestError(
                    f"items of {self._folder.name} are run by another process at this moment",
                    hints=(f"see how far they are: kij-train report {self._folder.name}",),
                )
            run, _ = runs.attached(self._cluster, attempt.job)
            if not follow_there(run, self._folder, attempt):
                raise Detached

    def _tell(self, *, only_ended: bool = False) -> int:
        """Tell the study what has become of its points; how many have a value, or were pruned.

        With `only_ended` those that have not ended by themselves are to be run again.
        """
        folder, live = self._folder, self._live()
        outcomes = list(outcomes_of(folder, live))
        is_left = self._cut_off() if only_ended else lambda _: False
        left = {
            point_key(one.key)
            for one in outcomes
            if one.state in (State.RUNNING, State.PENDING) or is_left(one)
        }
        found = sought.sweep_in(folder, live, self._wanted.objective)
        assert found is not None
        rows = [row for row in found.rows if row.key not in left]
        told = self._study.tell(rows, steps_of(outcomes))
        best = found.best
        if outcomes and not (only_ended and not rows):
            metric = self._wanted.objective.metric
            so_far = "" if best is None else f"; best so far: {best.key}  {metric} "
            so_far += "" if best is None else f"{best.values.mean:.6g}"
            output.status(f"{folder.name}  {len(rows):,} of {self._wanted.points:,} points{so_far}")
        return told

    def _cut_off(self) -> Callable[[Outcome], bool]:
        """Whether an item has not come to an end of its own."""
        cancelled = {
            attempt.number
            for attempt in self._folder.attempts()
            if attempt.state.endswith("cancelled")
        }

        def is_left(one: Outcome) -> bool:
            told_to_end = one.attempt in cancelled and one.exit_code in _TOLD_TO_END
            return one.state is State.MISSING or (one.state is State.FAILED and told_to_end)

        return is_left

    def _grow(self) -> None:
        """Put points that were chosen into the list of items."""
        plan = self._folder.plan()
        there = {point_key(key) for key in plan.keys()}  # noqa: SIM118 - a method of its own
        new = [point for key, point in self._study.waiting().items() if key not in there]
        if not new:
            return
        items = [*plan.items(range(plan.total)), *sweeps.trials_of(new, self._wanted.repeat)]
        chunk, seed = self._wanted.spec.chunk, self._wanted.spec.seed
        self._folder.grow(
            plans.pin(sweeps.items_of(items), chunk=chunk, indexes=None, seed=seed).text
        )

    def _run_batch(self) -> bool:
        """Run what is waiting, as an attempt; whether it came to its deadline."""
        folder, waiting = self._folder, self._study.waiting()
        chunk = self._wanted.spec.chunk or 1
        chosen: dict[int, list[int]] = {}
        is_left = self._cut_off()
        for one in outcomes_of(folder, self._live()):
            if is_left(one) and point_key(one.key) in waiting:
                chosen.setdefault(one.position // chunk, []).append(one.position)
        plan = runs.plan_rerun(
            self._wanted.resolved,
            Pinned(folder.plan_text()),
            array=folder.name,
            number=folder.next_attempt(),
            selection=sorted(chosen.items()),
            cwd=Path.cwd(),
            place=self._place,
            study=(folder.path / STUDY).read_bytes(),
        )
        where = self._place.where(plan.spec)
        if isinstance(self._place, runs.OnCluster) and plan.spec.trial_nodes > 1:
            at_once = at_once_of(plan)
            output.status(runs.array_summary(plan, where=where, at_once=at_once))
            if not run_trials(plan, folder, self._place, sorted(chosen.items()), at_once):
                raise Detached
            return False
        if isinstance(self._place, runs.OnMachine):
            output.status(runs.array_summary(plan, where=where, at_once=runs.at_once_here(plan)))
            folder.begin_attempt(runs.attempt_of(plan))
            failure = follow_here(plan, folder)
            if isinstance(failure, RequestError):
                raise failure
            return False
        at_once = plans.pods_at_once(plan.indexes, plan.spec.parallelism)
        output.status(runs.array_summary(plan, where=where, at_once=at_once))
        run = submit(plan, self._place)
        attempt = runs.attempt_of(plan, run.uid)
        begin(folder, attempt)
        if not follow_there(run, folder, attempt):
            raise Detached
        return is_late(run)
