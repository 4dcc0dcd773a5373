"""A sweep as pictures: the metric over trials, by each parameter, and all parameters at once.

Needs matplotlib.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import extras
from kij_train.arrays.sweeps import Row, Sweep
from kij_train.errors import RequestError
from kij_train.pod.trials import text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_PARAMETERS = 9
MOST_LINES = 1_000
"""Of the parallel coordinates."""
MOST_TICKS = 8
SPREAD = 30.0
"""The largest value by the smallest from which on an axis is logarithmic."""


def write(sweep: Sweep, order: Sequence[str], base: Path) -> list[Path]:
    """Write `base` with .png and .svg; the files written. `order`: keys of points as they were
    planned. Raises RequestError."""
    files = [base.with_name(base.name + suffix) for suffix in (".png", ".svg")]
    drawn = figure(sweep, order)
    for file in files:
        try:
            drawn.savefig(file, dpi=120)
        except OSError as error:
            raise RequestError(f"cannot write {file}: {error.strerror}") from None
    return files


def svg(sweep: Sweep, order: Sequence[str]) -> str:
    """The picture as an element of a page."""
    out = io.StringIO()
    figure(sweep, order).savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]


def figure(sweep: Sweep, order: Sequence[str]) -> Figure:
    """All pictures. Raises RequestError for a sweep without a number."""
    extras.require("matplotlib", "plots")
    # The figure alone: pyplot keeps state, and looks for a screen.
    from matplotlib.figure import Figure

    ranked = sweep.ranked
    if not ranked:
        raise RequestError(f"no point has the metric {sweep.objective.metric} to plot")
    names = [effect.name for effect in sweep.effects[:MOST_PARAMETERS]]
    rows = math.ceil((1 + len(names)) / COLUMNS) + (len(names) > 1)
    drawn = Figure(figsize=(4 * COLUMNS, 3.2 * rows), layout="constrained")
    grid = drawn.add_gridspec(rows, COLUMNS)
    _over_trials(drawn.add_subplot(grid[0, 0]), sweep, order)
    for number, name in enumerate(names, start=1):
        _by_parameter(drawn.add_subplot(grid[number // COLUMNS, number % COLUMNS]), sweep, name)
    if len(names) > 1:
        _parallel(drawn, drawn.add_subplot(grid[-1, :]), sweep, names)
    return drawn


def _means(rows: Sequence[Row]) -> list[float]:
    return [row.values.mean or 0.0 for row in rows]


def _over_trials(axes: Axes, sweep: Sweep, order: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    at = {key: number for number, key in enumerate(order)}
    rows = sorted(sweep.ranked, key=lambda row: at[row.key])
    means, positions = _means(rows), [at[row.key] for row in rows]
    errors = [row.values.error or 0.0 for row in rows]
    best: list[float] = []
    for mean in means:
        better = not best or sweep.objective.rank(mean) < sweep.objective.rank(best[-1])
        best.append(mean if better else best[-1])
    axes.errorbar(positions, means, errors, fmt="o", markersize=4, alpha=0.8)
    axes.step(positions, best, where="post", color="tab:red", linewidth=1, label="best so far")
    axes.set(xlabel="point", ylabel=sweep.objective.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.3)


def _by_parameter(axes: Axes, sweep: Sweep, name: str) -> None:
    rows = sweep.ranked
    scale = _Scale([row.point[name] for row in rows])
    axes.plot([scale.at(row.point[name]) for row in rows], _means(rows), "o", markersize=4)
    scale.put_ticks(axes.xaxis)
    axes.set(xlabel=name, ylabel=sweep.objective.metric)
    axes.grid(visible=True, alpha=0.3)


def _parallel(drawn: Figure, axes: Axes, sweep: Sweep, names: Sequence[str]) -> None:
    """A line a point, across an axis a parameter; the best are drawn last, and darkest."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows = sweep.ranked[:MOST_LINES]
    means = _means(rows)
    norm = Normalize(min(means), max(means) if max(means) > min(means) else min(means) + 1)
    colours = colormaps["viridis_r" if sweep.objective.is_max else "viridis"]
    scales = [_Scale([row.point[name] for row in rows]) for name in names]
    for row, mean in reversed(list(zip(rows, means, strict=True))):
        heights = [s.share(row.point[name]) for s, name in zip(scales, names, strict=True)]
        axes.plot(range(len(names)), heights, color=colours(norm(mean)), linewidth=1, alpha=0.7)
    for position, scale in enumerate(scales):
        axes.axvline(position, color="0.6", linewidth=0.8)
        for value in scale.ticks():
            axes.annotate(text_of(value), (position, scale.share(value)), fontsize="x-small")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.05, len(names) - 0.7)
    label = sweep.objective.metric
    drawn.colorbar(ScalarMappable(norm, colours), ax=axes, label=label)


class _Scale:
    """Where values of a parameter are drawn: numbers by their size or logarithm, text in order."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(dict.fromkeys(values))
        self.are_numbers = all(isinstance(value, (int, float)) for value in self.values)
        if self.are_numbers:
            self.values.sort()
        else:
            self.values.sort(key=text_of)
        first, last = self.values[0], self.values[-1]
        self.is_log = self.are_numbers and first > 0 and last / first > SPREAD
        self._order = {value: float(number) for number, value in enumerate(self.values)}

    def at(self, value: Any) -> float:
        """On a linear axis."""
        if not self.are_numbers:
            return self._order[value]
        return math.log10(value) if self.is_log else float(value)

    def share(self, value: Any) -> float:
        """From 0 to 1."""
        low, high = self.at(self.values[0]), self.at(self.values[-1])
        return (self.at(value) - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[Any]:
        """Values that are named: all, or some that are spread evenly."""
        count = len(self.values)
        if count <= MOST_TICKS:
            return self.values
        return [self.values[at * (count - 1) // (MOST_TICKS - 1)] for at in range(MOST_TICKS)]

    def put_ticks(self, axis: Any) -> None:
        """Name values on an axis of matplotlib."""
        ticks = self.ticks()
        axis.set_ticks([self.at(value) for value in ticks], [text_of(value) for value in ticks])
        axis.set_tick_params(labelsize="small", labelrotation=30 if len(ticks) > 4 else 0)
