"""Points drawn from a space: at random, or as a Sobol sequence, which leaves no large holes.

The same seed draws the same points on every machine, and more of them begin with the same ones, so
that a larger sample goes on where a smaller one ended.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from kij_train import extras
from kij_train.arrays.points import MOST_POINTS, Point, Space, key_of
from kij_train.errors import RequestError

Method = Literal["random", "sobol"]
METHODS: tuple[Method, ...] = ("random", "sobol")
_TRIES = 50
"""Draws for each point that is wanted: the last values of a small space are rarely drawn."""


def sample(space: Space, count: int, *, method: Method = "random", seed: int = 0) -> list[Point]:
    """`count` different points. Raises RequestError where there are not as many."""
    if not 1 <= count <= MOST_POINTS:
        raise RequestError(f"--sample {count}: must be from 1 to {MOST_POINTS:,}")
    there = space.count
    if there is not None and there <= count:
        raise RequestError(
            f"--sample {count}: there are only {there:,} points", hints=("leave --sample out",)
        )
    width = len(space.axes) + bool(space.rows)
    draws = _random(width, seed) if method == "random" else _sobol(width, count, seed)
    found: dict[str, Point] = {}
    for _, row in zip(range(_TRIES * count), draws, strict=False):
        point = _point(space, row)
        found.setdefault(key_of(point), point)
        if len(found) == count:
            return list(found.values())
    raise RequestError(
        f"--sample {count}: only {len(found):,} different points were found in "
        f"{_TRIES * count:,} draws",
        hints=(f"take fewer: --sample {max(1, len(found) // 2)}", "or leave --sample out"),
    )


def _point(space: Space, row: Sequence[float]) -> Point:
    point: Point = {}
    if space.rows:
        point.update(space.rows[int(row[-1] * len(space.rows))])
    for axis, u in zip(space.axes, row, strict=False):
        point[axis.name] = axis.draw(u)
    return point


def _random(width: int, seed: int) -> Iterator[Sequence[float]]:
    """Rows of numbers from 0 to below 1. Python promises that random() gives the same ones for a
    seed in every version."""
    draw = random.Random(seed).random  # noqa: S311 - not a secret
    while True:
        yield [draw() for _ in range(width)]


def _sobol(width: int, count: int, seed: int) -> Iterator[Sequence[float]]:
    """Rows of a scrambled Sobol sequence (Owen 1998), by SciPy."""
    extras.require("scipy", "--sampler sobol", "or: --sampler random")
    from scipy.stats import qmc

    if width > qmc.Sobol.MAXDIM:
        raise RequestError(f"--sampler sobol takes {qmc.Sobol.MAXDIM} axes at most")
    # A power of two: other lengths are cut from one, as SciPy itself says of them.
    done, power = 0, (count - 1).bit_length()
    while True:
        rows = qmc.Sobol(width, scramble=True, seed=seed).random_base2(power)
        yield from rows[done:].tolist()
        done, power = len(rows), power + 1
