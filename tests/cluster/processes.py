"""Running commands, keeping daemons, and telling processes apart."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import ClusterError

LOG_TAIL_LINES = 15


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> str:
    """Run a command to its end and return its stdout; its failure quotes what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env=env,
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LOG_TAIL_LINES:])
        raise ClusterError(f"{' '.join(words)} ended with {done.returncode}:\n{said}")
    return done.stdout


def start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None if there is none.

    Together with the pid this names a process for good: pids are used again.
    """
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def child_of(parent: int) -> int | None:
    """A child of the process, if it has one."""
    for pid in all_pids():
        with suppress(OSError):
            if _stat(pid)[1] == str(parent):
                return pid
    return None


def _stat(pid: int) -> list[str]:
    """The fields of a process's status from its third on: state, parent, ..."""
    # The name, the second field, is in parentheses and may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def namespace(pid: int, kind: str) -> int | None:
    """The inode of a process's namespace (`net`, `pid`, `mnt`); None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return None


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def without_proxies(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for what talks to the cluster: no proxy can be reached in its network."""
    return {name: value for name, value in env.items() if not name.lower().endswith("_proxy")}


def wait_until(
    what: str, ready: Callable[[], bool], *, timeout_s: float, needs: Iterable[Daemon] = ()
) -> None:
    """Poll until `ready` holds. A daemon in `needs` that ends meanwhile fails the wait at once."""
    deadline = time.monotonic() + timeout_s
    daemons = list(needs)
    while not ready():
        for daemon in daemons:
            if not daemon.alive:
                raise ClusterError(f"{what}: {daemon.name} ended\n{daemon.log_tail()}")
        if time.monotonic() > deadline:
            tails = "\n".join(f"{daemon.name}:\n{daemon.log_tail()}" for daemon in daemons)
            raise ClusterError(f"{what}: not ready after {timeout_s:.0f} s\n{tails}")
        time.sleep(0.1)


class Daemon:
    """A process that is meant to stay, with its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        logs: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = [str(word) for word in command]
        self._env = dict(env) if env is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again; its log goes on in the same file."""
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.alive else None

    def stop(self) -> None:
        """SIGTERM, and wait until it has put its things in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def freeze(self, frozen: bool) -> None:
        """SIGSTOP, so that whoever asks it waits in vain; or SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
