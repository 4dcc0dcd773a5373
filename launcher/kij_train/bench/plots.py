"""Bus bandwidth by message size and by nodes, as PNG and SVG. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from kij_train import extras
from kij_train.bench import scaling
from kij_train.bench.rows import Document, all_rows, size_text
from kij_train.errors import RequestError


def plot(document: Document, base: Path) -> list[Path]:
    """Write `base` with .png and .svg; the files written."""
    extras.require("matplotlib", "plots")
    # The figure alone: pyplot keeps state, and looks for a screen.
    from matplotlib.figure import Figure

    rows = all_rows(document)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_size, by_nodes = figure.subplots(1, 2)
    for nodes in sorted({row.nodes for row in rows}):
        mine = sorted((r.size, r.busbw) for r in rows if r.nodes == nodes and r.ranks > 1)
        if mine:
            label = f"{nodes} node{'s' if nodes > 1 else ''}"
            by_size.plot(*zip(*mine, strict=True), marker="o", markersize=3, label=label)
            by_size.set(xscale="log", yscale="log")
    by_size.xaxis.set_major_formatter(lambda size, _: size_text(int(size)))
    by_size.set(xlabel="message size (bytes)", ylabel="busbw (GB/s)")
    by_size.grid(visible=True, which="both", alpha=0.3)
    if by_size.lines:
        by_size.xaxis.get_major_locator().set_params(base=2)
        by_size.legend()
    lines = [line for line in scaling.summarize(document) if line.ranks > 1]
    positions = range(len(lines))
    by_nodes.bar(positions, [line.busbw for line in lines], width=0.5)
    by_nodes.set_xticks(positions, [str(line.nodes) for line in lines])
    size = size_text(lines[0].size) if lines else ""
    by_nodes.set(xlabel="nodes", ylabel=f"busbw at {size} (GB/s)")
    by_nodes.grid(visible=True, axis="y", alpha=0.3)
    figure.suptitle(rows[0].collective if rows else "")
    files = [base.with_name(base.name + suffix) for suffix in (".png", ".svg")]
    for file in files:
        try:
            figure.savefig(file, dpi=120)
        except OSError as error:
            raise RequestError(f"cannot write {file}: {error.strerror}") from None
    return files
