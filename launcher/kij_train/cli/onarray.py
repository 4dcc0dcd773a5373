"""What the commands about an array share: its folder, brought up to date from where it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train.arrays import store
from kij_train.arrays.facts import CLUSTER, Where
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, live_here
from kij_train.cli import output
from kij_train.cli.onjob import job_name, where_options
from kij_train.cli.where import connect
from kij_train.errors import RequestError, UnreachableError
from kij_train.paths import shown
from kij_train.specfile import WHERE

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

Function = Callable[..., Any]


def array_argument(function: Function) -> Function:
    """Add the argument NAME, completed from the arrays of this folder, and where_options."""
    argument = click.argument("name", metavar="NAME", callback=job_name, shell_complete=_complete)
    return argument(where_options(function))


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del ctx, param
    return [name for name in store.known(Path.cwd()) if name.startswith(incomplete)]


def opened(name: str, params: dict[str, Any]) -> tuple[ArrayFolder, Cluster | None]:
    """The folder of an array, and the cluster that it runs on; None for this machine.

    One that was launched from elsewhere is looked for on the cluster, and gets a folder here.
    Raises UnreachableError where there is none, RequestError.
    """
    from kij_train.jobs import array_found

    try:
        folder = ArrayFolder.open(Path.cwd(), name)
    except UnreachableError as missing:
        try:
            cluster = connect(params)
            return array_found.found(cluster, Path.cwd(), name, where_of(cluster, params)), cluster
        except UnreachableError as error:
            # What launch says of runs on this machine is not true of arrays: their folder stays.
            others = (hint for hint in error.hints if "--local" not in hint)
            raise UnreachableError(
                f"{missing.message}, and on the cluster: {error.message}",
                hints=(
                    f"see what there is: ls {store.BASE}",
                    "one that ran on this machine is in the folder that it was started in: cd DIR",
                    *others,
                ),
            ) from None
    if folder.about.where.is_local:
        given = [flag for flag in WHERE if params.get(flag) is not None]
        if given:
            raise RequestError(
                f"{name} ran on this machine, in {store.BASE / name}: --{given[0]} is of no use"
            )
        return folder, None
    return folder, connect_to(folder, params)


def where_of(cluster: Cluster, params: dict[str, Any]) -> Where:
    """Where an array is that was found on a cluster by these flags."""
    return Where(CLUSTER, params.get("kubeconfig"), params.get("context"), cluster.namespace)


def connect_to(folder: ArrayFolder, params: dict[str, Any]) -> Cluster:
    """The cluster of an array, as it was launched unless flags say otherwise."""
    where = folder.about.where
    return connect({**params, **{flag: params.get(flag) or getattr(where, flag) for flag in WHERE}})


def up_to_date(folder: ArrayFolder, cluster: Cluster | None, *, partial: bool = False) -> Live:
    """Bring the folder up to date; what indexes do now."""
    if cluster is None:
        return live_here(folder)
    from kij_train.jobs.refresh import refresh

    return refresh(cluster, folder, partial=partial, note=output.warning)


def unknown_key(folder: ArrayFolder, key: str) -> RequestError:
    """The error for a key that an array has not."""
    close = difflib.get_close_matches(key, list(folder.plan().keys()), n=1, cutoff=0.7)
    hints = (f"did you mean {shown(close[0])}?",) if close else ()
    see = f"all keys: kij-train results {folder.name} --format table --partial"
    return RequestError(
        f"{folder.name} has no item {shown(key)}", hints=(*hints, see + folder.about.where.flags)
    )
