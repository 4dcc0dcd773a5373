"""kij-train render"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click

from kij_train import names, render, runs, units
from kij_train.cli import grouped, output
from kij_train.cli.options import (
    job_options,
    resolve_options,
    spec_options,
    warn_about_plan,
    warn_of_what_is_left_out,
)
from kij_train.code import leftout
from kij_train.code.listing import list_files
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.render import formats
from kij_train.runs.on_cluster import Submittable
from kij_train.specfile import WHERE, Resolved, workflow_file

_planned: ContextVar[list[Submittable] | None] = ContextVar("planned", default=None)
"""Where plans go that would be printed."""


@click.command("render", cls=grouped.Command)
@click.option(
    "--output", "-o", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="Syntax."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice([*formats.FORMATS]),
    default=formats.KUBERNETES,
    help="; ".join(f"{name}: {what}" for name, what in formats.FORMATS.items())
    + ". With argo, FILE may have steps.",
)
@click.option(
    "--list-code",
    is_flag=True,
    help="Print the files that ship instead, one a line, and why others do not.",
)
def command(form: str, kind: str, list_code: bool, **params: Any) -> None:
    """Print the exact Kubernetes objects of a launch, offline: no cluster is spoken to.

    The same request prints the same bytes. Pipe it to kubectl apply -f -.

    Of an array: kij-train map … --dry-run client -o yaml, and so for sweep and eval.

    \b
      kij-train render --nodes 8 --gpus 4 train.py | kubectl apply -f -
      kij-train render --format argo -f pipeline.yaml | kubectl apply --server-side -f -
    """
    if kind == "argo" and params["spec_file"] not in (None, "-") and not list_code:
        workflow = workflow_file.read_workflow(params["spec_file"])
        if workflow is not None:
            from kij_train.cli.workflow import objects_of

            _check_no_others(params)
            where = params["spec_namespace"]
            print_objects(objects_of(workflow, where, params["spec_file"]), form)
            return
    resolved = resolve_options(params)
    if list_code:
        _print_code(resolved)
        return
    plan = runs.plan(resolved, cwd=Path.cwd(), place=runs.OnCluster())
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if kind == formats.KUBERNETES:
        print_offline(plan, form)
    else:
        print_objects(plan.in_format(kind), form)


def _check_no_others(params: dict[str, Any]) -> None:
    """Raise RequestError for what a file of steps says itself."""
    for option in spec_options():
        given = params.get(option.parameter)
        if given not in (None, (), False) and option.field not in WHERE:
            raise RequestError(
                f"{option.flags[0]} does not go with a file that has steps",
                hints=("say it in the file: for all steps under defaults, for one in its run",),
            )
    for name, given in (("a script", params["script"]), ("--profile", params["profile"])):
        if given:
            raise RequestError(f"{name} does not go with a file that has steps")


@contextmanager
def planned() -> Iterator[list[Submittable]]:
    """Have dry runs give their plans, instead of printing them."""
    found: list[Submittable] = []
    token = _planned.set(found)
    try:
        yield found
    finally:
        _planned.reset(token)


def _print_code(resolved: Resolved) -> None:
    """What ships to stdout; what does not, and why, to stderr."""
    spec = resolved.spec
    if not spec.code:
        raise RequestError("--no-code ships nothing: --list-code has nothing to list")
    code_dir = Path.cwd() / spec.code_dir
    if spec.script or spec.module or spec.program:  # without, the folder alone is asked for
        runs.OnCluster().locate(resolved, Path.cwd(), code_dir)
    listing = list_files(code_dir)
    for left in listing.left_out:
        output.status(leftout.describe(left))
    for name in listing.names:
        output.data(shown(name))
    count, size = len(listing.names), units.format_bytes(listing.size_bytes)
    output.status(f"ships {count:,} file{'' if count == 1 else 's'}, {size}")


def print_offline(plan: Submittable, form: str) -> None:
    """What would be sent, and where a server may want it otherwise."""
    found = _planned.get()
    if found is not None:
        found.append(plan)
        return
    objects = plan.objects()
    for body in objects:
        if render.applied_bytes(body) > render.MOST_APPLIED_BYTES:
            output.warning(
                f"{body['kind']} {body['metadata']['name']} is too large for kubectl apply, which "
                "writes all of an object into an annotation of it, of 256 KiB at most",
                hints=("apply it with: kubectl apply --server-side -f -",),
            )
    print_objects(objects, form)
    if plan.spec.scheduler == "native":
        best, *others = names.NATIVE_VERSIONS
        output.status(
            f"PodGroup is written for {names.NATIVE_GROUP}/{best}, Kubernetes 1.37; kij-train "
            f"launch takes what the server has, which may be {' or '.join(others)}"
        )


def print_objects(objects: list[dict[str, Any]], form: str) -> None:
    """Objects as YAML documents or as one JSON list."""
    if form == "json":
        output.json_data({"apiVersion": "v1", "kind": "List", "items": objects})
    else:
        output.yaml_data(render.to_yaml(objects))


job_options(command)
