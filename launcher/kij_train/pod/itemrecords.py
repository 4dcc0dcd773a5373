"""What an item leaves behind: records, lines of JSON.

A record says whose it is and how that went, and beside it what the script wrote to its result file.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import math
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from kij_train.pod.records import clipped

Json = Dict[str, Any]

MOST_FILE_BYTES = 256 * 1024 * 1024
"""Of an item's result file, which is held in memory."""
ERROR_CHARACTERS = 300
OURS = (
    "key",
    "index",
    "attempt",
    "seconds",
    "exit_code",
    "machine",
    "line",
    "error",
    "error_at",
    "nan",
)
"""Fields of a record that are not the script's; its own of that name gets RENAMED in front."""
RENAMED = "result_"

_ENDS_OF_LINES = re.compile("[\x85\u2028\u2029]")
"""JSON leaves them as they are, and some programs end a line there."""


class Run(NamedTuple):
    """One run of one item; in slice mode, of all items of the index."""

    index: int  # type: ignore[assignment] # nobody calls tuple.index
    """Of the first attempt."""
    attempt: int
    seconds: float
    exit_code: int
    """As a shell has it: 128 + N for signal N."""
    machine: str
    error: str = ""
    """How it failed; empty: it did not."""
    error_at: str = ""
    """The line of the code where, `train.py:118`, if it is known."""


class _Line(NamedTuple):
    """What a script wrote on one line."""

    number: int
    """From 1."""
    fields: Json
    nan: List[str]
    """Paths of the numbers that JSON has no word for, which have become null."""


def failed(record: Mapping[str, Any]) -> bool:
    """Whether it is the record of an item that failed."""
    return bool(record.get("exit_code")) or "error" in record


def dumps(record: Mapping[str, Any]) -> str:
    """A record as one line, without its end. Raises ValueError for NaN."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which a script has written as \\udc80
        return json.dumps(record, allow_nan=False, separators=(",", ":"))
    return _ENDS_OF_LINES.sub(lambda end: f"\\u{ord(end.group()):04x}", text)


def item_records(key: str, run: Run, written: bytes) -> List[Json]:
    """The records of an item: one for each line that its script wrote, one at least.

    A line that is no JSON makes the item a failed one; the lines that are sound are kept.
    """
    lines, faults = _lines(written)
    return _records(key, run._replace(error=run.error or _first(faults)), lines)


def slice_records(keys: Sequence[str], run: Run, written: bytes) -> Tuple[List[Json], str]:
    """The records of an index' items, in order, and what is wrong with the process or its lines.

    A line names its item by `key` or by `id`. An item without a line is well if the process was,
    and if no line is in doubt. How long each took is not known: each gets its part of the time.
    """
    lines, faults = _lines(written)
    of_items: Dict[str, List[_Line]] = {key: [] for key in keys}
    for line in lines:
        named = line.fields.get("key", line.fields.get("id"))
        key = named if isinstance(named, str) else json.dumps(named)
        if key in of_items:
            fields = {name: value for name, value in line.fields.items() if name != "key"}
            of_items[key].append(line._replace(fields=fields))
        elif named is None:
            faults.append(f"result line {line.number} has neither key nor id")
        else:
            said = clipped(key, 100)
            faults.append(f"result line {line.number} is of no item of this index: {said}")
    error = run.error or _first(faults)
    each = run._replace(seconds=run.seconds / max(1, len(keys)))
    good, bad = each._replace(exit_code=0, error=""), each._replace(error=error)
    records: List[Json] = []
    for key, found in of_items.items():
        records += _records(key, good if found else bad, found)
    return records, error


def _records(key: str, run: Run, lines: Sequence[_Line]) -> List[Json]:
    records = []
    for number, line in enumerate(lines or [_Line(1, {}, [])]):
        record: Json = {
            "key": key,
            "index": run.index,
            "attempt": run.attempt,
            "seconds": round(run.seconds, 3),
            "exit_code": run.exit_code,
            "machine": run.machine,
        }
        if len(lines) > 1:
            record["line"] = number
        if run.error or run.exit_code:
            record["error"] = shortened(run.error or f"exit code {run.exit_code}")
            if run.error_at:
                record["error_at"] = clipped(run.error_at, ERROR_CHARACTERS, end=0.75)
        if line.nan:
            record["nan"] = line.nan
        for name, value in line.fields.items():
            record[RENAMED + name if name in OURS else name] = value
        records.append(record)
    return records


def shortened(error: str) -> str:
    """An error on one line of at most ERROR_CHARACTERS."""
    text = " ".join(error.split())
    half = (ERROR_CHARACTERS - 5) // 2
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def _first(faults: Sequence[str]) -> str:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return faults[0] + more if faults else ""


def _lines(written: bytes) -> Tuple[List[_Line], List[str]]:
    """What the script wrote, and what of it is no JSON."""
    found: List[_Line] = []
    faults: List[str] = []
    for number, line in enumerate(written.split(b"\n"), 1):
        if not line.strip():
            continue
        nan: List[str] = []
        try:
            value = json.loads(line.decode("utf-8"))
            fields = value if isinstance(value, dict) else {"value": value}
            found.append(_Line(number, _without_nan(fields, "", nan), nan))
        except ValueError:
            text = clipped(line.decode("utf-8", "replace").strip(), 80)
            faults.append(f"result line {number} is no JSON: {text}")
        except RecursionError:
            faults.append(f"result line {number} is nested too deeply")
    return found, faults


def _without_nan(value: Any, path: str, nan: List[str]) -> Any:
    """The value with null for what is no number; `nan` gets the paths of those."""
    if isinstance(value, float) and not math.isfinite(value):
        nan.append(path)
        return None
    prefix = path and path + "."
    if isinstance(value, dict):
        return {name: _without_nan(each, prefix + name, nan) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each, f"{prefix}{at}", nan) for at, each in enumerate(value)]
    return value
