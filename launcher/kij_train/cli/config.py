"""kij-train config"""

from __future__ import annotations

import json
from typing import Any

import click

from kij_train import names, render
from kij_train.cli import grouped, output
from kij_train.cli.options import job_options, resolve_options
from kij_train.spec import Common
from kij_train.specfile import Location, Resolved


@click.command("config", cls=grouped.Command)
@click.option(
    "--output",
    "-o",
    "form",
    type=click.Choice(["table", "yaml", "json"]),
    default="table",
    help="Format.",
)
# What it asked for is the default now; scripts that give it go on.
@click.option("--all", "-a", "show_all", is_flag=True, hidden=True)
def command(form: str, show_all: bool, **params: Any) -> None:
    """Show every value of a launch and where each came from.

    Precedence, highest first: flag, KIJ_* variable, spec file (-f), kij-train.toml or
    [tool.kij-train], profile, default.

    Of an array: kij-train map … --dry-run config, and so for sweep and eval.
    """
    del show_all
    print_values(resolve_options(params), form)


def print_values(resolved: Resolved[Common], form: str) -> None:
    """Each value and where it came from; `form` is yaml, json, or anything else for a table."""
    rows = value_rows(resolved)
    found = {name: {"value": value, "from": origin} for name, value, origin in rows}
    if form == "json":
        output.json_data(found)
    elif form == "yaml":
        output.yaml_data(render.to_yaml([found]))
    else:
        shown = ((name, _shown(value), origin) for name, value, origin in rows)
        output.table(("name", "value", "from"), shown)


def value_rows(resolved: Resolved[Common]) -> list[tuple[str, Any, str]]:
    """Name, value and origin of every field; of every key and item where there are several."""
    rows: list[tuple[str, Any, str]] = []
    for field, value in resolved.spec.model_dump(mode="json", by_alias=True).items():
        if isinstance(value, dict) and value and field != "affinity":
            parts: list[tuple[Location, Any]] = [((field, key), v) for key, v in value.items()]
        elif isinstance(value, list) and value and field != "args":
            parts = [((field, index), item) for index, item in enumerate(value)]
        else:
            parts = [((field,), value)]
        for location, part in parts:
            part = _without_secrets(location, part)
            name = ".".join(str(step) for step in location)
            rows.append((name, part, resolved.origin(location)))
    return rows


def _without_secrets(location: Location, value: Any) -> Any:
    field, *keys = location
    if field == "args":
        secret = names.secret_arguments(value)
        return ["…" if index in secret else each for index, each in enumerate(value)]
    looks = {"env": names.looks_secret}.get(str(field), names.looks_secret_beside)
    if field in ("env", "labels", "annotations") and keys and looks(str(keys[0]), str(value)):
        return "…"
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


job_options(command)
