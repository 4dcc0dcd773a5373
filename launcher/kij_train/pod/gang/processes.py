"""The processes that a process has started: find them, adopt them, end them.

Run as a program, this file is a *keeper*: it runs a command on this machine, and sees to it that no
process that the command starts outlives the command. This holds also for processes that have left
the session or changed their environment.

    python processes.py VARIABLE GRACE_S FOLDER COMMAND [ARG ...]

The environment variable VARIABLE has the id of the process that started this one. For the command,
it has the id of this process. FOLDER was made for this run by the process that started the keepers.
That process removes it. If that process is killed, the last keeper that ends removes it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from types import FrameType
from typing import Dict, List, NoReturn, Optional, Set

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2)."""
FOLDER_PREFIX = "kij-train-"
"""A keeper removes only folders whose names begin with this."""


spared: Set[int] = set()
"""Processes that `descendants` leaves out, with all that they have started."""


def prctl(option: int, value: int) -> None:
    """Call prctl(2) on Linux; do nothing on other systems."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (Linux)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> List[int]:
    """All descendants of a process that have not ended, from /proc; [] without /proc."""
    children: Dict[int, List[int]] = {}
    ended = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name, in parentheses, may hold spaces and parentheses.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
            pid = int(name)
            children.setdefault(int(parent), []).append(pid)
            if state in (b"Z", b"X"):
                ended.add(pid)
    found, ahead = [], [root]
    while ahead:
        below = [pid for pid in children.get(ahead.pop(), []) if pid not in spared]
        found += below
        ahead += below
    return [pid for pid in found if pid not in ended]


def kill_descendants() -> None:
    """Send SIGKILL until no descendant is left: one may start another in between."""
    while True:
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class Keeper:
    """Runs one command, passes signals on to it, and ends with its exit code or signal."""

    def __init__(self, variable: str, grace_s: float, folder: str) -> None:
        self._variable, self._grace_s = variable, grace_s
        self._parent = int(os.environ[variable])
        self._folder, self._held = folder, -1
        with contextlib.suppress(OSError):
            self._held = os.open(folder, os.O_RDONLY)  # held until this process ends
            fcntl.flock(self._held, fcntl.LOCK_SH)
        self._child = 0
        self._early: List[int] = []
        """Signals that came before there was a command to pass them on to."""

    def run(self, command: List[str]) -> NoReturn:
        """Run the command, and never return.

        When the parent is killed, the command gets SIGTERM, and SIGKILL after the grace period.
        """
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
        # Python ignores these two signals, and a new program would inherit that.
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
        """Remove the folder, unless another keeper still runs: then that one removes it.

        If two keepers end at the same time, one of them gets the lock.
        """
        if os.path.basename(self._folder).startswith(FOLDER_PREFIX):
            with contextlib.suppress(OSError):
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self._folder, ignore_errors=True)

    def _pass_on(self, signum: int, frame: Optional[FrameType]) -> None:
        del frame
        if os.getppid() != self._parent:
            signal.alarm(max(1, round(self._grace_s)))
        if self._child:
            os.kill(self._child, signum)  # not waited for yet, so its id is not used again
        else:
            self._early.append(signum)


def _end_as(status: int) -> NoReturn:
    """End with the exit code, or by the signal, that a wait status tells."""
    if os.WIFSIGNALED(status):
        import resource

        resource.setrlimit(
            resource.RLIMIT_CORE, (0, 0)
        )  # no second core file: the command has left one
        signum = os.WTERMSIG(status)
        if signum not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    Keeper(sys.argv[1], float(sys.argv[2]), sys.argv[3]).run(sys.argv[4:])
