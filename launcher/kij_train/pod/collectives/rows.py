"""A row of the report: one message size, with the keys of nccl-tests."""

from __future__ import annotations

import argparse
from typing import Any

from .table import COLLECTIVES


def make_row(
    args: argparse.Namespace, size: int, count: int, seconds: list[float], wrong: int | None
) -> dict[str, Any]:
    """A result with the keys of nccl-tests, and the ranks' times in microseconds."""
    collective = COLLECTIVES[args.collective]
    mean = sum(seconds) / len(seconds)
    algbw = size / mean / 1e9
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    figures = {
        "time": mean * 1e6,
        "alg_bw": algbw,
        "bus_bw": algbw * collective.factor(len(seconds)),
        "nwrong": wrong,
    }
    return {
        "size": size,
        "count": count,
        "type": args.datatype,
        "redop": args.op if collective.reduces else "none",
        "root": str(collective.root),
        "out_of_place": None if collective.in_place else figures,
        "in_place": figures if collective.in_place else None,
        "actual_iterations": args.iters,
        "ranks": {
            "times_us": [round(one * 1e6, 3) for one in seconds],
            "slowest": slowest,
            "spread": (seconds[slowest] - min(seconds)) / mean,
        },
    }


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    """The half of a row that was measured."""
    found: dict[str, Any] = row["in_place"] or row["out_of_place"]
    return found
