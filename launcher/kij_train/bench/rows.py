"""What a run measured: the payload's report out of a job's output, and its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kij_train.pod.collectives.report import Piece
from kij_train.pod.collectives.rows import figures_of

Document = dict[str, Any]


class ReportLines:
    """Picks a report out of a job's output; the rest is for the user."""

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}
        self._count = 0

    def take(self, line: str) -> bool:
        """Whether the line belongs to the report."""
        piece = Piece.read(line)
        if piece is None:
            return False
        self._count = piece.of
        self._pieces[piece.number] = piece.text
        return True

    def report(self) -> dict[str, Any] | None:
        """The whole report; None while a piece is missing."""
        if not self._count or len(self._pieces) < self._count:
            return None
        text = "".join(self._pieces[index] for index in sorted(self._pieces))
        report: dict[str, Any] = json.loads(text)
        return report


@dataclass(frozen=True)
class Row:
    """One message size of one run."""

    collective: str
    type: str
    redop: str
    nodes: int
    ranks: int
    size: int
    """Bytes."""
    time_us: float
    """Mean over ranks and calls."""
    algbw: float
    busbw: float
    wrong: int
    slowest: int
    """Rank with the longest time."""
    spread: float
    """(longest - shortest) / mean of the ranks' times."""

    @property
    def what(self) -> str:
        """The row in words."""
        return f"{self.collective} {self.type} {self.nodes} nodes {self.ranks} ranks {self.size} B"

    @property
    def key(self) -> tuple[str, str, str, int, int, int]:
        """What must be equal for figures to compare."""
        return (self.collective, self.type, self.redop, self.nodes, self.ranks, self.size)


def rows_of(report: Mapping[str, Any], nodes: int) -> list[Row]:
    """The rows of one report."""
    rows = []
    for result in report["results"]:
        figures = figures_of(result)
        rows.append(
            Row(
                collective=report["kij"]["collective"],
                type=result["type"],
                redop=result["redop"],
                nodes=nodes,
                ranks=int(report["kij"]["ranks"]),
                size=int(result["size"]),
                time_us=float(figures["time"]),
                algbw=float(figures["alg_bw"]),
                busbw=float(figures["bus_bw"]),
                wrong=int(figures["nwrong"] or 0),
                slowest=int(result["ranks"]["slowest"]),
                spread=float(result["ranks"]["spread"]),
            )
        )
    return rows


def all_rows(document: Document) -> list[Row]:
    """The rows of all runs."""
    return [row for run in document["runs"] for row in rows_of(run["report"], run["nodes"])]


def size_text(size: int) -> str:
    """1048576 → "1M", as the flags take it; odd sizes in bytes."""
    for unit, scale in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale}{unit}"
    return f"{size} B"
