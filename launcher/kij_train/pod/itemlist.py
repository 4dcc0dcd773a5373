"""Lists of items as people write them: lines, or lines of JSON; and the key of each item.

A list that is too large to travel with its plan lies on a volume of the pods. The plan has its
SHA-256: each pod reads all of the list, keeps what it runs, and refuses a list that has changed.

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
"""Of an object: the first one that it has is its key."""
BLOCK_BYTES = 1 << 20


class Listed(NamedTuple):
    """A list on a volume."""

    path: str
    sha256: str
    """Of the file."""
    is_json: bool
    """A line is a value of JSON."""


def fits(key: str) -> bool:
    """Whether a key is short enough."""
    return len(key.encode("utf-8", "surrogatepass")) <= MOST_KEY_BYTES


def short(key: str) -> str:
    """A key, or what stands for one that is too long."""
    if fits(key):
        return key
    return "sha256-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def key_of(value: Any) -> str:
    """The key of an item of JSON."""
    if isinstance(value, dict):
        for field in KEY_FIELDS:
            if field in value:
                return str(value[field])
    if isinstance(value, str) and value:
        return short(value)
    return short(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def read(listed: Listed, positions: Sequence[int]) -> List[Tuple[str, Any]]:
    """Keys and values of these items of a list. Raises Failure where it is another one.

    It takes no more memory than these items, however long the list is.
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
        # Of a volume that is not there at this moment, another pod may have more luck.
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
    """The lines of a file that are not empty, without their ends, some at a time."""
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
