"""Making, emptying and removing cgroups, in every hierarchy that the machine has mounted.

With cgroup v1 each controller is a hierarchy of its own and all of them are treated alike; with
v2 there is one. A hybrid machine has both, and its v2 hierarchy has no controllers.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

REMOVE_TIMEOUT_S = 10.0


def hierarchies() -> list[Path]:
    """Where the hierarchies are mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return found


def create(name: str) -> None:
    """Make a cgroup (such as `kij-train-1a2b/node-1`) in which a kubelet can make its own."""
    for root in hierarchies():
        path = root
        for part in Path(name).parts:
            _delegate_controllers(path)
            path = path / part
            with suppress(FileExistsError):
                path.mkdir()
            _inherit_cpuset(path)
        _delegate_controllers(path)


def folders(name: str) -> list[Path]:
    """The cgroup and everything below it, innermost first."""
    found = []
    for root in hierarchies():
        for folder, _, _ in os.walk(root / name, topdown=False):
            found.append(Path(folder))
    return found


def processes(name: str) -> list[int]:
    """The processes in the cgroup and below it."""
    found: set[int] = set()
    for folder in folders(name):
        with suppress(OSError):  # it may go away while we look
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
    return sorted(found - {0})


def entering(name: str) -> list[str]:
    """A prefix for a command that puts it, and so all its children, into a cgroup below `name`.

    One hierarchy is enough for finding them again. The cgroup is a leaf of its own, because v2
    allows no processes beside children.
    """
    root = next((path for path in hierarchies() if path.name == "pids"), hierarchies()[0])
    leaf = root / name / "daemons"
    leaf.mkdir(exist_ok=True)
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(leaf / "cgroup.procs")]


def remove(name: str) -> None:
    """Remove the cgroup and everything below it. Its processes must have been killed."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while remaining := folders(name):
        for folder in remaining:
            with suppress(OSError):  # busy until the kernel has buried the last process
                folder.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _inherit_cpuset(path: Path) -> None:
    """A new cpuset of v1 is empty and takes no process until it is told its CPUs and memory."""
    for knob in ("cpuset.cpus", "cpuset.mems"):
        file = path / knob
        if path.parent.joinpath(knob).exists() and file.exists() and not file.read_text().strip():
            file.write_text(path.parent.joinpath(knob).read_text())


def _delegate_controllers(path: Path) -> None:
    """In v2 a child has only the controllers that its parent hands down."""
    available = path / "cgroup.controllers"
    if available.exists():
        for controller in available.read_text().split():
            with suppress(OSError):  # some cannot be delegated from where we are
                (path / "cgroup.subtree_control").write_text(f"+{controller}")
