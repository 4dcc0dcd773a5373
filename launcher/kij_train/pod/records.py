"""Failure records: which rank of a node failed first, how, and where.

A record is the JSON of torchrun's error files (`message.message`, `extraInfo.timestamp`,
`extraInfo.py_callstack`), with one more key, `kij`: who failed, how, and when to the microsecond.
The kubelet keeps the last 4,096 bytes of a termination message, so records are cut to fit that.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import os
import re
import time
from typing import Any, Dict, Tuple

from kij_train.pod import contract
from kij_train.pod.contract import Node
from kij_train.pod.status import say

RECORD_BYTES = 4096
LINE_BYTES = 400
"""Of a line of a traceback, in a record that does not hold all of it."""
FRAME = r'(?s)([ |+]*File ")(.*)(", line \d{1,9})(.*)'


def write_record(path: str, message: str, callstack: str, **who: Any) -> None:
    """Write a failure record of at most RECORD_BYTES to `path`; silent where it cannot.

    Where not all of it fits, the last frame stays, which says where to look, and the message, which
    may list every key of a model, loses its middle.
    """
    now = float(who.pop("time", None) or time.time())

    def encoded(message: str, callstack: str) -> bytes:
        extra = {"py_callstack": callstack, "timestamp": str(int(now))}
        record = {
            "message": {"message": message, "extraInfo": extra},
            "kij": dict(who, time=round(now, 6)),
        }
        data = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        return data.encode("utf-8", "replace")

    callstack = callstack.rstrip()
    if message.strip() and callstack.endswith(message.strip()):
        callstack = callstack[: -len(message.strip())].rstrip()  # Python says it twice
    room = RECORD_BYTES - 64 - len(encoded("", ""))  # 64: torchrun adds an errorCode
    message = clipped(message, max(room // 3, room - json_bytes(callstack)))
    data = encoded(message, last_frames(callstack, room - json_bytes(message)))
    try:
        # In place: /dev/termination-log is a mount, which cannot be replaced.
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        say(f"cannot write the failure record to {path}: {error}")


def json_bytes(text: str) -> int:
    """How many bytes a text takes within a string of JSON in UTF-8."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) - 2


def clipped(text: str, room: int, end: float = 0.25) -> str:
    """A text that takes `room` bytes of JSON at most: without its middle, where it is longer.

    `end` is the part of what is kept that is taken from the end.
    """
    if json_bytes(text) <= room:
        return text

    def keeping(count: int) -> str:
        last = int(count * end)
        left_out = f"[... {len(text) - count} characters ...]"
        return text[: count - last] + left_out + text[len(text) - last :]

    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if json_bytes(keeping(middle)) <= room else (low, middle - 1)
    found = keeping(low)
    return found if json_bytes(found) <= room else ""


def last_frames(callstack: str, room: int) -> str:
    """The end of a traceback, with its last frame, in `room` bytes of JSON."""
    if json_bytes(callstack) <= room:
        return callstack
    lines = [_short_line(line, room) for line in callstack.split("\n")]
    last = max(
        (at for at, line in enumerate(lines) if re.match(FRAME, line)), default=len(lines) - 1
    )
    # Behind the frame and its line of source is the text of an exception, as long as it likes.
    frame = "\n".join(lines[last : last + 2])
    if json_bytes(frame) > room:
        frame = clipped(lines[last], room)
    behind = clipped("\n".join(["", *lines[last + 2 :]]), (room - json_bytes(frame)) // 2)
    kept = frame + behind
    for line in reversed(lines[:last]):
        if json_bytes(line + "\n" + kept) > room:
            break
        kept = line + "\n" + kept
    return kept


def callstack_of(record: Dict[str, Any]) -> str:
    """The traceback of a failure record; of a SyntaxError with the line that its message names."""
    details = record.get("message")
    details = details if isinstance(details, dict) else {}
    extra = details.get("extraInfo")
    extra = extra if isinstance(extra, dict) else {}
    return "\n".join([str(extra.get("py_callstack", "")), str(details.get("message", ""))])


def place_of(callstack: str, folder: str) -> str:
    """`train.py:118`: the last frame of a traceback whose file is below `folder`; empty for none.

    Files without a path are there: a script is run from its folder. Packages that are installed
    below it are nobody's own code.
    """
    place = ""
    for line in callstack.split("\n"):
        frame = re.match(FRAME, line)
        if frame is None:
            continue
        _, file, number, _ = frame.groups()
        path = os.path.relpath(os.path.join(folder, file), folder)
        if not file.startswith("<") and not {"..", "site-packages"} & set(path.split(os.sep)):
            place = f"{path}:{number.split()[-1]}"
    return place


def _short_line(line: str, room: int) -> str:
    """A line of a traceback: of a frame, file and line number are kept whatever their length."""
    most = min(LINE_BYTES, room // 4)
    frame = re.match(FRAME, line)
    if frame is None:
        return clipped(line, most)
    head, file, number, function = frame.groups()
    return head[-40:] + clipped(file, most, end=0.75) + number + clipped(function, most)


def write_accounts(accounts: Dict[str, Any]) -> None:
    """Leave them as the last words of a node that has ended well."""
    try:
        with open(contract.error_file(), "w") as file:
            json.dump({"kij": {"accounts": accounts}}, file)
    except OSError as error:
        say(f"cannot write to {contract.error_file()}: {error}")


def read_record(path: str) -> Dict[str, Any]:
    """A failure record written by us or by torch's @record; {} where there is none."""
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def record_unreported(path: str, node: Node, log_dir: str) -> None:
    """Keep what a rank of this node wrote before torchrun was told to end.

    The node that failed first ends the job; a rank that failed a moment later may be the cause.
    """
    written = (
        read_record(os.path.join(folder, "error.json"))
        for folder, _, files in os.walk(log_dir)
        if "error.json" in files
    )
    records = [record for record in written if record.get("kij", {}).get("time")]
    if not records:
        return
    record = min(records, key=lambda one: float(one["kij"]["time"]))
    details = record["message"]
    who = dict(record["kij"], index=node.completion_index)
    write_record(path, details["message"], details["extraInfo"]["py_callstack"], **who)


def record_failures(path: str, node: Node, failures: Dict[int, Any], ranks_dir: str) -> str:
    """Keep the record of the rank of this node that failed first; what happened, in one line.

    `failures` maps ranks to torch's ProcessFailure. Its timestamps are whole seconds: several ranks
    fail within one, so the records' own clock decides. `ranks_dir` has the stacks of crashes.
    """
    from kij_train.pod import stacks  # not in pods that write records alone

    def when(item: Tuple[int, Any]) -> float:
        own = read_record(item[1].error_file).get("kij", {}).get("time")
        return float(own or item[1].timestamp)

    rank, failure = min(failures.items(), key=when)
    record = read_record(failure.error_file)
    details = record.get("message", {})
    details = details if isinstance(details, dict) else {"message": str(details)}
    code = record.get("kij", {}).get("exit_code", failure.exitcode)
    callstack = str(details.get("extraInfo", {}).get("py_callstack", ""))
    message = str(details.get("message") or "")
    if message:
        first = clipped(message.splitlines()[0], LINE_BYTES)
        said = f"rank {rank} failed, exit code {code}: {first}"
    elif failure.exitcode < 0:
        said = message = f"rank {rank} was killed by {failure.signal_name()}"
    else:
        said = message = f"rank {rank} exited with code {failure.exitcode}"
    write_record(
        path,
        message,
        callstack or stacks.stack_of_a_crash(stacks.crash_file(ranks_dir, failure.local_rank)),
        index=node.completion_index,
        rank=rank,
        local_rank=failure.local_rank,
        exit_code=code,
        time=when((rank, failure)),
    )
    return said
