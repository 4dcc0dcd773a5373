"""What is known about this clone's cluster, for every command that is not its supervisor.

The lock says whether a supervisor lives: the kernel frees it even after kill -9. The state file
says what that supervisor has brought up, and is believed only while the lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from .paths import StatePaths
from .processes import start_time


@dataclass
class State:
    """One cluster, as `status --json` shows it. Every pid is one of the machine's."""

    phase: str
    """`starting`, `ready`, `failed` or `stopped`."""
    supervisor_pid: int
    supervisor_start_time: str
    control_plane_only: bool
    rootless: bool
    ipv6: bool = False
    namespace_pid: int = 0
    """The first process in the namespaces: nsenter's --target."""
    network_namespace: int = 0
    """Inode; with it the leftovers of a crash are found."""
    pid_namespace: int = 0
    kubeconfig: str = ""
    kubectl: str = ""
    nodes: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    """What a test calls an image -> its name in a pod's manifest."""
    shared_dir: str = ""
    """A hostPath that is the same folder on every node."""
    error: str = ""

    def save(self, paths: StatePaths) -> None:
        """Replace the file in one step: a reader sees the old one or the new one."""
        part = paths.state.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        part.replace(paths.state)

    @classmethod
    def load(cls, paths: StatePaths) -> State | None:
        """The last state that was saved, of whatever age; None if there is none to be read."""
        try:
            saved = json.loads(paths.state.read_text())
        except (OSError, ValueError):
            return None
        # Another version of this file may have written it; `down` has to work all the same.
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in known})

    @classmethod
    def of_running(cls, paths: StatePaths) -> State | None:
        """The state of a cluster whose supervisor lives; None if there is none."""
        state = cls.load(paths) if is_locked(paths.lock) else None
        # A new supervisor has the lock a moment before it replaces a crashed one's state.
        return state if state is not None and state.supervisor_lives() else None

    def supervisor_lives(self) -> bool:
        return start_time(self.supervisor_pid) == self.supervisor_start_time


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields whether it was had (always, with `wait`)."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock."""
    if not path.exists():
        return False
    with locked(path, wait=False) as had:
        return not had
