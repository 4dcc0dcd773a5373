"""What runs in every pod, and in every local "node": the environment contract, then torchrun.

    python bootstrap.py [-m | --no-python] SCRIPT [ARG ...]        the node's first process
    python bootstrap.py --no-torchrun [--await-rank0] [-m | --no-python] SCRIPT [ARG ...]
                                                                   the same, without torchrun
    python bootstrap.py --stacks                                   where the ranks of this pod are

As the node's first process it says which node this is, checks the contract, unpacks the code,
imports torch, waits for rank 0, and runs torchrun's own `run` in this process, so that SIGTERM has
a handler from the first line to the last and exit codes can be told apart. torchrun starts
worker.py, once a rank.

Standard library only, Python 3.8 or later; of kij-train it imports nothing but the files that lie
beside it in a pod. Its standard error carries its own status, its standard output is the script's.

The failure record is the JSON of torchrun's error files (`message.message`, `extraInfo.timestamp`,
`extraInfo.py_callstack`), with one more key, `kij`: who failed, how, and when to the microsecond.
The kubelet keeps the last 4,096 bytes of a termination message, so records are cut to fit that.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Tuple

if __name__ == "__main__":
    # Run by its path: the names that our files import each other by lead to its own folder.
    for name in ("kij_train", "kij_train.pod"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [os.path.dirname(os.path.abspath(__file__))]

# The contract: names on the left side of the pod's environment. `render` and `local` import these.
ENV_COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
ENV_NODE_RANK = "NODE_RANK"
ENV_NNODES = "NNODES"
ENV_NPROC_PER_NODE = "NPROC_PER_NODE"
ENV_WORLD_SIZE = "WORLD_SIZE"
ENV_MASTER_ADDR = "MASTER_ADDR"
ENV_MASTER_PORT = "MASTER_PORT"
ENV_JOB = "KIJ_JOB"
"""The job's name, for the script: what it starts again has the same one."""
ENV_RENDEZVOUS_TIMEOUT_S = "KIJ_RENDEZVOUS_TIMEOUT_S"
ENV_CODE_SHA256 = "KIJ_CODE_SHA256"
ENV_NODE_NAME = "KIJ_NODE_NAME"
ENV_PARENT_PID = "KIJ_PARENT_PID"
ENV_PREFLIGHT = "KIJ_PREFLIGHT_SCRIPT"
ENV_PREFLIGHT_GPUS = "KIJ_PREFLIGHT_GPUS"
ENV_PREFLIGHT_PORT = "KIJ_PREFLIGHT_PORT"
ENV_SETTINGS_SCRIPT = "KIJ_SOURCE_SCRIPT"
ENV_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
ENV_RANK0_HOST = "KIJ_RANK0_HOST"
"""Set for a command without torchrun: rank 0 as this node reaches it, on rank 0 localhost."""
NODE_RANK_REFERENCE = f"$({ENV_NODE_RANK})"
"""What stands for the completion index in arguments and env values; the kubelet expands it."""
NO_TORCHRUN = "--no-torchrun"
AWAIT_RANK0 = "--await-rank0"
WORKER = "--worker"
"""What tells a rank from other processes."""
STACKS = "--stacks"
BESIDE = tuple(Path(__file__).with_name(name) for name in ("lines.py", "worker.py"))
"""What the pods get beside this file."""
CONTRACT = (
    ENV_NODE_RANK,
    ENV_NNODES,
    ENV_NPROC_PER_NODE,
    ENV_WORLD_SIZE,
    ENV_MASTER_ADDR,
    ENV_MASTER_PORT,
)
"""Every one of them must be set and not empty."""

ENV_NAMES = "KIJ_ENV_NAMES"
"""In a pod: which of the variables OF_A_RUN its manifest sets."""
OF_A_RUN = re.compile(
    r"(KIJ|PET|TORCHELASTIC|TORCH_ELASTIC)_.*"
    r"|MASTER_(ADDR|PORT)|NODE_RANK|NNODES|NPROC_PER_NODE"
    r"|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
)
"""Ours, torchrun's (PET_X is its --x) and torch's rendezvous: whoever runs one sets them."""

# Where render mounts things.
BUNDLE_DIR = "/kij/bundle"
WORK_DIR = "/kij/work"
STACKS_DIR = WORK_DIR + "/stacks"
"""In a pod: a file for every rank, named by its process, which SIGUSR2 makes it write to."""
ACCOUNTS_FILE = WORK_DIR + "/accounts.json"
"""In a pod of a job that restarts: what the time was spent on."""
ENV_STACKS_DIR = "KIJ_STACKS_DIR"
"""The same for a node of this machine whose ranks are watched."""
ENV_SCRATCH_DIR = "KIJ_SCRATCH_DIR"
"""On this machine: a folder that the launcher removes, however the nodes ended."""
ENV_RANKS_DIR = "KIJ_RANKS_DIR"
"""Where this node and its ranks meet: pipes for their output, stacks of crashes."""
ENV_HEARTBEAT_DIR = "KIJ_HEARTBEAT_DIR"
"""Of a node whose ranks are watched: a file for every rank, named by its number."""
ENV_HEARTBEAT_FILE = "KIJ_HEARTBEAT_FILE"
"""For the script: this rank's, to be touched as long as it makes progress."""
CODE_PREFIX = "code.tar.xz."
TERMINATION_LOG = "/dev/termination-log"

# Exit codes. 1 is torchrun's: a rank failed. The others are out of the way of sysexits (64 to 78)
# and of shells (126 and above).
EXIT_FAILED = 1
EXIT_CONTRACT = 121
EXIT_CODE = 122
EXIT_RENDEZVOUS = 123

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What asks a process to end: torchrun passes them on to its ranks, and an image may name any."""

GRACE_S = 30
"""Between SIGTERM and SIGKILL, where nobody says otherwise: Kubernetes' own default."""

MOST_LINKS = 40
"""How many the kernel follows before it gives up (ELOOP)."""
RECORD_BYTES = 4096
LINE_BYTES = 400
"""Of a line of a traceback, in a record that does not hold all of it."""
FRAME = re.compile(r'([ |+]*File ")(.*)(", line \d{1,9})(.*)', re.DOTALL)
CONNECT_TIMEOUT_S = 3.0
STILL_WAITING_S = 30.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
STACKS_S = 3.0
"""How long a process may take to write its stack."""
STACKS_STILL_S = 0.1
"""How long it must have been silent to have written all of it: a dump has no end mark."""
ATTEMPTS_PER_S = 500
"""Of all nodes together, at rank 0: how long each pauses follows from it."""
STARTS = re.compile(
    r"(^|/)(kij/bundle/(\.\.[^/]+/)?|kij_train/pod/)(bootstrap|worker)\.py$"
    r"|^(sys|<sys>|<frozen runpy>)$|/runpy\.py$"
)
"""Whose frames start a script. The kubelet mounts files through a folder named by the time."""
DUMP_FRAME = re.compile(r'\s*File "(.*)", line (\S+) in (.*)')
"""In a stack that faulthandler writes."""


class Failure(Exception):  # noqa: N818 - a verdict, with an exit code
    """The node cannot go on: what to say, and the exit code to say it with."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Node(NamedTuple):
    """The contract, parsed."""

    rank: int
    nnodes: int
    nproc: int
    master_addr: str
    master_port: int
    rendezvous_timeout_s: int
    completion_index: int
    """The rank, but where a supervisor gives ranks out."""


def say(text: str) -> None:
    """One line of status; where nobody takes it, the work goes on."""
    with contextlib.suppress(OSError):
        print("kij-train: " + text, file=sys.stderr, flush=True)


# --- the contract ---------------------------------------------------------------------------------


def read_contract(env: Dict[str, str]) -> Node:
    """Parse and check the contract. Raises Failure naming the variable that is wrong."""
    missing = [name for name in CONTRACT if not env.get(name)]
    if missing:
        raise Failure(
            EXIT_CONTRACT,
            "not set or empty: {}. The pod was not made by kij-train, or its spec was "
            "changed".format(", ".join(missing)),
        )

    def number(name: str, low: int, high: int) -> int:
        text = env[name]
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise Failure(EXIT_CONTRACT, f"{name}={text!r} is no number from {low} to {high}")
        return int(text)

    nnodes = number(ENV_NNODES, 1, 1_000_000)
    nproc = number(ENV_NPROC_PER_NODE, 1, 10_000)
    rank = number(ENV_NODE_RANK, 0, nnodes - 1)
    index = env.get(ENV_COMPLETION_INDEX, "")
    if index and index != str(rank):
        raise Failure(EXIT_CONTRACT, f"{ENV_NODE_RANK}={rank}, but {ENV_COMPLETION_INDEX}={index}")
    if env[ENV_WORLD_SIZE] != str(nnodes * nproc):
        raise Failure(
            EXIT_CONTRACT,
            f"{ENV_WORLD_SIZE}={env[ENV_WORLD_SIZE]!r}, but {ENV_NNODES} x "
            f"{ENV_NPROC_PER_NODE} is {nnodes} x {nproc}",
        )
    timeout_s = 600
    if env.get(ENV_RENDEZVOUS_TIMEOUT_S):
        timeout_s = number(ENV_RENDEZVOUS_TIMEOUT_S, 1, 2**31)
    return Node(
        rank,
        nnodes,
        nproc,
        env[ENV_MASTER_ADDR],
        number(ENV_MASTER_PORT, 1, 65535),
        timeout_s,
        rank,
    )


def describe(node: Node, env: Dict[str, str]) -> str:
    """The one line that names index, ranks, node, pod and rank 0."""
    first, world = node.rank * node.nproc, node.nnodes * node.nproc
    ranks = f"rank {first}" if node.nproc == 1 else f"ranks {first}-{first + node.nproc - 1}"
    where = f"pod {socket.gethostname()}"
    if env.get(ENV_NODE_NAME):
        where += " on " + env[ENV_NODE_NAME]
    if env.get(ENV_PARENT_PID):
        where = f"process {os.getpid()}"
    rank0 = "rank 0 is here" if node.rank == 0 else f"rank 0 at {node.master_addr}"
    return (
        f"index {node.rank} of {node.nnodes}, {ranks} of {world}, {where}, "
        f"{rank0}, port {node.master_port}"
    )


# --- the code -------------------------------------------------------------------------------------


def unpack_code(bundle_dir: str, target: str, sha256: str) -> None:
    """Join the chunks, check their SHA-256 (of the tar, uncompressed) and unpack it into `target`.

    Raises Failure when a chunk is missing, the hash differs, or a member would leave `target`.
    """
    import hashlib
    import lzma
    import tarfile

    names = sorted(n for n in os.listdir(bundle_dir) if n.startswith(CODE_PREFIX))
    try:
        packed = b"".join(Path(bundle_dir, name).read_bytes() for name in names)
        archive = lzma.decompress(packed)
    except (OSError, lzma.LZMAError) as error:
        raise Failure(
            EXIT_CODE, f"cannot read the code in {bundle_dir} ({names}): {error}"
        ) from error
    if hashlib.sha256(archive).hexdigest() != sha256:
        raise Failure(
            EXIT_CODE,
            f"the code in {bundle_dir} is not what was launched: its SHA-256 is not {sha256}",
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = tar.getmembers()
            check_members(members)
            os.makedirs(target, exist_ok=True)
            if hasattr(tarfile, "data_filter"):
                tar.extractall(target, members, filter="data")
            else:  # Python before 3.8.17, 3.9.17, 3.10.12, 3.11.4
                tar.extractall(target, members)  # noqa: S202 - check_members did
    except (OSError, tarfile.TarError, RecursionError) as error:  # tarfile: of links in a circle
        raise Failure(EXIT_CODE, f"cannot unpack the code into {target}: {error}") from error


def check_members(members: List[Any]) -> None:
    """Raise Failure unless all are files, folders and links that stay inside the archive."""
    links = {str(PurePosixPath(m.name)): m.linkname for m in members if m.issym()}
    names = {str(PurePosixPath(m.name)) for m in members}
    if len(names) < len(members):
        raise Failure(EXIT_CODE, "the code holds a name twice")
    for member in members:
        path = PurePosixPath(member.name)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts != ()
        # A member below a link would be written wherever the link points.
        through_link = any(str(parent) in links for parent in path.parents)
        if member.issym():
            inside = inside and stays_inside(member.name, links)
        if not inside or through_link or not (member.isfile() or member.isdir() or member.issym()):
            raise Failure(
                EXIT_CODE, f"the code holds {member.name!r}, which would leave its folder"
            )


def stays_inside(link: str, links: Dict[str, str]) -> bool:
    """Whether a link of the archive, followed through its other links, leads into its folder.

    `links` are the targets of all links. Python's own data filter does the same where there is one.
    """
    at = list(PurePosixPath(link).parent.parts)
    ahead = [PurePosixPath(link).name]
    followed = 0
    while ahead:
        part = ahead.pop(0)
        if part == "..":
            if not at:
                return False
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is None:
            continue
        if not target or target.startswith("/"):
            return False
        followed += 1
        if followed > MOST_LINKS:
            return True  # nowhere at all: so does the kernel
        at.pop()
        ahead[:0] = PurePosixPath(target).parts
    return True


# --- rank 0 ---------------------------------------------------------------------------------------


def wait_for_rank0(address: str, port: int, timeout_s: float, nnodes: int) -> None:
    """Return once something accepts connections at rank 0. Raises Failure at the deadline.

    Resolving and connecting are tried together: negative DNS answers are cached, and a name that
    resolves says nothing about the process behind it.
    """
    import random

    started = time.monotonic()
    longest_pause_s = min(LONGEST_PAUSE_S, max(2 * FIRST_PAUSE_S, nnodes / ATTEMPTS_PER_S))
    pause_s, next_word_s, last, resolved = FIRST_PAUSE_S, STILL_WAITING_S, "", ""
    while True:
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            resolved = ", ".join(sorted({str(entry[4][0]) for entry in found}))
        except OSError as error:
            found, last = [], f"{address} does not resolve ({error.strerror or error})"
        for family, kind, protocol, _, where in found:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.settimeout(CONNECT_TIMEOUT_S)
                    probe.connect(where)
                    return
            except OSError as error:
                last = f"{where[0]} port {port}: {error.strerror or error}"
        waited_s = time.monotonic() - started
        if waited_s >= timeout_s:
            raise Failure(EXIT_RENDEZVOUS, rank0_message(address, port, waited_s, last, resolved))
        if waited_s >= next_word_s:
            next_word_s += STILL_WAITING_S
            say(f"still waiting for rank 0 after {waited_s:.0f} s: {last}")
        # Thousands of pods ask the same DNS server: spread them.
        time.sleep(min(pause_s * random.uniform(0.7, 1.3), timeout_s - waited_s))  # noqa: S311
        pause_s = min(pause_s * 1.5, longest_pause_s)


def rank0_message(address: str, port: int, waited_s: float, last: str, resolved: str) -> str:
    """What was tried, what came back, and what usually causes it."""
    if not resolved:
        cause = (
            "the pod of index 0 has no address yet (pending, pulling its image), the headless "
            "Service is missing, or a NetworkPolicy blocks DNS"
        )
    elif "refused" in last.lower():
        cause = (
            f"the pod of index 0 ({resolved}) runs, but its torchrun does not listen: see its log"
        )
    else:
        cause = (
            f"the pod of index 0 ({resolved}) does not answer: it is gone, or a NetworkPolicy or "
            f"firewall blocks port {port}"
        )
    return (
        f"rank 0 never came: tried {address} port {port} for {waited_s:.0f} s, last: {last}. "
        f"Likely: {cause}"
    )


# --- failure records ------------------------------------------------------------------------------


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
    last = max((at for at, line in enumerate(lines) if FRAME.match(line)), default=len(lines) - 1)
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


def _short_line(line: str, room: int) -> str:
    """A line of a traceback: of a frame, file and line number are kept whatever their length."""
    most = min(LINE_BYTES, room // 4)
    frame = FRAME.match(line)
    if frame is None:
        return clipped(line, most)
    head, file, number, function = frame.groups()
    return head[-40:] + clipped(file, most, end=0.75) + number + clipped(function, most)


def write_accounts(accounts: Dict[str, Any]) -> None:
    """Leave them as the last words of a node that has ended well."""
    try:
        with open(error_file(), "w") as file:
            json.dump({"kij": {"accounts": accounts}}, file)
    except OSError as error:
        say(f"cannot write to {error_file()}: {error}")


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
    written = (read_record(str(found)) for found in Path(log_dir).rglob("error.json"))
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
        callstack or stack_of_a_crash(crash_file(ranks_dir, failure.local_rank)),
        index=node.completion_index,
        rank=rank,
        local_rank=failure.local_rank,
        exit_code=code,
        time=when((rank, failure)),
    )
    return said


def crash_file(ranks_dir: str, local_rank: int) -> str:
    """Where a rank's stack goes when a signal such as SIGSEGV ends it."""
    return os.path.join(ranks_dir, f"crash-{local_rank}")


def stack_of_a_crash(path: str) -> str:
    """The script's frames of the thread that crashed, the most recent last; empty for none."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        return ""
    # The thread that crashed; else the main one, which is told last.
    _, head, found = text.rpartition("Current thread ")
    found = found if head else text.rpartition("Thread ")[2]
    stack = found.partition("\n\n")[0].splitlines()
    frames = [match.groups() for match in map(DUMP_FRAME.match, stack) if match]
    while frames and STARTS.search(frames[-1][0]):
        frames.pop()
    return "\n".join(
        f'  File "{file}", line {line}, in {name}' for file, line, name in frames[::-1]
    )


def show_crash(path: str) -> None:
    """Print what a rank that a signal ended has left of its stacks, without our frames."""
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        for line in file:
            frame = DUMP_FRAME.match(line)
            if frame is None or not STARTS.search(frame.group(1)):
                sys.stderr.write(line)
        sys.stderr.flush()


# --- where the ranks are --------------------------------------------------------------------------


def read_rank(pid: int) -> Optional[Dict[str, Any]]:
    """Rank and state of a process that runs a rank; None for any other one (Linux)."""
    folder = Path("/proc", str(pid))
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
        env = (folder / "environ").read_bytes().split(b"\0")
        status = dict(
            line.split(":", 1)
            for line in (folder / "status").read_text().splitlines()
            if ":" in line
        )
        rank = next(int(entry[5:]) for entry in env if entry.startswith(b"RANK="))
    except (OSError, ValueError, StopIteration):
        return None
    if WORKER.encode() not in words:
        return None
    # A process that does not catch the signal would die of it.
    caught = int(status.get("SigCgt", "0"), 16) >> (signal.SIGUSR2 - 1) & 1
    state = status.get("State", "").strip()
    return {"rank": rank, "pid": pid, "state": state, "caught": bool(caught)}


def stacks_of_ranks(folder: str) -> List[Dict[str, Any]]:
    """Ask every rank of this node where it is: rank, pid, stack.

    Where the stack is empty, `state` is the kernel's word on the process, such as "T (stopped)".
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [read_rank(pid) for pid in sorted(int(name) for name in names if name.isdigit())]
    ranks = [rank for rank in found if rank is not None]
    sizes, began = {}, time.monotonic()
    for rank in ranks:
        with contextlib.suppress(OSError):
            path = os.path.join(folder, str(rank["pid"]))
            os.truncate(path, 0)
            if rank["caught"]:
                os.kill(rank["pid"], signal.SIGUSR2)
                sizes[path] = (0, began)
    settled = False
    while not settled and time.monotonic() < began + STACKS_S:
        time.sleep(0.02)
        settled, now = True, time.monotonic()
        for path, (size, since) in sizes.items():
            if os.path.getsize(path) != size:
                sizes[path] = (os.path.getsize(path), now)
            settled = settled and size > 0 and now - since > STACKS_STILL_S
    for rank in ranks:
        rank["stack"] = Path(folder, str(rank["pid"])).read_text(errors="replace")
    return ranks


def print_stacks() -> int:
    """Print a line of JSON for every rank of this pod."""
    for rank in stacks_of_ranks(STACKS_DIR):
        print(json.dumps(rank), flush=True)
    return 0


# --- the node -------------------------------------------------------------------------------------


def writable_home(work_dir: str) -> None:
    """Give HOME, TMPDIR and USER usable values where the image made for root leaves none."""
    import pwd

    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = os.path.join(work_dir, "home")
        os.makedirs(os.environ["HOME"], exist_ok=True)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = os.path.join(work_dir, "tmp")
        os.makedirs(os.environ["TMPDIR"], exist_ok=True)
        tempfile.tempdir = None
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # getpass.getuser, which torch's compiler caches call, fails for a user without a name.
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("LOGNAME", os.environ["USER"])


def die_with_parent(parent_pid: int) -> None:
    """On this machine: get SIGTERM when the launcher is gone, however it went (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(128 + signal.SIGTERM)


def source_settings(script: str) -> None:
    """Take over what a fabric's shell script exports; what is set already stays as it is.

    Google's gIB, for one, gives its NCCL settings in no other form. Raises Failure.
    """
    import subprocess

    dump = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
    # Its own output must not mix with the answer.
    line = '. "$1" >&2 && exec "$2" -c "$3"'
    try:
        answer = subprocess.run(
            ["bash", "-c", line, "settings", script, sys.executable, dump],  # noqa: S607
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        found = json.loads(answer.decode())
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise Failure(EXIT_CONTRACT, f"cannot source {script}: {error}") from error
    new = {k: v for k, v in found.items() if k not in os.environ and k not in ("_", "OLDPWD")}
    os.environ.update(new)
    say("settings of {}: {}".format(script, ", ".join(sorted(new)) or "none"))


def fault_of_program(path: str, is_here: bool = True) -> str:
    """Why the kernel would not run a file that is there, or "".

    Of a missing interpreter it says "No such file", as if the program were. With `is_here` the
    interpreter is looked for: this is the machine, or the image, that runs it.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    if head.startswith(b"\xef\xbb\xbf#!"):
        return "it begins with a byte order mark, in front of #!"
    if not head.startswith(b"#!"):
        is_text = b"\0" not in head
        return "it has no first line that says what runs it, such as #!/bin/bash" if is_text else ""
    line = head[2:].split(b"\n", 1)[0].decode("utf-8", "replace").strip(" ")
    if line.endswith("\r"):
        return f"its lines end as on Windows, so that it asks for {line!r} to run it"
    wanted, *arguments = line.split() or [""]
    if is_here and os.path.basename(wanted) == "env" and os.path.exists(wanted):
        names = [word for word in arguments if word[0] != "-" and "=" not in word]
        wanted = names[0] if names and shutil.which(names[0]) is None else wanted
    if is_here and not os.path.exists(wanted):
        return f"its first line asks for {wanted or 'nothing'} to run it, which is not there"
    return ""


def torchrun_args(node: Node, argv: List[str], log_dir: str) -> List[str]:
    """torchrun's own arguments for this node, the script's behind them."""
    args = [
        f"--nnodes={node.nnodes}",
        f"--nproc-per-node={node.nproc}",
        f"--node-rank={node.rank}",
        "--rdzv-backend=static",
        f"--master-addr={node.master_addr}",
        f"--master-port={node.master_port}",
        f"--rdzv-conf=timeout={node.rendezvous_timeout_s}",
        "--rdzv-id={}".format(os.environ.get(ENV_JOB) or "none"),  # TORCHELASTIC_RUN_ID
        f"--log-dir={log_dir}",  # of the ranks' failure records; their output is not redirected
    ]
    if argv[0] == "--no-python":
        found = shutil.which(argv[1])
        if found is None:
            raise Failure(
                EXIT_CODE,
                f"{argv[1]}: no such program, or it may not be run, in the code or in the image",
            )
        fault = fault_of_program(found)
        if fault:
            raise Failure(EXIT_CODE, f"{argv[1]} cannot be run: {fault}")
        return args + argv
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    return [*args, worker, WORKER, *argv]


@contextlib.contextmanager
def quiet_exit_barrier() -> Iterator[None]:
    """Keep back what torchrun says while its agents wait for each other, once all ranks are done.

    The agent of rank 0 has the store, and may leave before the others have read the last word.
    They then log thirty lines of a lost connection, of which they make nothing: it is a good end.
    If it is none, an exception leaves the barrier, and what was kept back is shown.
    """
    try:
        from torch.distributed.elastic.agent.server.api import SimpleElasticAgent

        wait = SimpleElasticAgent._exit_barrier
    except (ImportError, AttributeError):  # another version's
        wait = None
    if wait is None:
        yield
        return

    def wait_quietly(agent: Any) -> None:
        sys.stderr.flush()
        shown = os.dup(2)
        with tempfile.TemporaryFile() as kept:
            os.dup2(kept.fileno(), 2)  # C++ writes there as well
            try:
                wait(agent)
            except BaseException:
                kept.seek(0)
                with contextlib.suppress(OSError):
                    os.write(shown, kept.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(shown, 2)
                os.close(shown)

    SimpleElasticAgent._exit_barrier = wait_quietly
    try:
        yield
    finally:
        SimpleElasticAgent._exit_barrier = wait


def run_torchrun(node: Node, argv: List[str]) -> int:
    """Import torch, wait for rank 0, then be torchrun. Gives the exit code.

    In this order: rank 0 listens when it has imported torch, and a name that is asked for too early
    is a negative DNS answer, which name servers keep for seconds.
    """
    from kij_train.pod import lines

    try:
        from torch.distributed import run as torchrun
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except ImportError as error:
        raise Failure(
            EXIT_CONTRACT, f"torch cannot be imported by {sys.executable}: {error}"
        ) from error
    if node.rank != 0:
        wait_for_rank0(node.master_addr, node.master_port, node.rendezvous_timeout_s, node.nnodes)
    if len(heard_signals()) < len(ENDINGS):
        # torchrun would hear what is ignored, and so would its ranks.
        heard = [signal.Signals(number).name for number in heard_signals()]
        os.environ["PET_SIGNALS_TO_HANDLE"] = ",".join(heard)
    if node.nproc > 1:  # torchrun sets the same, but with five lines of warning
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    scratch_dir = os.environ.get(ENV_SCRATCH_DIR)
    with tempfile.TemporaryDirectory(prefix="kij-ranks-", dir=scratch_dir) as log_dir:
        os.environ[ENV_RANKS_DIR] = log_dir
        several = lines.Lines(log_dir, node.nproc) if node.nproc > 1 else contextlib.nullcontext()
        try:
            with several, quiet_exit_barrier():
                torchrun.run(torchrun.parse_args(torchrun_args(node, argv, log_dir)))
        except ChildFailedError as error:
            take_signals(signal.SIG_IGN)  # it ends, with this record
            for failure in error.failures.values():
                show_crash(crash_file(log_dir, failure.local_rank))
            # Not torchrun's table: the ranks have printed their tracebacks.
            say(record_failures(error_file(), node, error.failures, log_dir))
            return EXIT_FAILED
        except SignalException as error:
            record_unreported(error_file(), node, log_dir)
            say(f"ended by {signal.Signals(error.sigval).name}")
            return 128 + int(error.sigval)
        except RuntimeError as error:
            # torch's store errors are RuntimeErrors; rank 0's says how many nodes came.
            if "clients joined" not in str(error):
                raise
            raise Failure(
                EXIT_RENDEZVOUS,
                f"not every node came within {node.rendezvous_timeout_s} s: {error}",
            ) from error
    return 0


def run_plain(node: Node, argv: List[str]) -> int:
    """Run the command once, in the code's folder. Gives its exit code, 128 + N for signal N.

    After AWAIT_RANK0 the nodes but the first wait until rank 0 accepts connections.
    """
    os.environ.setdefault(ENV_RANK0_HOST, "localhost" if node.rank == 0 else node.master_addr)
    if argv[0] == AWAIT_RANK0:
        argv = argv[1:]
        if node.rank != 0:
            timeout_s = node.rendezvous_timeout_s
            wait_for_rank0(node.master_addr, node.master_port, timeout_s, node.nnodes)
    command = argv[1:] if argv[0] == "--no-python" else [sys.executable, "-u", *argv]
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # until there is a child to give them to
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
    except OSError as error:
        found = shutil.which(command[0])
        fault = fault_of_program(found) if found is not None else ""
        raise Failure(
            EXIT_CODE,
            f"{command[0]}: cannot be run in the code or in the image: {fault or error.strerror}",
        ) from error
    status = attend(child)
    if status:
        say(plain_end(command[0], status))
    return exit_code(status)


def plain_end(command: str, status: int) -> str:
    """How a command without torchrun has ended; OWN_EXIT finds it where that was no signal."""
    if os.WIFSIGNALED(status):
        return f"{command} was killed by {signal_name(os.WTERMSIG(status))}"
    return f"{command} ended with exit code {os.WEXITSTATUS(status)}"


OWN_EXIT = re.compile(r"^kij-train: .* ended with exit code \d+$", re.MULTILINE)


def attend(child: int) -> int:
    """Pass signals on to a child, and reap it and all orphans until it ends; its wait status.

    ENDINGS are blocked before, and free afterwards.
    """

    def pass_on(signum: int, frame: Optional[FrameType]) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signum)

    take_signals(pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def signal_name(signum: int) -> str:
    """SIGKILL; "signal 35" for one without a name."""
    names = {each.value: each.name for each in signal.Signals}
    return names.get(signum, f"signal {signum}")


def exit_code(status: int) -> int:
    """Of a wait status, as a shell has it: 128 + N for signal N."""
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def error_file() -> str:
    """Where this node's failure record goes."""
    return os.environ.get(ENV_ERROR_FILE) or TERMINATION_LOG


def prepare(env: Dict[str, str]) -> None:
    """Home, the fabric's settings and the code, which becomes the working directory."""
    if not env.get(ENV_PARENT_PID):
        writable_home(WORK_DIR)
    if env.get(ENV_SETTINGS_SCRIPT):
        source_settings(env[ENV_SETTINGS_SCRIPT])
    code_sha256 = env.get(ENV_CODE_SHA256)
    if code_sha256:
        code_dir = os.path.join(WORK_DIR, "code")
        unpack_code(BUNDLE_DIR, code_dir, code_sha256)
        os.chdir(code_dir)
        # PYTHONPATH may name folders of the code, which were not there when Python started.
        sys.path_importer_cache.clear()


def run_node(argv: List[str]) -> int:
    """The node's first process, from the contract to torchrun's exit code."""
    env = dict(os.environ)
    if env.get(ENV_PARENT_PID):
        die_with_parent(int(env[ENV_PARENT_PID]))
    node = read_contract(env)
    say(describe(node, env))
    prepare(env)
    if argv[0] == NO_TORCHRUN:
        return run_plain(node, argv[1:])
    if os.getpid() == 1:
        # Orphans become its children, and torchrun waits for its own alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        child = os.fork()
        if child:
            return exit_code(attend(child))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    return run_torchrun(node, argv)


def heard_signals() -> List[int]:
    """Of ENDINGS those that are not ignored: what nohup or a shell has ignored stays so."""
    return [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]


def take_signals(handler: Any) -> None:
    """Install a handler for what asks this process to end."""
    for number in heard_signals():
        signal.signal(number, handler)


def on_signal(signum: int, frame: Optional[FrameType]) -> NoReturn:
    """Until torchrun installs its own handlers, which pass the signal on to the ranks."""
    del frame
    say(f"ended by {signal.Signals(signum).name} before the ranks started")
    os._exit(128 + signum)


def first_process(run: Callable[[List[str]], int], argv: List[str]) -> int:
    """`run`, as the first process of a node: signals, failures and their records. The exit code."""
    forget_outside_env()
    take_signals(on_signal)
    index = os.environ.get(ENV_NODE_RANK, "")
    who = {"index": int(index)} if index.isascii() and index.isdigit() else {}
    try:
        return run(argv)
    except Failure as failure:
        say(f"error: {failure}")
        write_record(error_file(), str(failure), "", exit_code=failure.exit_code, **who)
        return failure.exit_code
    except Exception as error:
        traceback.print_exc()
        message = "".join(traceback.format_exception_only(type(error), error)).strip()
        write_record(error_file(), message, traceback.format_exc(), exit_code=EXIT_FAILED, **who)
        return EXIT_FAILED


def forget_outside_env() -> None:
    """Drop the variables OF_A_RUN that an image has brought: nobody meant them for this run."""
    names = os.environ.pop(ENV_NAMES, None)
    if names is None:
        return  # on this machine the launcher did it, and in a round the first process
    for name in list(os.environ):
        if OF_A_RUN.fullmatch(name) and name not in names.split():
            del os.environ[name]


def hide_own_folder() -> None:
    """The folder of this file must not offer modules to torch or to the script.

    In a pod the file is a link, and Python has the folder that it leads to.
    """
    here = {os.path.dirname(path(__file__)) for path in (os.path.abspath, os.path.realpath)}
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in here]


def main(argv: List[str]) -> int:
    """Entry point; `argv` without the program's name."""
    hide_own_folder()
    if argv == [STACKS]:
        return print_stacks()
    return first_process(run_node, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
