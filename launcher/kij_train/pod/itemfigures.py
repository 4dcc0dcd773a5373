"""The numbers of all records of an array, for a client that cannot read the volume with its parts.

A pod whose index is over looks whether all parts of its attempt are there. The last one to end
always finds them, since a part gets its name before its pod looks. Two that end together may both
find them, and send the same.

The figures are JSON lines, compressed: for each part a line `[attempt, index]`, then one for each
record, without its text. A record follows the item before it in its index, unless `at` says which.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import base64
import json
import lzma
import os
import zlib
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from kij_train.pod import results, status
from kij_train.pod.contract import EXIT_FAILED, Failure
from kij_train.pod.itemplan import ItemPlan
from kij_train.pod.itemrecords import dumps

Json = Dict[str, Any]
KEPT = ("seconds", "exit_code", "line", "nan", "error", "error_at")
"""Of the fields that are ours; those of the attempt and index come once a part."""
CHUNK_BYTES = 45_000
"""Of the figures in a line of the log, which has them in base64."""
FIELD = "figures"
"""Of a line of the log, in place of a record's fields."""


class Folder(NamedTuple):
    """The parts of an attempt."""

    attempt: int
    path: str
    indexes: Sequence[int]
    """Of the first attempt; those that have to be there, or may be."""


def missing(folder: Folder) -> List[int]:
    """Indexes without a part. Listed at once: a file that was asked for before it was there stays
    absent for a while on some network file systems."""
    there = set(os.listdir(folder.path))
    return [index for index in folder.indexes if results.part_name(index) not in there]


def packed(folders: Sequence[Folder], plan: ItemPlan) -> bytes:
    """The figures of the parts that are there. Raises OSError."""
    compressor = lzma.LZMACompressor(preset=1)
    pieces = []
    for folder in folders:
        for index in folder.indexes:
            path = os.path.join(folder.path, results.part_name(index))
            try:
                with open(path, "rb") as file:
                    part = results.read_part(file.read())
            except FileNotFoundError:
                continue  # of an earlier attempt
            if part.damage:  # what it has lost is missing, and fails the evaluation
                status.say(f"{path}: {part.damage[0].text}")
            pieces.append(compressor.compress(_lines(folder.attempt, index, part.records, plan)))
    return b"".join([*pieces, compressor.flush()])


def _lines(attempt: int, index: int, records: Sequence[Json], plan: ItemPlan) -> bytes:
    places = {key: at for at, key in enumerate(plan.keys(plan.positions(index)))}
    lines, expected = [json.dumps([attempt, index])], 0
    for record in records:
        at = places.get(record["key"])
        if at is None:
            continue
        kept = {
            name: value
            for name, value in record.items()
            if name in KEPT
            or (isinstance(value, (int, float)) and name not in ("index", "attempt", "id"))
        }
        if isinstance(record.get("machine"), str) and "error" in record:
            kept["machine"] = record["machine"]
        if at != expected:
            kept["at"] = [at, kept["at"]] if "at" in kept else at
        elif "at" in kept:
            kept["at"] = [at, kept["at"]]
        lines.append(dumps(kept))
        expected = at + 1
    return "".join(line + "\n" for line in lines).encode()


def parts(data: bytes, plan: ItemPlan) -> Iterator[Tuple[int, int, bytes]]:
    """Attempt, index, and the part without its text. Raises ValueError for what is no figures."""
    attempt, index, expected = -1, -1, 0
    keys: List[str] = []
    lines: List[str] = []
    try:
        text = lzma.decompress(data).decode()
        for line in text.rstrip("\n").split("\n"):
            found = json.loads(line)
            if isinstance(found, list):
                if index >= 0:
                    yield attempt, index, "".join(lines).encode()
                (attempt, index), expected, lines = found, 0, []
                keys = list(plan.keys(plan.positions(index)))
                continue
            at = found.pop("at", expected)
            if isinstance(at, list):
                at, found["at"] = at
            record = {"key": keys[at], "index": index, "attempt": attempt, **found}
            lines.append(dumps(record) + "\n")
            expected = at + 1
    except (lzma.LZMAError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ValueError(f"they are damaged: {error!r}") from error
    if index >= 0:
        yield attempt, index, "".join(lines).encode()


def aggregate(
    folders: Sequence[Folder], plan: ItemPlan, index: int, write: Callable[[bytes], None]
) -> Optional[Json]:
    """Send the figures of all attempts, where the last one of them is whole; what the account says
    of them. None where parts are missing. `write` puts a line into the log. Raises Failure."""
    own = folders[-1]
    try:
        if missing(own):
            return None
        data = packed(folders, plan)
    except OSError as error:
        said = error.strerror or str(error)
        raise Failure(EXIT_FAILED, f"cannot read the results in {own.path}: {said}") from error
    lines = [
        dumps(
            {
                "key": "",
                "index": index,
                FIELD: base64.b64encode(data[at : at + CHUNK_BYTES]).decode(),
            }
        )
        for at in range(0, len(data), CHUNK_BYTES)
    ]
    size = sum(map(len, lines))
    if size > results.MOST_LOG_BYTES:
        most = results.MOST_LOG_BYTES
        said = f"they take {size:,} bytes of the log, which takes {most:,}: write fewer digits"
        return {"error": said}
    for number, line in enumerate(lines):
        write(results.encode_line(number, line))
    return {"crc": zlib.crc32(data)}


def joined(records: Sequence[Json], said: Mapping[str, Any]) -> bytes:
    """The figures in the lines of a log. Raises ValueError where they are not those that the
    account tells of."""
    if "error" in said:
        raise ValueError(str(said["error"]))
    data = b"".join(base64.b64decode(str(record.get(FIELD, ""))) for record in records)
    if zlib.crc32(data) != said.get("crc"):
        raise ValueError("they are not whole in the log of the pod that sent them")
    return data
