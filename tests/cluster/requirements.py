"""What the harness needs from the machine: finding out, and installing what apt can."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .build import go_needed
from .errors import ClusterError
from .paths import cache_dir
from .phases import phase
from .processes import run

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "# kij-train: no service may start while its test cluster's packages are installed"
COLD_DISK_GB = 15
WARM_DISK_GB = 3


@dataclass(frozen=True)
class Requirement:
    """One thing that has to be there."""

    name: str
    met: Callable[[], bool]
    purpose: str
    apt_package: str = ""
    """Empty: apt cannot help."""
    nodes_only: bool = False
    """Whether a control plane alone does without it."""


def cni_folder() -> Path | None:
    """Where the CNI plugins are installed."""
    return next((folder for folder in CNI_FOLDERS if (folder / "bridge").exists()), None)


def requirements() -> list[Requirement]:
    """Everything, the programs first."""
    return [
        _program("unshare", "util-linux", "makes the namespaces"),
        _program("nsenter", "util-linux", "enters them"),
        _program("setpriv", "util-linux", "has the daemons end with their supervisor"),
        _program("openssl", "openssl", "makes the certificates"),
        _program("ip", "iproute2", "sets up the cluster's network"),
        _program("containerd", "containerd", "runs the pods", nodes_only=True),
        _program("runc", "runc", "runs the containers", nodes_only=True),
        _program("debootstrap", "debootstrap", "makes the pods' base image", nodes_only=True),
        Requirement(
            "CNI plugins",
            lambda: cni_folder() is not None,
            "connect the pods",
            "containernetworking-plugins",
            nodes_only=True,
        ),
        Requirement(
            "Python's venv",
            lambda: importlib.util.find_spec("ensurepip") is not None,
            "holds uv, which installs torch into the pods' image",
            "python3-venv",
            nodes_only=True,
        ),
        Requirement("Go", lambda: has("go"), f"builds the daemons ({go_needed()} or later)"),
        Requirement("root", lambda: os.getuid() == 0, "nodes run containers", nodes_only=True),
        Requirement("disk", _enough_disk, f"{COLD_DISK_GB} GB free where the cache is"),
    ]


def missing(*, control_plane_only: bool) -> list[Requirement]:
    """What this machine lacks."""
    return [
        each
        for each in requirements()
        if not (control_plane_only and each.nodes_only) and not each.met()
    ]


def require(*, control_plane_only: bool) -> None:
    """Install what is missing, or say what is and fail."""
    packages = [each.apt_package for each in missing(control_plane_only=control_plane_only)]
    install(sorted({package for package in packages if package}))
    if lacking := missing(control_plane_only=control_plane_only):
        lines = [f"{each.name}: {each.purpose}" for each in lacking]
        raise ClusterError(
            "this machine lacks\n  " + "\n  ".join(lines), hint="see: python -m tests.cluster check"
        )


def install(packages: list[str]) -> None:
    """Install packages of Debian, where that can be done."""
    if packages and os.getuid() == 0 and has("apt-get"):
        with phase(f"apt packages: {' '.join(packages)}"), _no_service_starts():
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run(["apt-get", "update"], env=env)
            run(["apt-get", "install", "-y", "--no-install-recommends", *packages], env=env)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts a service when it is installed, unless this file says no."""
    if POLICY.exists() and POLICY_MARK not in POLICY.read_text():
        yield  # the machine has a policy of its own
        return
    POLICY.write_text(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _program(name: str, package: str, purpose: str, *, nodes_only: bool = False) -> Requirement:
    return Requirement(name, lambda: has(name), purpose, package, nodes_only)


def has(program: str) -> bool:
    """Whether a program is there; root's own folders are not on every user's path."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path) is not None


def _enough_disk() -> bool:
    cache = cache_dir()
    is_warm = any(cache.glob("kube-*"))
    needed = WARM_DISK_GB if is_warm else COLD_DISK_GB
    return shutil.disk_usage(cache).free >= needed * 10**9
