"""kij-train map"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from kij_train import runs
from kij_train.arrays import items as sources
from kij_train.arrays import plan as plans
from kij_train.arrays.facts import Where
from kij_train.arrays.store import check_free, prepare
from kij_train.cli import grouped, output
from kij_train.cli.array_attached import run_here, stay_on_cluster
from kij_train.cli.config import print_values
from kij_train.cli.options import (
    job_options,
    resolve_options,
    warn_about_plan,
    warn_of_doubts,
    warn_of_what_is_left_out,
)
from kij_train.cli.render import print_offline
from kij_train.cli.submitting import check_whose_help, detach_from, dry_run_server, submit
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.spec import ArraySpec
from kij_train.spec.array import OF_EVALUATIONS
from kij_train.spec.arraytypes import parse_range
from kij_train.spec.settings import Group
from kij_train.specfile import Resolved

NO_EVALUATION = {
    *("spec_gates", "spec_baseline"),
    "spec_aggregate_in_cluster_aggregate_in_cluster",
}
"""Parameters of click that only an evaluation has."""
MOST_KEYS = 3
"""Of an index that a dry run shows."""


class Way(NamedTuple):
    """Where an array is run, and how."""

    is_local: bool
    as_shipped: bool
    detach: bool
    replace: bool
    dry_run: str | None
    form: str


_WAY = (
    grouped.option(
        Group.WHERE, "--local", "is_local", is_flag=True, help="As processes of this machine."
    ),
    grouped.option(
        Group.COMMAND,
        "--as-shipped",
        is_flag=True,
        help="With --local: run a copy of the code that pods would get, and nothing else.",
    ),
    grouped.option(
        Group.LIFE,
        "--detach",
        "-d",
        is_flag=True,
        help="Submit and return, once a pod exists or is refused (3 s at most).",
    ),
    grouped.option(
        Group.LIFE,
        "--replace",
        is_flag=True,
        help="Delete an array of this name first, with its results here, and its Jobs.",
    ),
    grouped.option(
        Group.OUTPUT,
        "--dry-run",
        type=click.Choice(["config", "plan", "client", "server"]),
        help="Create nothing: print each value and where it came from, which index has which "
        "items, the objects, or what the API server makes of them.",
    ),
    grouped.form_of("--dry-run and --detach"),
)


def way_options(callback: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where an array is run, and how."""
    for add in reversed(_WAY):
        callback = add(callback)
    return callback


def way_of(params: dict[str, Any]) -> Way:
    """What those options say; it takes them out of click's parameters."""
    return Way(**{name: params.pop(name) for name in Way._fields})


@click.command("map", cls=grouped.Command)
@way_options
def command(**params: Any) -> None:
    """Run SCRIPT with ARGS for every item of a list, and stay attached until all are done.

    Everything after SCRIPT belongs to the script. {item}, {key}, {index}, {seed}, and {name} of a
    field of JSON lines are filled in, and are in $KIJ_ITEM, $KIJ_KEY, … as well. What the script
    appends to $KIJ_RESULT_FILE, as JSON lines, are its results.

    \b
      kij-train map --local --range 0:20 --chunk 4 square.py {item}
      kij-train map --items files.txt convert.py {item}
      kij-train map --glob 'data/*.csv' --chunk 50 --parallelism 20 stats.py {item}
      kij-train map --items todo.jsonl --retries 2 fetch.py --url {url} --out {key}

    Exit codes: 0 all items are done, 1 some are not, and those of all commands.
    """
    way = way_of(params)

    def prepare(resolved: Resolved[ArraySpec]) -> tuple[Resolved[ArraySpec], sources.Items]:
        check_is_no_evaluation(resolved)
        if resolved.spec.trial_nodes > 1:
            raise RequestError(
                f"{resolved.origin(('trial_nodes',))}: trial_nodes is for sweeps: "
                "kij-train sweep --nodes N"
            )
        return resolved, read_items(resolved)

    run_array("map", params, prepare, way)


job_options(command, ArraySpec)
command.params = [
    one for one in command.params if one.name not in {"spec_trial_nodes", *NO_EVALUATION}
]


def check_is_no_evaluation(resolved: Resolved[ArraySpec]) -> None:
    """Raise RequestError for what only evaluations have: nothing would be judged."""
    for field in OF_EVALUATIONS:
        if resolved.given(field):
            raise RequestError(
                f"{resolved.origin((field,))}: {field} is for evaluations: kij-train eval --data …"
            )


def run_array(
    name: str,
    params: dict[str, Any],
    prepare: Callable[[Resolved[ArraySpec]], tuple[Resolved[ArraySpec], sources.Items]],
    way: Way,
) -> None:
    """From click's parameters to an array that has ended, or been submitted; then exit so.

    `name` is that of the command, for messages; `prepare` gives the items, and the request that
    goes with them. Raises RequestError, RefusedError, …
    """
    is_local, as_shipped, detach, replace, dry_run, form = way
    resolved, items = prepare(resolved_array(name, params, way))
    if is_local:
        _map_here(resolved, items, as_shipped, replace, dry_run, form)
        return
    backend = runs.OnCluster(replace=replace)
    plan = runs.plan_array(resolved, items, cwd=Path.cwd(), place=backend, random_name=not dry_run)
    plans.check_limits(
        plan.pinned,
        parallelism=plan.spec.parallelism,
        max_failed=plan.spec.failed_indexes(plan.indexes),
    )
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if dry_run == "plan":
        print_plan(plan, form)
        return
    if dry_run and plan.spec.trial_nodes > 1:
        count, first = plan.indexes, plan.pinned.items.positions(0)
        plan = dataclasses.replace(plan, selection=[(0, first)])
        output.status(f"the Job of the first trial; there is one for each of {count:,}")
    if dry_run == "client":
        print_offline(plan, form)
        return
    warn_of_doubts(backend, plan.spec)
    if dry_run == "server":
        dry_run_server(plan, backend, form)
        return
    _map_on_cluster(plan, backend, detach, replace, form)


def resolved_array(name: str, params: dict[str, Any], way: Way) -> Resolved[ArraySpec]:
    """What an array's parameters of click come to. A dry run that asks for it ends here.

    Raises RequestError.
    """
    if way.is_local and way.dry_run not in ("config", "plan"):
        _check_local(name, way.detach, way.dry_run)
    elif way.as_shipped and not way.is_local:
        raise RequestError("--as-shipped goes with --local: pods always run what ships")
    check_whose_help(name, params)
    resolved = resolve_options(params, model=ArraySpec)
    if way.dry_run == "config":
        print_values(resolved, way.form)
        raise click.exceptions.Exit(0)
    return resolved


def _check_local(name: str, detach: bool, dry_run: str | None) -> None:
    if detach:
        raise RequestError(
            "--detach does not go with --local: a local run ends with its command",
            hints=(f"in the background: nohup kij-train {name} --local … > run.log 2>&1 &",),
        )
    if dry_run:
        raise RequestError(
            f"--dry-run {dry_run} does not go with --local",
            hints=("which index has which items: --dry-run plan",),
        )


def read_items(resolved: Resolved[ArraySpec]) -> sources.Items:
    """The items that a request names. Raises RequestError."""
    spec = resolved.spec
    if spec.items == sources.STDIN and resolved.spec_file == sources.STDIN_SHOWN:
        raise RequestError("--items - and --file - both read standard input: one of them can")
    return sources.read(
        items=spec.items,
        glob=spec.glob,
        bounds=None if spec.range is None else parse_range(spec.range),
        root=Path.cwd() / spec.code_dir,
    )


def print_plan(plan: runs.ArrayPlan, form: str) -> None:
    """Which index has which items."""
    found = plan.pinned.items
    if form == "text":
        output.table(("INDEX", "ITEMS", "KEYS"), _rows(plan))
        total, count = found.total, found.indexes
        items, indexes = "s" * (total != 1), "es" * (count != 1)
        output.status(f"{total:,} item{items} in {count:,} index{indexes}; nothing was created")
        return
    table = [
        {"index": index, "keys": [key for key, _ in found.items(found.positions(index))]}
        for index in range(found.indexes)
    ]
    if form == "json":
        output.json_data(table)
    else:
        output.yaml_data(json.dumps(table, indent=1) + "\n")


def _rows(plan: runs.ArrayPlan) -> Iterator[tuple[str, str, str]]:
    found = plan.pinned.items
    for index in range(found.indexes):
        positions = found.positions(index)
        some = list(positions) if len(positions) <= MOST_KEYS else [positions[0], positions[-1]]
        keys = [shown(key) for key, _ in found.items(some)]
        between = " " if len(positions) <= MOST_KEYS else " … "
        yield str(index), str(len(positions)), between.join(keys)


# --- a cluster ------------------------------------------------------------------------------------


def _map_on_cluster(
    plan: runs.ArrayPlan, backend: runs.OnCluster, detach: bool, replace: bool, form: str
) -> None:
    if plan.spec.trial_nodes > 1:
        from kij_train.cli.array_trials import begin_trials

        begin_trials(plan, backend, detach=detach, replaces=replace)
        return
    prepare(Path.cwd())  # before there is a Job whose results nobody could keep
    check_free(Path.cwd(), plan.array, replace=replace)
    at_once = plans.pods_at_once(plan.indexes, plan.spec.parallelism)
    output.status(runs.array_summary(plan, where=backend.where(plan.spec), at_once=at_once))
    run = submit(plan, backend)
    if replace:  # its reruns; submit has replaced the first Job
        from kij_train.jobs import array_found

        array_found.delete_all(run.cluster, plan.array, but=run.name)
    where = Where("cluster", plan.spec.kubeconfig, plan.spec.context, run.cluster.namespace)
    folder = runs.keep_array(plan, Path.cwd(), where, replace=replace)
    attempt = runs.attempt_of(plan, run.uid)
    folder.begin_attempt(attempt)
    if detach:
        detach_from(run, form)
    else:
        stay_on_cluster(run, folder, attempt)


# --- this machine ---------------------------------------------------------------------------------


def _map_here(
    resolved: Resolved[ArraySpec],
    items: sources.Items,
    as_shipped: bool,
    replace: bool,
    dry_run: str | None,
    form: str,
) -> None:
    from kij_train import local

    if as_shipped and not resolved.spec.code:
        raise RequestError("--as-shipped conflicts with --no-code, which ships nothing")
    backend = runs.OnMachine(as_shipped=as_shipped)
    plan = runs.plan_array(resolved, items, cwd=Path.cwd(), place=backend, random_name=True)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if dry_run == "plan":
        print_plan(plan, form)
        return
    runs.check_here(plan)
    check_free(Path.cwd(), plan.array, replace=replace)
    output.status(
        runs.array_summary(
            plan,
            where=backend.where(plan.spec),
            at_once=runs.at_once_here(plan),
        )
    )
    ignored = [name for name in local.ignores(resolved.spec) if resolved.given(name)]
    if ignored:
        output.status(f"not used with --local: {', '.join(ignored)}")
    folder = runs.keep_array(plan, Path.cwd(), Where(), replace=replace)
    folder.begin_attempt(runs.attempt_of(plan))
    run_here(plan, folder)
