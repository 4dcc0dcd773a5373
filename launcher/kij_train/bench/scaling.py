"""Latency and bandwidth of a run, and how runs scale with the number of nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kij_train.bench.rows import Document, rows_of, size_text
from kij_train.pod.collectives import table


@dataclass(frozen=True)
class Fit:
    """time = latency + size / bandwidth, the alpha-beta model (Hockney 1994)."""

    latency_us: float
    bandwidth: float
    """Of the bus, for very large messages, GB/s; infinite where time does not grow with size."""
    residual: float
    """Root mean square of the relative errors: 0.1 is 10 %."""


def fit(sizes: list[int], times_us: list[float], factor: float) -> Fit | None:
    """Least squares of the relative errors; None with fewer than three sizes.

    Relative, since sizes span decades: absolute errors would let the largest size decide alone.
    `factor` is busbw / algbw. A latency that comes out negative is 0, a time for each byte as well.
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


@dataclass(frozen=True)
class Scaling:
    """One run in the light of the others."""

    nodes: int
    ranks: int
    size: int
    """The largest that all runs have; the run's own largest where they share none."""
    busbw: float
    efficiency: float | None
    """busbw, divided by that of the smallest run with several ranks; None without such a run."""
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
        factor = table.COLLECTIVES[row.collective].factor(row.ranks)
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
