"""Results as JSON lines, as CSV and as a table. Pure: outcomes → pieces of text.

JSON lines are the records as the parts have them. CSV has a column for each field that any record
has, ours first; what is no number and no text is in it as JSON.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from kij_train.arrays.outcomes import Outcome, Record
from kij_train.paths import shown
from kij_train.pod import itemrecords

OURS = itemrecords.OURS
"""The order of our own fields."""
MOST_COLUMNS = 8
"""Of a table: the items' own fields."""
CELL_CHARS = 40
FLUSH_CHARS = 1 << 16


def jsonl(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A line for each record of the items that have some."""
    return (itemrecords.dumps(record) + "\n" for one in outcomes for record in one.records)


def fields_of(outcomes: Iterable[Outcome]) -> list[str]:
    """The names of all fields, ours first, then those of the scripts as they come."""
    found: dict[str, None] = {}
    for one in outcomes:
        for record in one.records:
            found.update(dict.fromkeys(record))
    return [name for name in OURS if name in found] + [name for name in found if name not in OURS]


def csv_text(outcomes: Iterable[Outcome], fields: list[str]) -> Iterator[str]:
    """The table as RFC 4180 has it, but with plain ends of lines; pandas.read_csv reads it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(fields)
    for one in outcomes:
        for record in one.records:
            writer.writerow([_csv_cell(record.get(name)) for name in fields])
        if buffer.tell() > FLUSH_CHARS:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def header(fields: list[str]) -> list[str]:
    """The columns of a table: what is in doubt first, then the items' own values."""
    own = [name for name in fields if name not in OURS][:MOST_COLUMNS]
    return ["key", "state", "index", "seconds", *own, *(["error"] if "error" in fields else [])]


def rows(outcomes: Iterable[Outcome], columns: list[str]) -> Iterator[list[str]]:
    """The rows of a table for people, one for an item without a record, too."""
    for one in outcomes:
        for record in one.records or ({},):
            yield [_table_cell(one, record, name) for name in columns]


def _table_cell(one: Outcome, record: Record, name: str) -> str:
    if name == "key":
        return _short(one.key)
    if name == "state":
        return one.state.value
    if name == "index":
        return str(one.index)
    if name == "error":
        return _short(one.error, 2 * CELL_CHARS)
    value = record.get(name)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if name == "seconds" else f"{value:.6g}"
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _short(text: str, most: int = CELL_CHARS) -> str:
    plain = shown(text)
    return plain if len(plain) <= most else plain[: most - 1] + "…"
