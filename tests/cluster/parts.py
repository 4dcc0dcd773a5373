"""Optional parts: real controllers of other projects, built from the Go module proxy.

No test of `make test` needs one. `python -m tests.cluster build --part NAME` builds it, which takes
minutes and the network; tests inside the cluster's network only find what is there.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import build, cache, requirements
from .errors import ClusterError
from .paths import PACKAGE, cache_dir


@dataclass(frozen=True)
class Part:
    """One module of Go, and what is made of it."""

    module: str
    version: str
    programs: Mapping[str, str]
    """Name → package in the module."""
    keep: tuple[str, ...] = ()
    """Folders of the module that tests read, such as its CRDs."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """File that the served module lacks → the one that serves in its place."""
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """File → a text in it, and what stands there instead."""
    toolchain: str = ""
    """GOTOOLCHAIN, where the module needs a newer Go."""
    calls: tuple[str, ...] = ()
    """Programs that it needs on the machine, of Debian's packages of the same names."""
    adds: Mapping[str, Path] = field(default_factory=dict, repr=False)
    """File that is put into the module → a file of ours."""


PARTS = {
    "argo": Part(
        module="github.com/argoproj/argo-workflows/v4",
        version="v4.0.5",
        programs={"workflow-controller": "./cmd/workflow-controller", "argoexec": "./cmd/argoexec"},
        keep=("manifests/base/crds/full",),
        # What it does holds for any Unix.
        copies={
            "workflow/executor/osspecific/signal_linux.go": (
                "workflow/executor/osspecific/signal_darwin.go"
            )
        },
    ),
    "kueue": Part(
        module="sigs.k8s.io/kueue",
        version="v0.17.0",
        programs={"kueue": "./cmd/kueue"},
        keep=("config/components/crd/bases", "config/components/webhook"),
    ),
    "jobset": Part(
        module="sigs.k8s.io/jobset",
        version="v0.8.2",
        programs={"jobset": "."},
        keep=("config/components/crd/bases", "config/components/webhook"),
    ),
    "trainer": Part(
        module="github.com/kubeflow/trainer/v2",
        version="v2.0.0",
        programs={"trainer": "./cmd/trainer-controller-manager"},
        keep=("manifests/base/crds", "manifests/base/webhook"),
    ),
    "kube-router": Part(
        module="github.com/cloudnativelabs/kube-router/v2",
        version="v2.1.0",
        programs={"kube-router": "./cmd/kube-router"},
        # It sees to the pods of one machine. Here both share a network namespace and its rules, so
        # that one kube-router sees to the pods of both.
        changes={
            "pkg/controllers/netpol/pod.go": (
                "strings.Compare(pod.Status.HostIP, nodeIP) != 0 || !isNetPolActionable(pod)",
                'nodeIP == "" || !isNetPolActionable(pod)',
            )
        },
        calls=("iptables", "ipset"),
    ),
    # Later ones need a newer Go than the rest.
    "karpenter": Part(
        module="sigs.k8s.io/karpenter",
        version="v1.13.0",
        programs={"karpenter": "./kwok"},
        keep=("pkg/apis/crds", "kwok/apis/crds"),
    ),
    "provisioning": Part(
        module="k8s.io/autoscaler/cluster-autoscaler/apis",
        version="v0.0.0-20240830133931-adfbe7e45277",  # the one that Kueue is built with
        programs={},
        keep=("config/crd",),
    ),
    "gpu-operator": Part(
        module="github.com/NVIDIA/gpu-operator",
        version="v0.0.0-20250917190837-d73a0086a6ba",
        programs={},
        keep=("config/crd/bases",),
    ),
    "device-plugin": Part(
        module="github.com/NVIDIA/k8s-device-plugin",
        version="v0.19.3",
        programs={"read-config": "./read-config"},
        adds={"read-config/main.go": PACKAGE / "read_config.go"},
    ),
}


def obtain(name: str) -> Path:
    """The folder of a part: its programs, and the folders that it keeps. Built where it is not."""
    requirements.install([each for each in PARTS[name].calls if not requirements.has(each)])
    return cache.obtain(
        f"part-{name}",
        _key(name),
        lambda target: _make(target, PARTS[name]),
        what=f"{name} {PARTS[name].version}",
        expect="some 10 minutes on 2 cores",
    )


def found(name: str) -> Path:
    """The same, of a part that has been built. Raises ClusterError."""
    path = cache_dir() / f"part-{name}-{_key(name)}"
    if not path.is_dir():
        raise ClusterError(
            f"{name} is not built",
            hint=f"outside of the cluster: python -m tests.cluster build --part {name}",
        )
    return path


def _key(name: str) -> str:
    ours = [path.read_bytes() for path in PARTS[name].adds.values()]
    return cache.digest(repr(PARTS[name]), *ours, build.go_version(), platform.machine())


def _make(target: Path, part: Part) -> None:
    told = build.go("mod", "download", "-json", f"{part.module}@{part.version}")
    served = Path(json.loads(told)["Dir"])
    for folder in part.keep:
        shutil.copytree(served / folder, target / folder)
    # The served folder is read-only, and Go refuses to build with files added to it.
    source = target / "source"
    shutil.copytree(served, source)
    for file in (source, *source.rglob("*")):
        file.chmod(file.stat().st_mode | 0o200)
    for added, ours in part.adds.items():
        (source / added).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours, source / added)
    for lacking, other in part.copies.items():
        if not (source / lacking).exists():
            shutil.copy(source / other, source / lacking)
    for name, (text, instead) in part.changes.items():
        written = (source / name).read_text()
        assert text in written, f"{part.module} {part.version}: {name} has no {text!r}"
        (source / name).write_text(written.replace(text, instead))
    for program, package in part.programs.items():
        flags = ("-trimpath", "-buildvcs=false", "-ldflags", "-s -w")
        build.go(
            *("build", *flags, "-o", str(target / program), package),
            cwd=source,
            cgo=False,
            toolchain=part.toolchain,
        )
    shutil.rmtree(source)
