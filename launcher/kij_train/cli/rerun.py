"""kij-train rerun"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import runs
from kij_train.arrays import numbers
from kij_train.arrays.facts import Attempt
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.plan import Pinned
from kij_train.arrays.selection import Chosen, Wanted, choose
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, items_of, outcomes_of
from kij_train.cli import grouped, output
from kij_train.cli.again import NEW_PACKAGES
from kij_train.cli.array_attached import run_here, stay_on_cluster
from kij_train.cli.onarray import opened, unknown_key, up_to_date
from kij_train.cli.onjob import job_name
from kij_train.cli.options import (
    resolve_options,
    spec_options,
    warn_about_plan,
    warn_of_doubts,
    warn_of_what_is_left_out,
)
from kij_train.cli.submitting import detach_from, submit
from kij_train.errors import RequestError, UnreachableError
from kij_train.paths import shown
from kij_train.spec import ArraySpec
from kij_train.spec.settings import Group
from kij_train.specfile import WHERE, Layer, Origin

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

PINNED = (
    *("items", "items_on", "glob", "range", "chunk", "indexes", "slice", "seed"),
    *("name", "results", "aggregate_in_cluster", "trial_nodes"),
)
"""What an array is: the same in all of its attempts."""
NO_COMMAND = {
    "script": None,
    "args": (),
    "as_module": False,
    "as_program": False,
    "spec_file": None,
    "profile": None,
}
MOST_NAMED = 5


@click.command("rerun", cls=grouped.Command)
@click.argument("name", metavar="NAME", callback=job_name)
@grouped.option(Group.ITEMS, "--failed", is_flag=True, help="All that have failed or are missing.")
@grouped.option(
    Group.ITEMS, "--index", "indexes", metavar="3,7-9", help="All items of these indexes."
)
@grouped.option(
    Group.ITEMS, "--key", "keys", metavar="KEY", multiple=True, help="This item. Repeatable."
)
@grouped.option(Group.LIFE, "--detach", "-d", is_flag=True, help="Submit and return.")
@grouped.form_of("--detach")
def command(
    name: str,
    failed: bool,
    indexes: str | None,
    keys: tuple[str, ...],
    detach: bool,
    form: str,
    **params: Any,
) -> None:
    """Run items of an array again, where it ran, with the code of now; flags go on top.

    The newest success of an item is its result, so what was done before stays.

    \b
      kij-train rerun NAME --failed
      kij-train rerun NAME --failed --memory 64Gi
      kij-train rerun NAME --index 3,7-9
    """
    folder, cluster = opened(name, {flag: params.get(f"spec_{flag}") for flag in WHERE})
    live = up_to_date(folder, cluster)
    chosen = chosen_items(folder, live, failed, indexes, keys)
    if not chosen.selection:
        output.status(_nothing(folder, live))
        return
    resolved = resolve_options({**NO_COMMAND, **params}, request_layer(folder), ArraySpec)
    backend = runs.OnMachine() if cluster is None else runs.OnCluster(cluster)
    plan = runs.plan_rerun(
        resolved,
        Pinned(folder.plan_text()),
        array=name,
        number=folder.next_attempt(),
        selection=chosen.selection,
        cwd=Path.cwd(),
        place=backend,
        earlier=tuple((each.number, each.uid) for each in folder.attempts()),
    )
    if cluster is not None:
        plan = _with_its_packages(plan, folder, cluster)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if isinstance(backend, runs.OnMachine):
        if detach:
            raise RequestError(f"--detach is of no use: {name} runs on this machine")
        runs.check_here(plan)
        _say(plan, backend.where(plan.spec), runs.at_once_here(plan))
        folder.begin_attempt(runs.attempt_of(plan))
        run_here(plan, folder)
        return
    warn_of_doubts(backend, plan.spec)
    if plan.spec.trial_nodes > 1:
        from kij_train.cli.array_trials import rerun_trials

        rerun_trials(plan, folder, backend, chosen.selection, detach=detach)
        return
    _say(plan, backend.where(plan.spec), plan.spec.parallelism or plan.indexes)
    run = submit(plan, backend)
    attempt = runs.attempt_of(plan, run.uid)
    begin(folder, attempt)
    if detach:
        detach_from(run, form)
    else:
        stay_on_cluster(run, folder, attempt)


command.params += [
    option.option for option in spec_options(ArraySpec) if option.field not in PINNED
]


def _with_its_packages(
    plan: runs.ArrayPlan, folder: ArrayFolder, cluster: Cluster
) -> runs.ArrayPlan:
    """The plan, with the versions of packages that an earlier attempt has installed of the same."""
    from kij_train import jobs
    from kij_train.jobs import packages

    if plan.packages is None or plan.packages.locked:
        return plan
    for attempt in reversed(folder.attempts()):
        with suppress(UnreachableError):  # it is deleted
            job = jobs.get(cluster, attempt.job)
            lock = packages.of_the_same(cluster, job, plan.packages, plan.spec.image)
            if lock is not None:
                return replace(plan, lock=lock)
    output.status(f"the versions of packages are looked up anew: {NEW_PACKAGES}")
    return plan


def _say(plan: runs.ArrayPlan, where: str, at_once: int) -> None:
    output.status(runs.array_summary(plan, where=where, at_once=at_once))


def begin(folder: ArrayFolder, attempt: Attempt) -> None:
    """Make the attempt's folder, unless somebody who has just read the cluster did."""
    try:
        folder.begin_attempt(attempt)
    except RequestError:
        if all(each.uid != attempt.uid for each in folder.attempts()):
            raise


def request_layer(folder: ArrayFolder, attempt: int = 0) -> Layer:
    """What an attempt was launched with, and where, for flags to go on top of.

    Of an attempt that does not say it is what the array was launched with.
    """
    about = folder.about
    said = (each.request for each in folder.attempts() if each.number == attempt)
    request = next(said, None) or about.request
    if not request:
        raise RequestError(
            f"{folder.name} does not say how it was launched, as requests of more than 16 KiB do "
            "not",
            hints=("use the folder that it was launched from",),
        )
    where = {flag: getattr(about.where, flag) for flag in WHERE}
    values = {**request, **{flag: value for flag, value in where.items() if value}}
    origin = Origin(f"array {folder.name}")
    return Layer(values, {(field,): origin for field in values})


def chosen_items(
    folder: ArrayFolder, live: Live, failed: bool, indexes: str | None, keys: tuple[str, ...]
) -> Chosen:
    """The items that the flags ask for. Raises RequestError."""
    name, flags = folder.name, folder.about.where.flags
    if not failed and indexes is None and not keys:
        raise RequestError(
            "which items are to be run again?",
            hints=(
                f"all that are not done: kij-train rerun {name} --failed{flags}",
                "some: --index 3,7-9, or --key KEY",
            ),
        )
    plan = folder.plan()
    try:
        wanted = Wanted(
            failed,
            frozenset(numbers.parse(indexes, below=plan.indexes) if indexes is not None else ()),
            frozenset(keys),
        )
    except ValueError as error:
        raise RequestError(f"--index {indexes}: {error}") from None
    attempts = {attempt.number: items_of(attempt, plan) for attempt in folder.attempts()}

    def is_busy(one: Outcome) -> bool:
        return any(
            one.index in going
            and one.attempt != number
            and one.position in attempts[number](one.index)
            for number, going in live.items()
        )

    chosen = choose(outcomes_of(folder, live), wanted, is_busy)
    if chosen.unknown:
        raise unknown_key(folder, min(chosen.unknown))
    if chosen.busy:
        named = ", ".join(shown(one.key) for one in chosen.busy[:MOST_NAMED])
        raise RequestError(
            f"{len(chosen.busy):,} of these items run at this moment, or will: {named}",
            hints=(
                f"how far they are: kij-train report {name}{flags}",
                f"all that have failed so far: kij-train rerun {name} --failed{flags}",
            ),
        )
    return chosen


def _nothing(folder: ArrayFolder, live: Live) -> str:
    states = {one.state for one in outcomes_of(folder, live)}
    if states <= {State.DONE}:
        return f"{folder.name}: every item is done, nothing is run again"
    return f"{folder.name}: no item has failed so far that no attempt runs; nothing is run again"
