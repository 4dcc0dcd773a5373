"""What became of an array as one HTML page, which loads nothing from anywhere.

All text goes through the template's escaping. The page's own rule (Content-Security-Policy) allows
no request and no script but its own, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train.arrays import report as text
from kij_train.arrays.findings import Findings
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.report import Report
from kij_train.arrays.summary import Bin, histogram
from kij_train.pod import itemrecords

HERE = Path(__file__).parent / "page"
MOST_ROWS = 2_000
"""Browsers sort so many without a wait."""
MOST_COLUMNS = 6
"""Of the items' own values."""
WIDTH, HEIGHT = 960, 160
"""Of the histogram."""


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram, in the units of its drawing."""

    x: float
    y: float
    width: float
    height: float
    label: str


def as_html(report: Report, findings: Findings | None = None) -> str:
    """The page. What no UTF-8 can hold is written as an escape."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    summary = report.summary
    rows = [*summary.lost, *summary.others][:MOST_ROWS]
    columns = _columns(rows)
    page = environment.get_template("page.html").render(
        report=report,
        findings=findings,
        picture=_picture(findings),
        summary=summary,
        text=text,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        states=[(state.value, summary.counts[state]) for state in State if summary.counts[state]],
        causes=summary.causes[: text.MOST_CAUSES_SHOWN],
        causes_left_out=max(0, len(summary.causes) - text.MOST_CAUSES_SHOWN),
        bars=_bars(histogram(summary.durations)),
        width=WIDTH,
        height=HEIGHT,
        rows=[(row, [_cell(row, name) for name in columns]) for row in rows],
        rows_left_out=summary.total - len(rows),
        columns=columns,
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _picture(findings: Findings | None) -> str:
    """As the address of an image, whose own styles the page's rule leaves alone."""
    if findings is None or not findings.svg:
        return ""
    return "data:image/svg+xml;base64," + base64.b64encode(findings.svg.encode()).decode()


def _hash(source: str) -> str:
    """As a Content-Security-Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _columns(rows: list[Outcome]) -> list[str]:
    """Names of the items' own values, those first that were met first."""
    found: dict[str, None] = {}
    for row in rows:
        for record in row.records:
            found.update(dict.fromkeys(name for name in record if name not in itemrecords.OURS))
    return list(found)[:MOST_COLUMNS]


def _cell(row: Outcome, name: str) -> Any:
    value = row.records[0].get(name) if row.records else None
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value


def _bars(bins: list[Bin]) -> list[Bar]:
    """The tallest is as high as the drawing, and any item can be seen."""
    most = max((each.count for each in bins), default=0)
    step = WIDTH / max(1, len(bins))
    found = []
    for number, each in enumerate(bins):
        height = max(2.0, HEIGHT * each.count / most) if each.count else 0.0
        label = f"{each.count:,} from {text.span(each.low)} to {text.span(each.high)}"
        found.append(Bar(number * step, HEIGHT - height, max(1.0, step - 2), height, label))
    return found
