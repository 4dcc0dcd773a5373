"""Where the harness keeps its files.

Two places, and no other is written to:

- the state folder, one for every clone and user, with what one running cluster needs; its path
  is short, because the sockets in it may have 107 characters at most;
- the cache, shared by all clones of a user, with what is expensive to make.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

PACKAGE = Path(__file__).resolve().parent
CLONE = PACKAGE.parent.parent
GO_MODULE = PACKAGE / "go"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def cache_dir() -> Path:
    """The cache's folder; made if it is not there."""
    chosen = os.environ.get("KIJ_TEST_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        chosen = str(Path(base) / "kij-train")
    path = Path(chosen)
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class StatePaths:
    """The files of one clone's cluster."""

    root: Path

    @classmethod
    def of_this_clone(cls) -> StatePaths:
        """The state folder of this clone.

        Its name is of the clone and the user, so two clones on one machine never share it. It lies
        in a folder that everyone may write to, so one that someone else made is refused.
        """
        chosen = os.environ.get("KIJ_TEST_STATE")
        name = f"kij-train-{_short(f'{os.getuid()}:{CLONE}')}"
        root = Path(chosen or Path(tempfile.gettempdir()) / name)
        root.mkdir(mode=0o700, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise ClusterError(
                f"{root} belongs to someone else",
                hint="remove it, or name another folder in KIJ_TEST_STATE",
            )
        return cls(root)

    @property
    def cgroup(self) -> str:
        """The name of the cgroup, in every hierarchy, that holds all nodes of this cluster."""
        return f"kij-train-{_short(str(self.root))}"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "lock"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "up.log"

    @property
    def logs(self) -> Path:
        """One file a daemon; they outlive the cluster, so that a failure can be read."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Everything else of a running cluster; gone when it is down."""
        return self.root / "run"

    @property
    def plan(self) -> Path:
        return self.run / "plan.json"

    @property
    def pki(self) -> Path:
        return self.run / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; commands outside the namespaces are told this one."""
        return self.run / "kubeconfig"

    @property
    def shared(self) -> Path:
        """A folder that pods on every node may mount as a hostPath, as shared storage."""
        return self.run / "shared"

    def node(self, name: str) -> Path:
        """The disk of one node."""
        return self.run / "nodes" / name
