"""Signals that ask a node to end, and the children that they are passed on to.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, List, NoReturn, Optional, Set

from kij_train.pod.status import say

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What asks a process to end: torchrun passes them on to its ranks, and an image may name any."""

companions: Set[int] = set()
"""Processes beside this one that stay as long as it does: nobody is to end them before."""
heard: List[int] = []
"""What has asked this process to end, while it had others to pass it on to."""


def die_with_parent(parent_pid: int) -> None:
    """On this machine: get SIGTERM when the launcher is gone, however it went (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(128 + signal.SIGTERM)


def attend(child: int) -> int:
    """Pass signals on to a child, and reap it and all orphans until it ends; its wait status.

    ENDINGS are blocked before, and free afterwards.
    """

    def pass_on(signum: int, frame: Optional[FrameType]) -> None:
        del frame
        heard.append(signum)
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
