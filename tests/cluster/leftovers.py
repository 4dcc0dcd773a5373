"""Finding, counting and removing what a cluster may leave on the machine.

The kernel removes nearly everything with the namespaces. This module proves it, and removes the
rest (cgroups), after an orderly `down` as well as after a crash.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import cgroups
from .network import LINK_PREFIX
from .paths import StatePaths
from .processes import all_pids, namespace, run
from .state import State

END_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Leftovers:
    """What of a cluster is still there."""

    processes: list[int]
    mounts: list[str]
    links: list[str]
    cgroups: list[str]

    @property
    def none(self) -> bool:
        return not (self.processes or self.mounts or self.links or self.cgroups)

    def __str__(self) -> str:
        return (
            f"{len(self.processes)} processes, {len(self.mounts)} mounts, "
            f"{len(self.links)} links, {len(self.cgroups)} cgroups"
        )


def find(paths: StatePaths, state: State | None) -> Leftovers:
    """Look at the whole machine for parts of this clone's cluster."""
    return Leftovers(
        processes=processes_of(paths, state),
        mounts=[line for line in _mounts() if str(paths.run) in line],
        links=_links(),
        cgroups=[str(path) for path in cgroups.folders(paths.cgroup)],
    )


def remove(paths: StatePaths, state: State | None) -> Leftovers:
    """End and remove everything; returns what would not go. Harmless where nothing is left.

    Only for the holder of the cluster's lock.
    """
    deadline = time.monotonic() + END_TIMEOUT_S
    while remaining := processes_of(paths, state):
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    cgroups.remove(paths.cgroup)
    left = find(paths, state)
    if not left.mounts:  # never delete through a mount
        shutil.rmtree(paths.run, ignore_errors=True)
    paths.control_socket.unlink(missing_ok=True)
    return left


def processes_of(paths: StatePaths, state: State | None) -> list[int]:
    """Every process in the cluster's cgroups, and in its namespaces those that name its folder.

    A state may be an old one, and the kernel gives the number of a namespace that is gone to a new
    one: of another cluster, say.
    """
    found = set(cgroups.processes(paths.cgroup))
    if state is not None:
        wanted = {("pid", state.pid_namespace), ("net", state.network_namespace)}
        for pid in all_pids():
            is_inside = any(inode and namespace(pid, kind) == inode for kind, inode in wanted)
            if is_inside and _names(pid, paths.root):
                found.add(pid)
    return sorted(found - {os.getpid()})


def _names(pid: int, folder: Path) -> bool:
    """Whether a process has the folder, or a path in it, among its arguments or variables."""
    needles = [f"{folder}{end}".encode() for end in ("/", "\0")]
    for file in ("cmdline", "environ"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/{file}").read_bytes()
            if any(needle in text for needle in needles):
                return True
    return False


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _links() -> list[str]:
    """Links of ours outside the cluster's own network: there should never be one.

    Those inside live and die with the processes of that network, which are counted above.
    """
    links = json.loads(run(["ip", "-json", "link", "show"]))
    names = [str(link["ifname"]) for link in links]
    return [name for name in names if name.startswith(LINK_PREFIX)]
