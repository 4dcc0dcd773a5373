"""kij-train render"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kij_train import names, render, runs
from kij_train.cli import output
from kij_train.cli.options import (
    job_options,
    resolve_options,
    warn_about_plan,
    warn_of_what_is_left_out,
)


@click.command("render")
@click.option(
    "--output", "-o", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="Format."
)
def command(form: str, **params: Any) -> None:
    """Print the exact Kubernetes objects of a launch, offline: no cluster is spoken to.

    The same request prints the same bytes. Pipe it to kubectl apply -f -.
    """
    plan = runs.plan(resolve_options(params), cwd=Path.cwd())
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    print_offline(plan, form)


def print_offline(plan: runs.Plan, form: str) -> None:
    """What would be sent, and where a server may want it otherwise."""
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
