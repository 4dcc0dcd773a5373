"""kij-train eval"""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kij_train.arrays import evaluation, judged, statistics
from kij_train.arrays import items as sources
from kij_train.arrays.items import Items
from kij_train.arrays.store import ArrayFolder
from kij_train.cli import grouped
from kij_train.cli.findings import tell_noise
from kij_train.cli.map import Way, run_array, way_of, way_options
from kij_train.cli.options import job_options
from kij_train.errors import RequestError
from kij_train.spec import ArraySpec
from kij_train.spec.array import SOURCES
from kij_train.spec.settings import Group
from kij_train.specfile import Resolved

_NOT = (
    *(*SOURCES, "items_on", "chunk", "indexes", "preload", "style", "metrics", "function"),
    *("minimize", "maximize", "item_timeout", "trial_nodes"),
)
"""Fields that mean nothing to one process a shard with the examples of --data."""
_NO_FLAGS = {*(f"spec_{name}" for name in _NOT), "spec_slice_slice"}
"""Parameters of click that an evaluation has its own for, or does without."""


@click.command("eval", cls=grouped.Command)
@way_options
@grouped.option(
    Group.ITEMS,
    "--data",
    metavar="FILE|-",
    required=True,
    help='The examples, JSON lines, each with an "id" of its own.',
)
@grouped.option(
    Group.ITEMS,
    "--shards",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Processes over which the examples are spread evenly, an index each; 1.",
)
@grouped.option(
    Group.METRICS,
    "--self-check",
    is_flag=True,
    help="Evaluate twice, and print what differs: the noise that no gate can see through.",
)
def command(data: str, shards: int, self_check: bool, **options: Any) -> None:
    """Run SCRIPT over a data set in shards, and judge the metrics of its results.

    SCRIPT runs once a shard. Its examples are in $KIJ_ITEMS_FILE, a line of JSON each, with the
    example as "item"; for each it appends a line to $KIJ_RESULT_FILE, with its "id" and numbers.

    \b
      kij-train eval --data prompts.jsonl --shards 16 --gpus 1 score.py
      kij-train eval --data prompts.jsonl --gate 'accuracy >= 0.8' score.py
      kij-train eval --data prompts.jsonl --baseline main.jsonl \\
          --gate 'accuracy drop <= 0.01' score.py

    A gate passes or fails where the whole 95 % interval does, and is undecided in between. It fails
    where an example has no value.

    Exit codes: 0 passed, 1 failed, 6 undecided, and those of all commands.
    """
    statistics.require()
    way = way_of(options)

    def prepare(resolved: Resolved[ArraySpec]) -> tuple[Resolved[ArraySpec], Items]:
        spec = resolved.spec
        if spec.results is not None and not (way.is_local or spec.aggregate_in_cluster):
            raise RequestError(
                f"{resolved.origin(('results',))}: results on a volume cannot be judged from here",
                hints=(
                    "have the pod that ends last send their numbers: --aggregate-in-cluster",
                    "or leave it out: results come through the logs, 4 MiB a shard (--shards)",
                ),
            )
        return _prepared(resolved, data, shards)

    if self_check:
        _check_twice(options, prepare, way)
    run_array("eval", options, prepare, way)


job_options(command, ArraySpec)
command.params = [one for one in command.params if one.name not in _NO_FLAGS]


def _prepared(
    resolved: Resolved[ArraySpec], data: str, shards: int
) -> tuple[Resolved[ArraySpec], Items]:
    """The examples, and the request as an evaluation has it. Raises RequestError."""
    spec = resolved.spec
    for field in _NOT:
        if resolved.given(field):
            raise RequestError(
                f"{resolved.origin((field,))}: {field} does not go with an evaluation",
                hints=("its examples are --data, its processes --shards",),
            )
    items = evaluation.read_data(_read(data), sources.STDIN_SHOWN if data == "-" else data)
    judged.judges(spec.gates, spec.baseline, list(items.keys))
    update = {"slice": True, "indexes": shards, "evaluate": True}
    return replace(resolved, spec=spec.model_copy(update=update)), items


def _read(data: str) -> bytes:
    try:
        if data == sources.STDIN:
            return sys.stdin.buffer.read()
        return Path(data).read_bytes()
    except OSError as error:
        raise RequestError(f"--data {data}: cannot be read: {error.strerror}") from None


def _check_twice(options: dict[str, Any], prepare: Any, way: Way) -> None:
    """Evaluate twice, print what differs, and exit as the worse of the two has ended."""
    for flag, given in (("--detach", way.detach), ("--dry-run", way.dry_run)):
        if given:
            raise RequestError(f"{flag} does not go with --self-check, which compares results")
    base = options["spec_name"] or f"self-check-{secrets.token_hex(3)}"
    names, codes = [f"{base}-{number}" for number in (1, 2)], []
    for name in names:
        try:
            run_array("eval", {**options, "spec_name": name}, prepare, way)
        except click.exceptions.Exit as end:
            codes.append(end.exit_code)
    first, second = (ArrayFolder.open(Path.cwd(), name) for name in names)
    tell_noise(first, second)
    raise click.exceptions.Exit(max(codes, key=lambda code: (code == 1, code)))
