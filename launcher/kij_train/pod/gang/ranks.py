"""The ranks of a node: a process that has torch imported forks torchrun for every round.

It has no threads, so that forking is safe, and torch, which takes seconds, is imported once. It
adopts what torchrun leaves behind, so that a round that is over has no process left.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import stat
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, List, NamedTuple, NoReturn, Optional

from kij_train.pod import signals
from kij_train.pod.gang import messages
from kij_train.pod.gang.messages import LONGEST_LINE, TASK_ORDERS, TASK_REPORTS, Run, TaskOrder
from kij_train.pod.gang.processes import adopt_orphans, kill_descendants


class Work(NamedTuple):
    """What a zygote is there for."""

    prepare: Callable[[], None]
    """Import what every round needs. Raises ImportError."""
    run: Callable[[Run], int]
    """Be one round; gives its exit code."""


class Zygote:
    """The supervisor's end: starts and ends torchrun, and tells how it ended."""

    def __init__(self, work: Work, say: Callable[[str], None]) -> None:
        """Fork it. The first one is made before this process has a thread."""
        self.ready = False
        self.broken = ""
        """Why it cannot run anything."""
        self.running = False
        self._work, self._say = work, say
        self._writer: Optional[asyncio.StreamWriter] = None
        self._channel = self._fork()

    def _fork(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            _close_sockets(but=theirs.fileno())  # of a supervisor that has worked for a while
            _run_zygote(theirs, self._work)
        theirs.close()
        return ours

    async def serve(self, on_change: Callable[[], None], on_end: Callable[[int], None]) -> None:
        """Listen to it, and keep one alive, until cancelled.

        One that dies under a round is a round that failed.
        """
        while True:
            reader, self._writer = await asyncio.open_connection(
                sock=self._channel, limit=LONGEST_LINE
            )
            while True:
                try:
                    line = await reader.readline()
                except OSError:  # it died while something was sent to it
                    line = b""
                if not line:
                    break
                said = messages.decode(line, TASK_REPORTS)
                if isinstance(said, messages.Broken):
                    self.broken = said.why
                elif isinstance(said, messages.Prepared):
                    self.ready = True
                else:
                    self.running = False
                    on_end(said.code)
                on_change()
            self._writer.close()
            self.ready = False
            self._say("the process that starts the ranks was killed; starting another")
            kill_descendants()
            if self.running:
                self.running = False
                on_end(-signal.SIGKILL)
            self._channel = self._fork()

    def start(self, order: Run) -> None:
        """Run one round; `order` goes to Work.run."""
        self.running = True
        self._send(order)

    def stop(self, kill_after_s: float, signum: int = signal.SIGTERM) -> None:
        """A signal to the ranks, later SIGKILL; said again, the new time holds."""
        self._send(messages.EndRanks(kill_after_s, int(signum)))

    def _send(self, order: TaskOrder) -> None:
        if self._writer is not None:
            self._writer.write(messages.encode(order))


def _close_sockets(but: int) -> None:
    """Those of this process: others must see that a connection ends (Linux)."""
    for entry in Path("/proc/self/fd").glob("*"):
        fd = int(entry.name)
        with contextlib.suppress(OSError):  # that of the folder is gone again
            if fd > 2 and fd != but and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)


def _run_zygote(channel: socket.socket, work: Work) -> NoReturn:
    """Never returns. Ends when the supervisor closes its end, and its ranks with it."""
    signals.take_signals(signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    try:
        _zygote(channel, work)
    except BaseException:
        traceback.print_exc()
        kill_descendants()
        os._exit(1)


def _zygote(channel: socket.socket, work: Work) -> NoReturn:
    adopt_orphans()
    try:
        work.prepare()
    except ImportError as error:
        channel.sendall(messages.encode(messages.Broken(str(error))))
    else:
        channel.sendall(messages.encode(messages.Prepared()))
    ended_r, ended_w = os.pipe()
    os.set_blocking(ended_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ended_w, warn_on_full_buffer=False)
    agent, told, kill_at = 0, False, float("inf")
    orders = _Orders(channel)
    while True:
        timeout = None if kill_at == float("inf") else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select([channel.fileno(), ended_r], [], [], timeout)
        if ended_r in readable:
            os.read(ended_r, 4096)
        for said in orders.read() if channel.fileno() in readable else ():
            if isinstance(said, Run):
                told, agent = False, os.fork() or _run_round(work, said, channel)
            elif agent:
                if not told:  # a second one would keep torchrun from waiting for its ranks
                    os.kill(agent, said.signum)  # not reaped yet, so it is there
                told, kill_at = True, time.monotonic() + said.kill_after_s
        if time.monotonic() >= kill_at:
            kill_at = float("inf")
            kill_descendants()
        code = _reap(agent)
        if code is not None:
            agent, kill_at = 0, float("inf")
            kill_descendants()  # what it left: ranks of an agent that was killed
            channel.sendall(messages.encode(messages.Exited(code)))


class _Orders:
    """What the supervisor says."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._rest = channel, b""

    def read(self) -> List[TaskOrder]:
        """What has come; ends this process, and all below it, when the supervisor is gone."""
        try:
            chunk = self._channel.recv(65536)
        except ConnectionResetError:  # it was killed, and had not read all
            chunk = b""
        if not chunk:
            kill_descendants()
            os._exit(0)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [messages.decode(line, TASK_ORDERS) for line in lines]


def _reap(agent: int) -> Optional[int]:
    """Take in children that have ended; the exit code of the agent, negative for a signal."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == agent:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    return code


def _run_round(work: Work, order: Run, channel: socket.socket) -> NoReturn:
    channel.close()  # the supervisor takes its end for that of the zygote
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        code = work.run(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
