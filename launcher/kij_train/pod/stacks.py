"""Stacks of ranks, as faulthandler writes them: of ranks that run, and of those that crashed.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

from kij_train.pod import contract

STACKS_S = 3.0
"""How long a process may take to write its stack."""
STACKS_STILL_S = 0.1
"""How long it must have been silent to have written all of it: a dump has no end mark."""
STARTS = re.compile(contract.OUR_FILES)
"""Whose frames start a script."""
DUMP_FRAME = re.compile(r'\s*File "(.*)", line (\S+) in (.*)')
"""In a stack that faulthandler writes."""


class RankNow(NamedTuple):
    """Where a rank of this node is, and the line of JSON that --stacks prints of it."""

    rank: int
    pid: int
    state: str
    """The kernel's word on the process, such as "T (stopped)"."""
    caught: bool
    """Whether the process has a handler for SIGUSR2; without one it is not asked."""
    stack: str = ""
    """What faulthandler wrote; empty for a process that did not answer."""

    def line(self) -> str:
        return json.dumps(self._asdict())

    @staticmethod
    def read(line: str) -> "Optional[RankNow]":
        """From a line of what --stacks printed; None for another one."""
        try:
            said = json.loads(line)
            return RankNow(
                int(said["rank"]),
                int(said.get("pid", 0)),
                str(said.get("state", "")),
                said.get("caught") is True,
                str(said["stack"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


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


def read_rank(pid: int) -> Optional[RankNow]:
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
    if contract.WORKER.encode() not in words:
        return None
    # A process that does not catch the signal would die of it.
    caught = int(status.get("SigCgt", "0"), 16) >> (signal.SIGUSR2 - 1) & 1
    state = status.get("State", "").strip()
    return RankNow(rank, pid, state, bool(caught))


def stacks_of_ranks(folder: str) -> List[RankNow]:
    """Ask every rank of this node where it is."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [read_rank(pid) for pid in sorted(int(name) for name in names if name.isdigit())]
    ranks = [rank for rank in found if rank is not None]
    sizes, began = {}, time.monotonic()
    for rank in ranks:
        with contextlib.suppress(OSError):
            path = os.path.join(folder, str(rank.pid))
            os.truncate(path, 0)
            if rank.caught:
                os.kill(rank.pid, signal.SIGUSR2)
                sizes[path] = (0, began)
    settled = False
    while not settled and time.monotonic() < began + STACKS_S:
        time.sleep(0.02)
        settled, now = True, time.monotonic()
        for path, (size, since) in sizes.items():
            if os.path.getsize(path) != size:
                sizes[path] = (os.path.getsize(path), now)
            settled = settled and size > 0 and now - since > STACKS_STILL_S
    return [
        rank._replace(stack=Path(folder, str(rank.pid)).read_text(errors="replace"))
        for rank in ranks
    ]


def print_stacks() -> int:
    """Print a line of JSON for every rank of this pod."""
    for rank in stacks_of_ranks(contract.STACKS_DIR):
        print(rank.line(), flush=True)
    return 0
