"""What measurements of a collective come to: scaling, a latency and bandwidth fit, gates.

Pure functions over documents, which are what `--json` writes:

    {"kij_train_bench": 1, "settings": {…}, "runs": [{"nodes": 2, "seconds": …, "report": {…}}],
     "summary": [{…}]}

A report is what pod/collectives.py makes, with the keys of nccl-tests. Bandwidths are GB/s
(1e9 bytes), times microseconds, sizes bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kij_train.errors import RequestError
from kij_train.pod import collectives

Document = dict[str, Any]
FORMAT = 1
SIZE_SLACK = 0.02
"""A message of a collective in parts may be that much smaller than asked for."""


class ReportLines:
    """Picks a report out of a job's output; the rest is for the user."""

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}
        self._count = 0

    def take(self, line: str) -> bool:
        """Whether the line belongs to the report."""
        match = collectives.JSON_LINE.fullmatch(line)
        if match is None:
            return False
        self._count = int(match[2])
        self._pieces[int(match[1])] = match[3]
        return True

    def report(self) -> dict[str, Any] | None:
        """The whole report; None while a piece is missing."""
        if not self._count or len(self._pieces) < self._count:
            return None
        text = "".join(self._pieces[index] for index in sorted(self._pieces))
        report: dict[str, Any] = json.loads(text)
        return report


# --- rows -----------------------------------------------------------------------------------------


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
        figures = collectives.figures_of(result)
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


# --- reading a document ---------------------------------------------------------------------------


class _Part(BaseModel):
    """A part of a document, with the keys that are read here; there may be others."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


_Whole = Annotated[int, Field(ge=0, lt=2**63)]
_Positive = Annotated[int, Field(ge=1, lt=2**63)]


class _Figures(_Part):
    time: Annotated[float, Field(gt=0)]
    alg_bw: Annotated[float, Field(ge=0)]
    bus_bw: Annotated[float, Field(ge=0)]
    nwrong: _Whole | None


class _OfRanks(_Part):
    slowest: _Whole
    spread: float


class _Result(_Part):
    size: _Positive
    type: str
    redop: str
    in_place: _Figures | None
    out_of_place: _Figures | None
    ranks: _OfRanks

    @model_validator(mode="after")
    def _was_measured(self) -> _Result:
        if self.in_place is None and self.out_of_place is None:
            raise ValueError("neither in_place nor out_of_place")
        return self


class _Kij(_Part):
    collective: Literal[tuple(collectives.COLLECTIVES)]  # type: ignore[valid-type]
    ranks: _Positive
    nodes: _Positive


class _Mean(_Part):
    bandwidth: float
    okay: Literal["unchecked", "true", "false"]


class _Report(_Part):
    kij: _Kij
    results: list[_Result]
    average_bus_bandwidth: _Mean


class _Run(_Part):
    nodes: _Positive
    seconds: float
    report: _Report


class _Document(_Part):
    settings: dict[str, Any]
    runs: list[_Run]


def parse_document(text: str, where: str) -> Document:
    """A document, or a single report of the payload as one, checked whole. Raises RequestError."""
    hints = ("make one: kij-train bench allreduce … --json FILE",)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RequestError(f"{where} is no report of kij-train bench", hints=hints)
    if "results" in document:
        kij = document.get("kij")
        nodes = kij.get("nodes") if isinstance(kij, dict) else None
        run = {"nodes": nodes, "seconds": 0.0, "report": document}
        document = {"kij_train_bench": FORMAT, "settings": {}, "runs": [run]}
    version = document.get("kij_train_bench")
    if version is not None and version != FORMAT:
        raise RequestError(f"{where} was written by another version of kij-train")
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"])) or "document"
        raise RequestError(
            f"{where} is no report of kij-train bench: {at}: {first['msg']}", hints=hints
        ) from None
    checked: Document = document
    return checked


# --- latency and bandwidth ------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """time = latency + size / bandwidth, the alpha-beta model (Hockney 1994)."""

    latency_us: float
    bandwidth: float
    """Of the bus, for messages without end; infinite where time does not grow with size."""
    residual: float
    """Root mean square of the relative errors: 0.1 is 10 %."""


def fit(sizes: list[int], times_us: list[float], factor: float) -> Fit | None:
    """Least squares of the relative errors; None with fewer than three sizes.

    Relative, since sizes span decades: absolute errors would let the largest size decide alone.
    `factor` is busbw / algbw. A negative latency, or cost a byte, is none.
    """
    if len(set(sizes)) < 3:
        return None
    # With u = 1 / t and v = m / t the model a u + b v = 1 is linear.
    pairs = [(1 / t, m / t) for m, t in zip(sizes, times_us, strict=True)]
    uu = math.fsum(u * u for u, _ in pairs)
    vv = math.fsum(v * v for _, v in pairs)
    uv = math.fsum(u * v for u, v in pairs)
    su, sv = math.fsum(u for u, _ in pairs), math.fsum(v for _, v in pairs)
    determinant = uu * vv - uv * uv
    alpha, beta = -1.0, -1.0
    if determinant > 1e-12 * uu * vv:
        alpha = (su * vv - sv * uv) / determinant
        beta = (sv * uu - su * uv) / determinant
    if alpha < 0:
        alpha, beta = 0.0, sv / vv
    elif beta < 0:
        alpha, beta = su / uu, 0.0
    errors = [alpha * u + beta * v - 1 for u, v in pairs]
    residual = math.sqrt(math.fsum(e * e for e in errors) / len(errors))
    # Bytes a microsecond are MB/s.
    bandwidth = factor / beta / 1000 if beta > 0 else math.inf
    return Fit(alpha, bandwidth, residual)


# --- scaling --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaling:
    """One run in the light of the others."""

    nodes: int
    ranks: int
    size: int
    """The largest that all runs have; the run's own largest where they share none."""
    busbw: float
    efficiency: float | None
    """busbw / that of the smallest run of more than one rank; None where there is no such."""
    latency_us: float | None
    bandwidth: float | None
    """Of the fit; None without a fit, or where time does not grow with size."""
    residual: float | None
    slowest: int
    spread: float
    wrong: int
    """Elements, over all sizes."""


def summarize(document: Document) -> list[Scaling]:
    """One line a run, by number of nodes."""
    runs = {run["nodes"]: rows_of(run["report"], run["nodes"]) for run in document["runs"]}
    runs = {nodes: rows for nodes, rows in sorted(runs.items()) if rows}
    sizes = [{row.size for row in rows} for rows in runs.values()]
    shared = set.intersection(*sizes) if sizes else set()
    lines: list[Scaling] = []
    base: float | None = None
    for nodes, rows in runs.items():
        wanted = max(shared) if shared else max(row.size for row in rows)
        row = next(row for row in rows if row.size == wanted)
        if base is None and row.ranks > 1:
            base = row.busbw
        factor = collectives.COLLECTIVES[row.collective].factor(row.ranks)
        model = fit([r.size for r in rows], [r.time_us for r in rows], factor)
        grows = model is not None and math.isfinite(model.bandwidth) and row.ranks > 1
        lines.append(
            Scaling(
                nodes=nodes,
                ranks=row.ranks,
                size=wanted,
                busbw=row.busbw,
                efficiency=row.busbw / base if base and row.ranks > 1 else None,
                latency_us=model.latency_us if model else None,
                bandwidth=model.bandwidth if model and grows else None,
                residual=model.residual if model else None,
                slowest=row.slowest,
                spread=row.spread,
                wrong=sum(r.wrong for r in rows),
            )
        )
    return lines


def summary_table(lines: list[Scaling]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells, for people."""
    header = (
        "nodes",
        "ranks",
        "size",
        "busbw",
        "efficiency",
        "latency",
        "bandwidth",
        "residual",
        "slowest",
        "#wrong",
    )

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    return header, [
        (
            str(line.nodes),
            str(line.ranks),
            size_text(line.size),
            f"{line.busbw:.3g} GB/s",
            cell(line.efficiency, "{:.2f}"),
            cell(line.latency_us, "{:.1f} us"),
            cell(line.bandwidth, "{:.3g} GB/s"),
            cell(line.residual, "{:.1%}"),
            f"rank {line.slowest} +{line.spread:.1%}",
            str(line.wrong),
        )
        for line in lines
    ]


def size_text(size: int) -> str:
    """1048576 → "1M", as the flags take it; odd sizes in bytes."""
    for unit, scale in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale}{unit}"
    return f"{size} B"


# --- gates ----------------------------------------------------------------------------------------


def parse_gate(text: str) -> tuple[int, float]:
    """Bytes and GB/s of "8M:10". Raises RequestError."""
    size, colon, least = text.partition(":")
    try:
        gate = collectives.parse_size(size), float(least)
    except ValueError:
        gate = 0, 0.0
    if not colon or not gate[0] or not 0 < gate[1] < math.inf:
        raise RequestError(f"--min-busbw {text}: must look like SIZE:GBPS, as in 8M:10")
    return gate


def matches(size: int, asked: int) -> bool:
    """Whether a measured size is the one asked for, but for what does not divide into parts."""
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
    """Every row of `old` against its like in `new`. Raises RequestError when none has one.

    By algbw, which one rank has as well, and which has the same ratio as busbw.
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


# --- the document ---------------------------------------------------------------------------------


def new_document(settings: Mapping[str, Any]) -> Document:
    """A document without runs."""
    return {"kij_train_bench": FORMAT, "settings": dict(settings), "runs": [], "summary": []}


def check_resumable(document: Document, settings: Mapping[str, Any], where: str) -> None:
    """Raise RequestError unless the document measured the same thing."""
    before = document["settings"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise RequestError(
                f"--resume: {where} has {name} {before.get(name)}, this is {name} {value}",
                hints=("take another file, or leave --resume out to write it anew",),
            )


def add_run(document: Document, nodes: int, seconds: float, report: Mapping[str, Any]) -> None:
    """Put a run in, and sum up again."""
    run = {"nodes": nodes, "seconds": round(seconds, 1), "report": dict(report)}
    document["runs"] = sorted([*document["runs"], run], key=lambda one: int(one["nodes"]))
    document["summary"] = [asdict(line) for line in summarize(document)]
