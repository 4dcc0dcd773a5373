"""How the records of an index travel: as a part file, or through the log of its pod.

The records of an index are its *part*. It is a file `part-00003.jsonl`, whole or not at all, or it
comes as numbered lines of the log. The *account*, in the termination message, says how many records
there have to be. Both ways give the same bytes.

Nothing that is damaged raises: what has been lost is a Damage that names it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import json
import os
import re
import zlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from kij_train.pod.itemplan import compress_numbers
from kij_train.pod.itemrecords import ERROR_CHARACTERS, dumps, failed
from kij_train.pod.records import clipped

Json = Dict[str, Any]

LINE_PREFIX = "kij-train: record "
MOST_LINE_BYTES = 64 * 1024
"""Of a record that travels through the log."""
MOST_LOG_BYTES = 4 * 1024 * 1024
"""Of all records of an index that travel through the log: kubelets keep 10 MiB of it."""
MESSAGE_BYTES = 4096
"""Of a termination message."""
FAILED_ITEMS_CHARACTERS = 1000

_LINE = "(?s)" + re.escape(LINE_PREFIX) + r"(\d{1,9}) ([0-9a-f]{8}) (.*)"


# --- part files -----------------------------------------------------------------------------------


def part_name(index: int) -> str:
    """The file of an index: `part-00003.jsonl`."""
    return f"part-{index:05d}.jsonl"


def write_whole(path: str, data: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.new-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make a name in it outlast a loss of power, where the file system can."""
    with contextlib.suppress(OSError):
        held = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(held)
        finally:
            os.close(held)


class Damage(NamedTuple):
    """What has been lost of a part, or cannot be trusted."""

    kind: str
    """"gap": lines are missing; "garbled": a line is not what was written; "short": there are fewer
    records than the account says; "other": the records are not those of the account."""
    text: str


class Part(NamedTuple):
    """The records of an index, as far as they could be read."""

    records: List[Json]
    damage: List[Damage]
    data: bytes
    """The lines of the records: the part file, whichever way they came."""


def read_part(data: bytes, account: "Optional[Account]" = None) -> Part:
    """A part file's records, and what is wrong with it."""
    part = _sound_part(data) or _read_lines(data)
    return part if account is None else part._replace(damage=part.damage + _against(part, account))


def _sound_part(data: bytes) -> Optional[Part]:
    """A part that is whole, read at once: names that lines share are made once, in half the time.
    None where a line is no record."""
    lines = data.rstrip(b"\n").split(b"\n") if data else []
    try:
        records = json.loads((b"[" + b",".join(lines) + b"]").decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if len(records) != len(lines) or not all(map(_is_record, records)):
        return None
    return Part(records, [], data if data.endswith(b"\n") else data + b"\n" * bool(data))


def _read_lines(data: bytes) -> Part:
    records: List[Json] = []
    damage: List[Damage] = []
    sound: List[bytes] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        record = _record(line)
        if record is None:
            damage.append(Damage("garbled", f"line {number} of the part is no record"))
            continue
        records.append(record)
        sound.append(line)
    return Part(records, damage, b"".join(line + b"\n" for line in sound))


def _record(line: bytes) -> Optional[Json]:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    get = value.get
    return (
        isinstance(get("key"), str)
        and isinstance(get("index"), int)
        and isinstance(get("attempt", 0), int)
        and isinstance(get("exit_code", 0), int)
        and isinstance(get("seconds", 0), (int, float))
    )


def _against(part: Part, account: "Account") -> List[Damage]:
    missing = account.records - len(part.records)
    if missing > 0:
        return [Damage("short", f"{missing} of {account.records} records are missing")]
    if missing < 0 or zlib.crc32(part.data) != account.crc:
        return [Damage("other", "the records are not those that the pod has accounted for")]
    return []


# --- the way through the log ----------------------------------------------------------------------


def encode_line(number: int, record: str) -> bytes:
    """A line of the log with a record in it; `number` counts an index' records from 0."""
    checked = zlib.crc32(f"{number} {record}".encode())
    return f"{LINE_PREFIX}{number} {checked:08x} {record}\n".encode()


def is_record_line(line: str) -> bool:
    """Whether a line of the log is ours, and not to be shown."""
    return line.startswith(LINE_PREFIX)


class LogReader:
    """Finds the records of one pod in its log, line by line, also while it is written."""

    def __init__(self) -> None:
        self._found: Dict[int, Tuple[Json, bytes]] = {}
        self._garbled: List[str] = []

    def feed(self, line: str) -> Optional[Json]:
        """One line of the log; gives the record in it, unless it came before."""
        text = line.rstrip("\r\n")
        if not is_record_line(text):
            return None
        match = re.fullmatch(_LINE, text)
        number, checked, data = match.groups() if match else ("", "", "")
        raw = data.encode("utf-8", "surrogatepass")
        whole = zlib.crc32(f"{number} ".encode() + raw) == int(checked or "0", 16)
        record = _record(raw) if match and whole else None
        if record is None:
            self._garbled.append(clipped(text[len(LINE_PREFIX) :], 60))
            return None
        if int(number) in self._found:
            return None
        self._found[int(number)] = (record, raw)
        return record

    def part(self, account: "Optional[Account]" = None) -> Part:
        """All that was found, in order, against the account of the pod where there is one."""
        numbers = sorted(self._found)
        damage = [Damage("garbled", f"a record in the log is garbled: {t}") for t in self._garbled]
        last = numbers[-1] + 1 if numbers else 0
        gaps = sorted(set(range(last)) - set(numbers))
        if gaps:
            damage.append(
                Damage("gap", f"the log has lost the records {compress_numbers(gaps)} of this pod")
            )
        data = b"".join(self._found[number][1] + b"\n" for number in numbers)
        part = Part([self._found[number][0] for number in numbers], damage, data)
        if account is None:
            return part
        return part._replace(damage=damage + _against(part, account))


# --- the account ----------------------------------------------------------------------------------


class Account(NamedTuple):
    """The last word of a runner on one index, in the termination message."""

    index: int  # type: ignore[assignment] # nobody calls tuple.index
    attempt: int
    done: int
    failed: int
    """Items; together with `done` all of the index, unless it was told to end."""
    records: int
    crc: int
    """CRC-32 of the part."""
    failed_items: str = ""
    """Positions within the index: "3,7-9"; ends with ",..." where that would be too long."""
    error: Optional[Json] = None
    """Of the first item that failed: key, message, exit_code."""
    lines: Tuple[str, ...] = ()
    """All records, or none where they do not fit."""
    figures: Optional[Json] = None
    """Of the pod that has sent those of all indexes: their CRC-32, or an error."""

    def part(self) -> Optional[Part]:
        """The records, where all of them are here."""
        if len(self.lines) != self.records:
            return None
        return read_part("".join(line + "\n" for line in self.lines).encode(), self)


def account_of(
    index: int, attempt: int, positions: Mapping[str, int], lines: Sequence[str]
) -> Account:
    """The account of an index with these records; `positions` are those of its items by key."""
    records = [json.loads(line) for line in lines]
    bad = {record["key"]: record for record in reversed(records) if failed(record)}
    seen = {record["key"] for record in records}
    first = next((record for record in records if failed(record)), None)
    error = None
    if first is not None:
        error = {n: first[n] for n in ("key", "exit_code")}
        error["message"] = first.get("error", "")
    return Account(
        index,
        attempt,
        len(seen) - len(bad),
        len(bad),
        len(lines),
        zlib.crc32("".join(line + "\n" for line in lines).encode()),
        compress_numbers(sorted(positions[key] for key in bad if key in positions)),
        error,
        tuple(lines),
    )


def encode_account(account: Account) -> bytes:
    """As a termination message, of at most MESSAGE_BYTES: the records only where all fit."""
    found: Json = {"kij_array": 1, **account._asdict(), "lines": list(account.lines)}
    if len(account.failed_items) > FAILED_ITEMS_CHARACTERS:
        kept = account.failed_items[:FAILED_ITEMS_CHARACTERS].rpartition(",")[0]
        found["failed_items"] = kept + ",..."
    if account.error is not None:
        found["error"] = {
            "key": clipped(account.error["key"], 500),
            "exit_code": account.error["exit_code"],
            "message": clipped(account.error["message"], ERROR_CHARACTERS),
        }
    if account.figures is None:  # a version that does not know it reads the rest
        del found["figures"]
    data = dumps(found).encode()
    if len(data) > MESSAGE_BYTES:
        data = dumps(dict(found, lines=[])).encode()
    return data


def decode_account(message: str) -> Optional[Account]:
    """The account in a termination message; None where there is none that is whole."""
    try:
        found = json.loads(message)
        if found.pop("kij_array") != 1:
            return None
        found["lines"] = tuple(str(line) for line in found.get("lines", ()))
        account = Account(**found)
        numbers = (account.index, account.attempt, account.done, account.failed)
        if not all(isinstance(n, int) for n in (*numbers, account.records, account.crc)):
            return None
        return account
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
