"""containerd: its configuration, its daemon, and calls to its `ctr`.

Each containerd here has a root (images, on disk), a state folder and a socket of its own, so
several run on one machine, beside the machine's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .processes import Daemon, run, wait_until

NAMESPACE = "k8s.io"
READY_TIMEOUT_S = 30.0
CRI = """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {pause}
  restrict_oom_score_adj = true  # lowering it takes a capability that root may lack
  netns_mounts_under_state_dir = true
  max_concurrent_downloads = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_programs}
    conf_dir = {cni_config}
"""


@dataclass(frozen=True)
class Cri:
    """What containerd needs to know to run pods; without it, it only keeps images."""

    pause_image: str
    cni_programs: Path
    cni_config: Path


class Containerd:
    """One containerd."""

    def __init__(
        self,
        name: str,
        *,
        root: Path,
        state: Path,
        logs: Path,
        cri: Cri | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` goes before the command, to run it in a cgroup for example."""
        self.root = root
        self.state = state
        self.socket = state / "containerd.sock"
        self._config = state / "config.toml"
        self._cri = cri
        self.daemon = Daemon(
            name,
            [*prefix, "containerd", "--config", self._config, "--log-level", "warn"],
            logs=logs,
            env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._config.write_text(self._config_text())
        self.daemon.start()
        wait_until(self.daemon.name, self._answers, timeout_s=READY_TIMEOUT_S, needs=[self.daemon])

    def ctr(self, *arguments: str | Path) -> str:
        """Call containerd's command line client on the images that Kubernetes sees."""
        return run(["ctr", "--address", self.socket, "--namespace", NAMESPACE, *arguments])

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            self.ctr("version")
        except Exception:
            return False
        return True

    def _config_text(self) -> str:
        disabled = [] if self._cri else ["io.containerd.grpc.v1.cri"]
        lines = [
            "version = 2",
            f"root = {_quote(self.root)}",
            f"state = {_quote(self.state)}",
            f"disabled_plugins = {json.dumps(disabled)}",
            "[grpc]",
            f"  address = {_quote(self.socket)}",
        ]
        text = "\n".join(lines) + "\n"
        if self._cri:
            text += CRI.format(
                pause=_quote(self._cri.pause_image),
                cni_programs=_quote(self._cri.cni_programs),
                cni_config=_quote(self._cri.cni_config),
            )
        return text


def _quote(value: str | Path) -> str:
    return json.dumps(str(value))  # a JSON string is a TOML string
