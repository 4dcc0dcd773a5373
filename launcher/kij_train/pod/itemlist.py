"""Lists of items as people write them, in lines of text or of JSON, and the key of each item.

A list that is too large to be sent with its plan lies on a volume of the pods. The plan has the
SHA-256 of the list. Each pod reads the whole list, keeps the items that it runs, and refuses a list
that has changed.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import codecs
import hashlib
import json
from bisect import bisect_left
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from kij_train.pod.contract import EXIT_CODE, EXIT_FAILED, Failure

MOST_KEY_BYTES = 1024
"""A longer key is replaced by its SHA-256."""
KEY_FIELDS = ("key", "id")
"""If an item is an object, the first of these fields that it has is its key."""
BLOCK_BYTES = 1 << 20


class Listed(NamedTuple):
    """A list on a volume."""

    path: str
    sha256: str
    """The SHA-256 of the file."""
    is_json: bool
    """Whether each line is a JSON value."""


def fits(key: str) -> bool:
    """Whether a key is short enough."""
    return len(key.encode("utf-8", "surrogatepass")) <= MOST_KEY_BYTES


def short(key: str) -> str:
    """A key, or its SHA-256 if it is too long."""
    if fits(key):
        return key
    return "sha256-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def key_of(value: Any) -> str:
    """The key of an item that is a JSON value."""
    if isinstance(value, dict):
        for field in KEY_FIELDS:
            if field in value:
                return str(value[field])
    if isinstance(value, str) and value:
        return short(value)
    return short(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def read(listed: Listed, positions: Sequence[int]) -> List[Tuple[str, Any]]:
    """Keys and values of the items at these positions. Raises Failure if the list has changed.

    Only these items are held in memory, however long the list is.
    """
    wanted = sorted(set(positions))
    rows: Dict[int, bytes] = {}
    digest, first = hashlib.sha256(), 0
    try:
        for block in _blocks(listed.path, digest):
            at = bisect_left(wanted, first)
            while at < len(wanted) and wanted[at] < first + len(block):
                rows[wanted[at]] = block[wanted[at] - first]
                at += 1
            first += len(block)
    except OSError as error:
        # If the volume has failed only for a moment, another pod may succeed.
        code = EXIT_CODE if isinstance(error, FileNotFoundError) else EXIT_FAILED
        said = f"cannot read the list of items {listed.path}: {error.strerror or error}"
        raise Failure(code, said) from error
    if digest.hexdigest() != listed.sha256:
        raise Failure(
            EXIT_CODE,
            f"the list of items {listed.path} is not what was launched: its SHA-256 is "
            f"{digest.hexdigest()}, and was {listed.sha256}",
        )
    return [_item(rows[position], listed.is_json) for position in positions]


def _blocks(path: str, digest: Any) -> Iterator[List[bytes]]:
    """The lines of a file without their ends, some at a time. Empty lines are left out."""
    rest, is_first, ends_as_windows = b"", True, False
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            digest.update(block)
            rows = (rest + block).split(b"\n")
            rest = rows.pop() if block else b""
            if is_first and rows:
                is_first = False
                if rows[0].startswith(codecs.BOM_UTF8):
                    rows[0] = rows[0][len(codecs.BOM_UTF8) :]
                ends_as_windows = b"\r" in rows[0]
            if ends_as_windows:
                rows = [row[:-1] if row.endswith(b"\r") else row for row in rows]
            yield [row for row in rows if row]
            if not block:
                return


def _item(row: bytes, is_json: bool) -> Tuple[str, Any]:
    text = row.decode("utf-8")
    if not is_json:
        return short(text), text
    value = json.loads(text)
    return key_of(value), value
