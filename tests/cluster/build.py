"""The programs that are built from Go source: the daemons, the pods' pause process, and kwok."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from . import cache
from .errors import ClusterError
from .paths import GO_MODULE
from .processes import run

KWOK = "sigs.k8s.io/kwok/cmd/kwok@v0.8.0"
PROGRAMS = ("coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_PROGRAMS = ("kubelet", "kubectl")


def kubernetes_version() -> str:
    """The Kubernetes that is built, such as `1.37.2`: the one that go.mod requires."""
    found = re.search(r"k8s\.io/kubernetes v(\S+)", (GO_MODULE / "go.mod").read_text())
    assert found is not None, "go.mod requires k8s.io/kubernetes"
    return found.group(1)


def daemons_key() -> str:
    """Changes with the module's files and with the compiler."""
    sources = sorted(path for path in GO_MODULE.rglob("*") if path.is_file())
    parts: list[str | bytes] = [go_version(), platform.machine()]
    for path in sources:
        parts += [str(path.relative_to(GO_MODULE)), path.read_bytes()]
    return cache.digest(*parts)


def daemons() -> Path:
    """The folder with one link a daemon, all to the one binary, and with `pause`."""
    return cache.obtain(
        "kube",
        daemons_key(),
        _build_daemons,
        what=f"Go binary, Kubernetes {kubernetes_version()}",
        expect="some 8 minutes on 2 cores",
    )


def kwok() -> Path:
    """The program that simulates nodes."""
    key = cache.digest(KWOK, go_version(), platform.machine())
    return cache.obtain("kwok", key, _build_kwok, what="kwok", expect="a minute or two") / "kwok"


def _build_daemons(target: Path) -> None:
    version = kubernetes_version()
    major, minor, _ = version.split(".")
    stamp = "k8s.io/component-base/version.git"  # without it the server calls itself v0.0.0
    flags = f"-s -w -X {stamp}Version=v{version} -X {stamp}Major={major} -X {stamp}Minor={minor}"
    go("build", "-trimpath", "-ldflags", flags, "-o", str(target / "kube"), ".")
    go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(target / "pause"), "./pause", cgo=False)
    for name in (*PROGRAMS, *NODE_PROGRAMS):
        (target / name).symlink_to("kube")


def _build_kwok(target: Path) -> None:
    go("install", "-trimpath", "-ldflags", "-s -w", KWOK, gobin=target)


def go_version() -> str:
    """The compiler's."""
    return go("env", "GOVERSION")


def go(
    *arguments: str,
    cwd: Path = GO_MODULE,
    cgo: bool = True,
    gobin: Path | None = None,
    toolchain: str = "",
) -> str:
    """Run Go, niced, and return what it prints. Raises ClusterError."""
    env = dict(os.environ)
    if not cgo:
        env["CGO_ENABLED"] = "0"
    if gobin is not None:
        env["GOBIN"] = str(gobin)
    if toolchain:
        env["GOTOOLCHAIN"] = toolchain
    try:
        return run(["nice", "go", *arguments], cwd=cwd, env=env).strip()
    except FileNotFoundError as missing:
        raise ClusterError("Go is not installed", hint=f"needs {go_needed()}") from missing


def go_needed() -> str:
    """The Go that the module asks for, such as `go 1.26.0`."""
    found = re.search(r"^go \S+", (GO_MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, "go.mod names its Go version"
    return found.group(0)
