"""The contents of the pods' images, as folders of files: Debian with Python, and torch on top.

Everything is readable by every user, so that pods may run as any.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from . import cache
from .paths import PACKAGE
from .phases import phase
from .processes import run

DEBIAN = "bookworm"
PYTHON = "3.11"
"""The Python of that Debian; torch is installed for it from outside."""
TORCH = "2.15.0"
NUMPY = "2.4.6"
UV = "0.13.9"
NOT_FOR_CPU = ("triton", "cuda-bindings", "cuda-pathfinder", "nvidia-cusolver", "nvidia-nvtx")
"""What torch asks for, but neither loads at import nor uses to train on CPUs."""
SITE = Path("usr/lib/python3/dist-packages")
SELF_TEST = PACKAGE / "image_selftest.py"

TORCHRUN = """\
#!/usr/bin/python3
import sys

from torch.distributed.run import main

sys.exit(main())
"""
TRIAL = """\
hostname localhost
ip link set lo up
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec nice timeout 120 chroot "$0" /usr/bin/env -i HOME=/tmp GLOO_SOCKET_IFNAME=lo \\
    PATH=/usr/local/bin:/usr/bin:/bin \\
    torchrun --master-addr=127.0.0.1 --nnodes=1 --nproc-per-node=1 "$1"
"""
HOSTS = "127.0.0.1 localhost\n"
# Documentation is a fifth of the image and dpkg's fsyncs are half of the time it takes.
DPKG_CONFIG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
"""


def recipe() -> list[str]:
    """Everything that decides what is in the images; the store's key is made from it."""
    return [
        *(DEBIAN, PYTHON, TORCH, NUMPY, UV, *NOT_FOR_CPU, TORCHRUN, DPKG_CONFIG, HOSTS),
        *(SELF_TEST.read_text(), platform.machine()),
    ]


def base() -> Path:
    """A cached folder with a minimal Debian and its Python."""
    key = cache.digest(DEBIAN, DPKG_CONFIG, HOSTS, platform.machine())
    what = "image: Debian with Python"
    return cache.obtain("base", key, _make_base, what=what, expect="a minute") / "rootfs"


def _make_base(target: Path) -> None:
    rootfs = target / "rootfs"
    config = rootfs / "etc/dpkg/dpkg.cfg.d/kij-train"
    config.parent.mkdir(parents=True)
    config.write_text(DPKG_CONFIG)
    # A mount namespace of its own: debootstrap mounts /proc there and may die before unmounting.
    run(
        [
            *("unshare", "--mount", "--", "nice", "debootstrap", "--variant=minbase"),
            *("--include=python3", DEBIAN, str(rootfs), *_machines_own_mirror()),
        ]
    )
    for scrap in ("var/cache/apt", "var/lib/apt/lists", "var/log", "debootstrap"):
        shutil.rmtree(rootfs / scrap, ignore_errors=True)
    for machines_own in ("etc/resolv.conf", "etc/hostname"):
        (rootfs / machines_own).unlink(missing_ok=True)
    (rootfs / "etc/hosts").write_text(HOSTS)
    (rootfs / "usr/local/bin/python").symlink_to("/usr/bin/python3")


def fill_base(layer: Path) -> None:
    """Put the base into an image layer, by hard links."""
    run(["cp", "--archive", "--link", f"{base()}/.", layer])


def fill_torch(layer: Path) -> None:
    """Put torch and numpy into an image layer.

    uv links the files from its own cache, so where a clone of this project has installed torch
    this takes a second and no disk.
    """
    site = layer / SITE
    site.mkdir(parents=True)
    with phase(f"image: torch {TORCH}", expect="minutes if it has to be downloaded"):
        overrides = layer / "overrides.txt"
        overrides.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in NOT_FOR_CPU))
        run(
            [
                *("nice", uv(), "pip", "install", "--quiet", "--target", site),
                *("--python-version", PYTHON, "--link-mode", "hardlink"),
                *("--python-platform", f"{platform.machine()}-manylinux_2_28"),
                *("--overrides", overrides, f"torch=={TORCH}", f"numpy=={NUMPY}"),
            ]
        )
        overrides.unlink()
    shutil.rmtree(site / "bin", ignore_errors=True)  # for another Python
    torchrun = layer / "usr/local/bin/torchrun"
    torchrun.parent.mkdir(parents=True)
    torchrun.write_text(TORCHRUN)
    torchrun.chmod(0o755)


def fit_torch(layer: Path, image: Path) -> None:
    """Try the torch image, mounted at `image`; fits the layer, its topmost, to what was used.

    The trial trains a step under torchrun. It leaves compiled bytecode in the layer, which saves
    every pod some seconds, and tells which CUDA libraries are loaded at all: the rest goes.
    """
    script = Path("tmp") / SELF_TEST.name
    shutil.copyfile(SELF_TEST, image / script)
    with phase("image: trial of torch"):
        said = run(
            [
                *("unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--"),
                *("sh", "-ec", TRIAL, image, f"/{script}"),
            ]
        )
    loaded = {line.partition("loaded ")[2] for line in said.splitlines() if "loaded " in line}
    (image / script).unlink()
    for library in layer.joinpath(SITE, "nvidia").rglob("*.so*"):
        if str(Path("/") / library.relative_to(layer)) not in loaded:
            library.unlink()


def uv() -> Path:
    """A private uv: an older one on the machine may not know these options."""
    key = cache.digest(UV, sys.version)
    return cache.obtain("uv", key, _make_uv, what="uv") / "venv/bin/uv"


def _make_uv(target: Path) -> None:
    venv = target / "venv"
    run([sys.executable, "-m", "venv", venv])
    run([venv / "bin/python", "-m", "pip", "install", "--quiet", f"uv=={UV}"])


def _machines_own_mirror() -> list[str]:
    """The mirror that this machine's apt uses for the same Debian, if it does."""
    if shutil.which("apt-get") is None:
        return []
    condition = ["Created-By: Packages", f"Codename: {DEBIAN}", "Component: main"]
    mirrors = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", *condition]).split()
    return mirrors[:1]
