"""The rows of the table, and whether a run is as torchrun's."""

from __future__ import annotations

from tests.frameworks.cases import Case
from tests.frameworks.results import Result, differences
from tests.frameworks.ways import RANKS

FORM = "{:<34}{:<12}{:<9}{:<9}{:<9}{}"
HEADER = FORM.format(
    "script", "way", "lines", "files", "exit", "what differs (+ ours, - torchrun's)"
)


def compare(case: Case, way: str, ours: Result, torchruns: Result, rows: list[str]) -> list[str]:
    """Add a row; gives what differs and is not meant to."""
    found = differences(ours, torchruns, RANKS)
    meant = case.exit_codes.get(way) == ours.exit_code
    exit_word = "same" if not found.exit_code else "meant" if meant else "DIFFERS"
    words = ["same" if not part else "DIFFERS" for part in (found.lines, found.files)]
    what = [*found.lines, *found.files, *([f"exit {found.exit_code}"] if found.exit_code else ())]
    more = f" and {len(what) - 1} more" if len(what) > 1 else ""
    if HEADER not in rows:
        rows.append(HEADER)
    shown = (what[0][:100] if what else "") + more
    rows.append(FORM.format(case.name, way, *words, exit_word, shown).rstrip())
    return what if "DIFFERS" in (*words, exit_word) else []
