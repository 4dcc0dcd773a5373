"""What a process has started: find it, adopt it, end it.

Run as a program, it keeps a command of this machine: nothing that the command starts outlives it,
also not what has left its session and scrubbed its environment.

    python processes.py VARIABLE GRACE_S FOLDER COMMAND [ARG ...]

VARIABLE of the environment is the process that started this one; the command finds this one there.
FOLDER is what that process has made for this run, and removes itself, unless it is killed: then the
last of its keepers to end does.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Dict, List, NoReturn, Optional, Set

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of prctl(2)."""
FOLDER_PREFIX = "kij-train-"
"""How the names of the folders begin that a keeper may remove."""


spared: Set[int] = set()
"""Processes that `descendants` leaves out, with what is below them."""


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2); nothing elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of what the processes below leave behind (Linux)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> List[int]:
    """All processes below one that have not ended, from /proc; [] where there is no /proc."""
    children: Dict[int, List[int]] = {}
    ended = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold spaces and parentheses.
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            pid = int(entry.parent.name)
            children.setdefault(int(parent), []).append(pid)
            if state in ("Z", "X"):
                ended.add(pid)
    found, ahead = [], [root]
    while ahead:
        below = [pid for pid in children.get(ahead.pop(), []) if pid not in spared]
        found += below
        ahead += below
    return [pid for pid in found if pid not in ended]


def kill_descendants() -> None:
    """SIGKILL, again until none is left: a process may start another one in between."""
    while True:
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class Keeper:
    """Runs one command, passes signals on to it, and ends as it has ended."""

    def __init__(self, variable: str, grace_s: float, folder: str) -> None:
        self._variable, self._grace_s = variable, grace_s
        self._parent = int(os.environ[variable])
        self._folder, self._held = folder, -1
        with contextlib.suppress(OSError):
            self._held = os.open(folder, os.O_RDONLY)  # until this process ends, and in no other
            fcntl.flock(self._held, fcntl.LOCK_SH)
        self._child = 0
        self._early: List[int] = []
        """Signals that came before there was a command to pass them on to."""

    def run(self, command: List[str]) -> NoReturn:
        """Never returns. When the parent is killed, the command gets SIGTERM and its grace."""
        adopt_orphans()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._pass_on)
        signal.signal(signal.SIGALRM, lambda *_: kill_descendants())
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != self._parent:
            self._remove_folder()
            sys.exit(128 + signal.SIGTERM)
        env = dict(os.environ, **{self._variable: str(os.getpid())})
        # Python ignores these two, and what is ignored stays so in a new program.
        self._child = os.posix_spawn(
            command[0], command, env, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )
        for early in self._early:
            self._pass_on(early, None)
        ended, status = 0, 0
        while ended != self._child:
            ended, status = os.wait()
        self._child = 0
        kill_descendants()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        if os.getppid() != self._parent:
            self._remove_folder()
        _end_as(status)

    def _remove_folder(self) -> None:
        """Unless another keeper holds it, which will do it: of two at once, one gets the lock."""
        if os.path.basename(self._folder).startswith(FOLDER_PREFIX):
            with contextlib.suppress(OSError):
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self._folder, ignore_errors=True)

    def _pass_on(self, signum: int, frame: Optional[FrameType]) -> None:
        del frame
        if os.getppid() != self._parent:
            signal.alarm(max(1, round(self._grace_s)))
        if self._child:
            os.kill(self._child, signum)  # not reaped yet, so it is there
        else:
            self._early.append(signum)


def _end_as(status: int) -> NoReturn:
    """Exit with the code, or by the signal, of a wait status."""
    if os.WIFSIGNALED(status):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
        signum = os.WTERMSIG(status)
        if signum not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    Keeper(sys.argv[1], float(sys.argv[2]), sys.argv[3]).run(sys.argv[4:])
