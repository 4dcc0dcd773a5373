"""Verdicts: figures against limits, and a report against an older one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kij_train.bench.rows import Document, Row, all_rows, size_text
from kij_train.errors import RequestError
from kij_train.pod.collectives import arguments

SIZE_SLACK = 0.02
"""A message of a collective in parts may be that much smaller than asked for."""


def parse_gate(text: str) -> tuple[int, float]:
    """Bytes and GB/s of "8M:10". Raises RequestError."""
    size, colon, least = text.partition(":")
    try:
        gate = arguments.parse_size(size), float(least)
    except ValueError:
        gate = 0, 0.0
    if not colon or not gate[0] or not 0 < gate[1] < math.inf:
        raise RequestError(f"--min-busbw {text}: must look like SIZE:GBPS, as in 8M:10")
    return gate


def matches(size: int, asked: int) -> bool:
    """Whether a measured size is the one asked for, which may be rounded down to whole parts."""
    return asked * (1 - SIZE_SLACK) <= size <= asked


def below(document: Document, gates: Iterable[tuple[int, float]]) -> list[str]:
    """What is wrong with the figures: wrong results, and busbw under a gate. Empty is good.

    A gate that judges no row is wrong as well: it would guard nothing.
    """
    rows = all_rows(document)
    problems = wrong_rows(document)
    for asked, least in gates:
        judged = [row for row in rows if row.ranks > 1 and matches(row.size, asked)]
        if not judged:
            problems.append(f"no row of {size_text(asked)} and several ranks to judge by its busbw")
        problems += [
            f"{row.what}: busbw {row.busbw:.3g} GB/s is under {least:g} GB/s"
            for row in judged
            if row.busbw < least
        ]
    return problems


def wrong_rows(document: Document) -> list[str]:
    """Rows whose results are wrong."""
    rows = all_rows(document)
    return [f"{row.what}: {row.wrong} elements are wrong" for row in rows if row.wrong]


def parse_tolerance(text: str) -> float:
    """0.1 of "10%" or "0.1". Raises RequestError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text, re.ASCII)
    value = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if value >= 1:
        raise RequestError(f"--tolerance {text}: must be less than 100%, as in 10%")
    return value


Change = Literal["better", "worse", "same", "missing"]


@dataclass(frozen=True)
class Comparison:
    """A row in two documents."""

    old: Row
    new: Row | None
    """None where the newer document lacks it."""
    ratio: float
    """New bandwidth / old; 0 where it is lacking, infinite where only the old one is 0."""
    change: Change
    """same: within the tolerance, up or down."""

    @property
    def fell(self) -> bool:
        """Never for a row that is missing."""
        return self.change == "worse"

    @property
    def problem(self) -> str | None:
        """What is wrong, in words."""
        if self.new is None:
            return f"{self.old.what}: missing from the new report"
        if not self.fell:
            return None
        figures = f"{self.old.algbw:.3g} to {self.new.algbw:.3g} GB/s"
        return f"{self.old.what}: fell from {figures}, to {self.ratio:.2f} of it"


def compare(old: Document, new: Document, tolerance: float) -> list[Comparison]:
    """Every row of `old` against the same row of `new`. Raises RequestError when no row is in both.

    By algbw: one rank alone has it too, and its ratio is that of busbw.
    """
    newer = {row.key: row for row in all_rows(new)}
    found = []
    for row in all_rows(old):
        match = newer.get(row.key)
        if match is None:
            found.append(Comparison(row, None, 0.0, "missing"))
            continue
        ratio = _ratio(match.algbw, row.algbw)
        is_better, is_worse = ratio > 1 + tolerance, ratio < 1 - tolerance
        change: Change = "better" if is_better else "worse" if is_worse else "same"
        found.append(Comparison(row, match, ratio, change))
    if not any(one.new for one in found):
        raise RequestError(
            "the two reports have no row in common",
            hints=("a row is a collective, type, operation, nodes, ranks and size",),
        )
    return found


def _ratio(new: float, old: float) -> float:
    if old:
        return new / old
    return math.inf if new else 1.0
