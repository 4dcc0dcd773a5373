"""The pictures of docs, light and dark: make pictures, or python -m tests.pictures NAME.

Those of jobs are of real ones: `live-view` and `top` take the test cluster (make cluster), `report`
this machine and Chromium. `recovery` and `scaling` are drawn from what was measured and is kept as
JSON: docs/pictures/recovery.json (python -m tests.recoverypicture makes it anew, on the test
cluster) and benchmarks/results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kube import ROOT

FOLDER = ROOT / "docs" / "pictures"
SCHEMES = ("light", "dark")
_COLOURS = {
    "light": ("#1f2328", "#ffffff", "#d1d9e0"),
    "dark": ("#f0f6fc", "#0d1117", "#3d444d"),
}
"""Text, background and lines of GitHub's pages."""
SERIES = {
    "light": ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e"),
    "dark": ("#4493f8", "#db6d28", "#3fb950", "#ab7df8", "#f85149"),
}


def file(name: str, scheme: str, suffix: str = ".svg") -> Path:
    """Where a picture is kept."""
    return FOLDER / f"{name}-{scheme}{suffix}"


@contextmanager
def style(scheme: str) -> Iterator[None]:
    """matplotlib's settings for a scheme; the same bytes from the same data."""
    import matplotlib as mpl
    from cycler import cycler

    text, back, line = _COLOURS[scheme]
    settings: dict[str, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), text
    )
    settings |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), back)
    settings |= dict.fromkeys(("axes.edgecolor", "grid.color"), line)
    settings |= {"axes.prop_cycle": cycler(color=SERIES[scheme]), "legend.labelcolor": text}
    settings |= {"svg.hashsalt": "kij-train", "svg.fonttype": "none", "legend.framealpha": 0}
    settings |= {"font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(settings):
        yield


def draw(name: str, make: Callable[[str], Any]) -> None:
    """Save the figure that `make` gives for each scheme."""
    FOLDER.mkdir(exist_ok=True)
    for scheme in SCHEMES:
        with style(scheme):
            make(scheme).savefig(file(name, scheme), metadata={"Date": None})
        print(file(name, scheme).relative_to(ROOT))


def makers() -> dict[str, Callable[[], object]]:
    """What makes which picture."""
    from tests import picture, recoverypicture, reportpicture, scalingpicture, toppicture

    return {
        "recovery": recoverypicture.draw_kept,
        "scaling": scalingpicture.main,
        "report": reportpicture.main,
        "live-view": picture.main,
        "top": toppicture.main,
    }


def main(names: list[str]) -> int:
    """Make those, or all."""
    known = makers()
    for name in names or known:
        if name not in known:
            print(f"no picture {name}: {', '.join(known)}", file=sys.stderr)
            return 2
        known[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
