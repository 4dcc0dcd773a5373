"""kij-train sweep"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import click

from kij_train.arrays import points, sampling, sweeps
from kij_train.arrays.axes import Axis, parse_axis
from kij_train.arrays.items import Items
from kij_train.cli import grouped
from kij_train.cli.map import (
    NO_EVALUATION,
    check_is_no_evaluation,
    resolved_array,
    run_array,
    way_of,
    way_options,
)
from kij_train.cli.options import job_options
from kij_train.errors import RequestError
from kij_train.spec import ArraySpec
from kij_train.spec.array import SOURCES
from kij_train.spec.settings import Group
from kij_train.specfile import Resolved

MOST_REPEATS = 1_000
TPE: Final = "tpe"
"""The sampler that searches: Optuna's tree of Parzen estimators."""
_NO_FLAGS = {
    *(f"spec_{name}" for name in (*SOURCES, "items_on")),
    "spec_slice_slice",
    *NO_EVALUATION,
}
"""Parameters of click that a sweep has its own for, or does without."""


@click.command("sweep", cls=grouped.Command)
@way_options
@grouped.option(
    Group.ITEMS,
    "--param",
    "-p",
    "axes",
    metavar="NAME=VALUES",
    multiple=True,
    help="A parameter and its values: lr=1e-4,3e-4; depth=2..8; seed=range(3); and for --sample "
    "lr=log(1e-5,1e-2), drop=uniform(0,0.5). Repeatable: the sweep is the product.",
)
@grouped.option(
    Group.ITEMS,
    "--params",
    metavar="FILE",
    help="Parameters of a file: points as JSON lines (.jsonl), or axes or points as YAML.",
)
@grouped.option(
    Group.ITEMS, "--sample", type=int, metavar="N", help="Draw N points instead of all."
)
@grouped.option(
    Group.ITEMS,
    "--sampler",
    type=click.Choice([*sampling.METHODS, TPE]),
    default="random",
    help="How --sample draws; sobol leaves no large holes (needs SciPy); tpe searches: in batches "
    "of --parallelism, or 8, by the results of those before (needs Optuna).",
)
@grouped.option(
    Group.ITEMS,
    "--repeat",
    type=int,
    default=1,
    metavar="R",
    help="Run each point R times, each with another $KIJ_SEED.",
)
def command(
    axes: tuple[str, ...],
    params: str | None,
    sample: int | None,
    sampler: sampling.Method | Literal["tpe"],
    repeat: int,
    **options: Any,
) -> None:
    """Run SCRIPT with ARGS and every combination of parameters, and tell which was the best.

    Each trial is an item of an array: its parameters come behind ARGS as --name value, and its seed
    is $KIJ_SEED and {seed}. What is sought is in the results, JSON lines in $KIJ_RESULT_FILE, or in
    the output, with --metric. report, results, rerun, replay and all others know the array.

    \b
      kij-train sweep -p lr=1e-4,3e-4,1e-3 -p batch=16,32 --min loss train.py
      kij-train sweep -p lr=1e-3,3e-4 --repeat 3 --metric 'loss=loss (\\S+)' --min loss train.py
      kij-train sweep -p 'lr=log(1e-5,1e-2)' -p depth=2..8 --sample 64 --gpus 1 train.py
      kij-train sweep -p 'lr=log(1e-5,1e-2)' --sample 64 --sampler tpe --min loss train.py
      kij-train sweep -p model.lr=1e-3,3e-4 --style hydra train.py

    Exit codes: 0 all trials are done and one is the best, 1 not, and those of all commands.
    """
    way = way_of(options)

    if sample is None and sampler != "random":
        raise RequestError(
            f"--sampler {sampler} needs --sample N", hints=(f"--sample 64 --sampler {sampler}",)
        )

    def prepare(resolved: Resolved[ArraySpec]) -> tuple[Resolved[ArraySpec], Items]:
        assert sampler != TPE
        _check(resolved)
        items = trials_of(axes, params, sample, sampler, repeat, resolved.spec.seed)
        return _with(resolved, style=resolved.spec.style or "flags"), items

    if sampler != TPE:
        run_array("sweep", options, prepare, way)
        return
    assert sample is not None
    from kij_train.cli import sweep_search

    resolved = resolved_array("sweep", options, way)
    _check(resolved)
    space = space_of(axes, params, repeat)
    spec = resolved.spec
    searched = _with(resolved, style=spec.style or "flags", chunk=spec.chunk or 1)
    sweep_search.search(sweep_search.wanted_of(searched, space, sample, repeat), way)


job_options(command, ArraySpec)
command.params = [one for one in command.params if one.name not in _NO_FLAGS]


def _check(resolved: Resolved[ArraySpec]) -> None:
    check_is_no_evaluation(resolved)
    spec = resolved.spec
    for source in SOURCES:
        if getattr(spec, source) is not None:
            raise RequestError(
                f"{resolved.origin((source,))} {getattr(spec, source)}: the items of a sweep "
                "are its parameters",
                hints=("a file of parameters: --params FILE",),
            )
    if spec.slice:
        raise RequestError("--slice does not go with a sweep: each trial is a process")


def _with(resolved: Resolved[ArraySpec], **values: Any) -> Resolved[ArraySpec]:
    return replace(resolved, spec=resolved.spec.model_copy(update=values))


def space_of(axes: tuple[str, ...], file: str | None, repeat: int) -> points.Space:
    """What the trials are of. Raises RequestError."""
    if not 1 <= repeat <= MOST_REPEATS:
        raise RequestError(f"--repeat {repeat}: must be from 1 to {MOST_REPEATS:,}")
    found: list[Axis] = []
    rows: list[points.Point] = []
    if file is not None:
        found, rows = points.read_file(_read(file), file)
    found += [parse_axis(text) for text in axes]
    return points.space_of(found, rows)


def trials_of(
    axes: tuple[str, ...],
    file: str | None,
    sample: int | None,
    sampler: sampling.Method,
    repeat: int,
    seed: int,
) -> Items:
    """The trials as items of an array. Raises RequestError."""
    space = space_of(axes, file, repeat)
    if sample is None:
        chosen = points.grid(space)
    else:
        chosen = sampling.sample(space, sample, method=sampler, seed=seed)
    count = len(chosen) * repeat
    if count > points.MOST_POINTS:
        raise RequestError(
            f"{len(chosen):,} points, {repeat} times each, are {count:,} trials; the most is "
            f"{points.MOST_POINTS:,}",
            hints=("draw some of the points: --sample 64",),
        )
    return sweeps.items_of(sweeps.trials_of(chosen, repeat))


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--params {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"--params {file}: is no text in UTF-8") from None
