"""What `top --record` has written, as a plot over time. Needs matplotlib."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from kij_train import extras
from kij_train.errors import RequestError

MOST_LABELS = 16
Series = dict[str, list[tuple[float, float]]]
OF_RANKS = (
    ("stepsPerSecond", "steps/s", 1.0),
    ("lateSeconds", "later than the median (s)", 1.0),
    ("cores", "cores", 1.0),
    ("memoryBytes", "memory (GiB)", 2.0**30),
)
OF_GPUS = (
    ("utilization", "GPU (%)", 1.0),
    ("memoryBytes", "GPU memory (GiB)", 2.0**30),
    ("powerWatts", "power (W)", 1.0),
    ("temperatureCelsius", "temperature (°C)", 1.0),
)


def series(looks: list[dict[str, Any]]) -> dict[str, Series]:
    """Title of a panel → label → its points, in seconds since the first look."""
    found: dict[str, Series] = {}
    began = looks[0]["time"] if looks else 0.0
    for kind, name, fields in (("ranks", "rank", OF_RANKS), ("gpus", "id", OF_GPUS)):
        for field, title, unit in fields:
            lines: Series = defaultdict(list)
            for look in looks:
                for pod in look["pods"]:
                    for one in pod[kind]:
                        if one.get(field) is not None:
                            label = f"{pod['index']}/{one[name]}"
                            lines[label].append((look["time"] - began, one[field] / unit))
            if lines:
                found[title] = lines
    return found


def plot(record: Path) -> list[Path]:
    """Write the record's name with .png; the files written, none for a record without a rank.

    Raises RequestError.
    """
    extras.require("matplotlib", "plots")
    from matplotlib.figure import Figure

    looks = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    panels = series(looks)
    if not panels:
        return []
    figure = Figure(figsize=(11, 2.2 * len(panels) + 0.5), layout="constrained")
    axes: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    labels = sorted({label for lines in panels.values() for label in lines})
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for label, points in sorted(lines.items()):
            colour = f"C{labels.index(label) % 10}"
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1, color=colour)
        axis.set_ylabel(title)
        highest = max(value for points in lines.values() for _, value in points)
        axis.set_ylim(0, 1.1 * highest or 1)
        axis.grid(visible=True, alpha=0.3)
    axes[-1].set_xlabel("seconds")
    if max(map(len, panels.values())) <= MOST_LABELS:
        axes[0].legend(title="index/rank", fontsize="small", ncols=4)
    file = record.with_suffix(".png")
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise RequestError(f"cannot write {file}: {error.strerror}") from None
    return [file]
