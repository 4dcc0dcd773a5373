"""The ranks of a node: a zygote, which has torch imported, forks torchrun for each round.

The import of torch takes seconds, and so is done only once. The zygote has no threads, so that it
can fork safely. It adopts processes that torchrun leaves behind, so that it can end them all when
a round is over.

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
    """The functions that a zygote calls."""

    prepare: Callable[[], None]
    """Import what every round needs. Raises ImportError."""
    run: Callable[[Run], int]
    """Run torchrun for one round, in the process that was forked for it. Gives the exit code."""


class Zygote:
    """The zygote as the supervisor sees it: it starts and ends torchrun, and tells how it ended."""

    def __init__(self, work: Work, say: Callable[[str], None]) -> None:
        """Fork the process. Call this before this process has threads."""
        self.ready = False
        self.broken = ""
        """Why it can run no round; empty if it can."""
        self.running = False
        self._work, self._say = work, say
        self._writer: Optional[asyncio.StreamWriter] = None
        self._channel = self._fork()

    def _fork(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            _close_sockets(but=theirs.fileno())  # a second zygote inherits connections
            _run_zygote(theirs, self._work)
        theirs.close()
        return ours

    async def serve(self, on_change: Callable[[], None], on_end: Callable[[int], None]) -> None:
        """Read the messages of the process, until cancelled. If it dies, start another one.

        If it dies while a round runs, that round has failed.
        """
        while True:
            reader, self._writer = await asyncio.open_connection(
                sock=self._channel, limit=LONGEST_LINE
            )
            while True:
                try:
                    line = await reader.readline()
                except OSError:  # the process died while something was sent to it
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
        """Send a signal to the ranks, and SIGKILL later. A second call changes only the time."""
        self._send(messages.EndRanks(kill_after_s, int(signum)))

    def _send(self, order: TaskOrder) -> None:
        if self._writer is not None:
            self._writer.write(messages.encode(order))


def _close_sockets(but: int) -> None:
    """Close inherited sockets, so that the other side sees when a connection ends (Linux)."""
    for entry in Path("/proc/self/fd").glob("*"):
        fd = int(entry.name)
        with contextlib.suppress(OSError):  # the descriptor that listed the folder is closed again
            if fd > 2 and fd != but and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)


def _run_zygote(channel: socket.socket, work: Work) -> NoReturn:
    """Be the zygote, and never return. It and its ranks end when the supervisor's socket closes."""
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
                if not told:  # a second signal would keep torchrun from waiting for its ranks
                    os.kill(agent, said.signum)  # not waited for yet, so its id is not used again
                told, kill_at = True, time.monotonic() + said.kill_after_s
        if time.monotonic() >= kill_at:
            kill_at = float("inf")
            kill_descendants()
        code = _reap(agent)
        if code is not None:
            agent, kill_at = 0, float("inf")
            kill_descendants()  # a torchrun that was killed leaves its ranks behind
            channel.sendall(messages.encode(messages.Exited(code)))


class _Orders:
    """The messages that the supervisor sends."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._rest = channel, b""

    def read(self) -> List[TaskOrder]:
        """The messages that have come.

        If the supervisor is gone, this ends the process and all its descendants.
        """
        try:
            chunk = self._channel.recv(65536)
        except ConnectionResetError:  # the supervisor was killed before it had read everything
            chunk = b""
        if not chunk:
            kill_descendants()
            os._exit(0)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [messages.decode(line, TASK_ORDERS) for line in lines]


def _reap(agent: int) -> Optional[int]:
    """Wait for all children that have ended. Gives the exit code of torchrun, if it has ended.

    The exit code is negative for a signal.
    """
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
    channel.close()  # else the supervisor would not see the end of the zygote
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
