"""Forks the process that items are started from, which zygote.py is.

Mostly the first process of the pod forks it, so that no second interpreter has to start and to read
our files. If that one is killed, or if the pod has changed since its first process started, a new
interpreter runs it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import os
import signal
import sys
from typing import NamedTuple, Tuple

from kij_train.pod import signals


class Channel(NamedTuple):
    """One end of the two pipes between the runner and its zygote."""

    orders: int
    answers: int

    def close(self) -> None:
        os.close(self.orders)
        os.close(self.answers)


class Forked(NamedTuple):
    """What a fork gives: in the runner the zygote's process, in the zygote 0."""

    process: int
    channel: Channel


def fork_zygote(output: Tuple[int, ...]) -> Forked:
    """Fork this process, whose copy has a session and descriptors of its own, and no handlers.

    The copy writes to `output`, its standard input is empty.
    """
    orders, orders_end = os.pipe()
    answers_end, answers = os.pipe()
    process = os.fork()
    if process:
        os.close(orders)
        os.close(answers)
        return Forked(process, Channel(orders_end, answers_end))
    os.setsid()  # what a terminal sends comes to the runner alone
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream, end in enumerate(output, 1):
        os.dup2(end, stream)
    _close_all_but(orders, answers)
    for number in signals.heard_signals():
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, own)
    return Forked(0, Channel(orders, answers))


def start_zygote(output: Tuple[int, ...]) -> Forked:
    """Start a zygote as an interpreter of its own. Never returns in the new process."""
    forked = fork_zygote(output)
    if not forked.process:
        file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zygote.py")
        try:
            for end in forked.channel:
                os.set_inheritable(end, True)
            os.execv(sys.executable, [sys.executable, "-u", file, *map(str, forked.channel)])  # noqa: S606
        finally:
            os._exit(127)
    return forked


def _close_all_but(*kept: int) -> None:
    """Close every descriptor but these and the standard ones."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # of the folder that was listed
                os.close(int(name))
