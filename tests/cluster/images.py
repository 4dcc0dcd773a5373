"""Images for a cluster that runs: the base and one layer of files, given to every node."""

from __future__ import annotations

import io
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import cache, oci, rootfs
from .containerd import NAMESPACE
from .paths import CLONE, StatePaths
from .processes import run
from .state import State
from .store import PATH_VARIABLE

SITE = rootfs.SITE
KIJ_TRAIN = """\
#!/usr/bin/python3
import sys

from kij_train.cli import main

sys.exit(main())
"""


def load(paths: StatePaths, name: str, key: str, fill: Callable[[Path], None]) -> str:
    """Have an image on all nodes, and return its name; `fill` puts the files of its own layer.

    One with the same key is not made again.
    """
    image = f"kij-train.test/{name}:{key}"
    state = State.of_running(paths)
    assert state is not None, "a cluster runs"
    lacking = [node for node in state.nodes if not _ctr(paths, node, "ls", "-q", f"name=={image}")]
    if lacking:
        with tempfile.TemporaryDirectory(prefix="kij-train-image-") as scratch:
            files, archive = Path(scratch, "files"), Path(scratch, "image.tar")
            files.mkdir()
            fill(files)
            layers = [oci.Layer("base"), oci.Layer(image, _packed(files))]
            oci.write_archive(archive, image, layers, ("python3",), [PATH_VARIABLE])
            for node in lacking:
                _ctr(paths, node, "import", str(archive))
    return image


def _ctr(paths: StatePaths, node: str, *words: str) -> str:
    socket = paths.node(node) / "containerd" / "containerd.sock"
    return run(["ctr", "--address", socket, "--namespace", NAMESPACE, "images", *words])


def _packed(files: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(files, arcname=".")
    return packed.getvalue()


def packages() -> Path:
    """What kij-train needs, for the Python of the base, in the cache; this takes the network."""
    key = cache.digest(*_requirements(), rootfs.PYTHON, platform.machine())
    return cache.obtain("site", key, _make_packages, what="image: what kij-train needs") / "site"


def _requirements() -> list[str]:
    """The dependencies in pyproject.toml; what reads TOML may be missing here."""
    text = (CLONE / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None, "pyproject.toml lists dependencies"
    return re.findall(r'"(.*)",', listed[1])


def _make_packages(target: Path) -> None:
    run(
        [
            *("nice", rootfs.uv(), "pip", "install", "--quiet", "--target", target / "site"),
            *("--python-version", rootfs.PYTHON, "--link-mode", "copy"),
            *("--python-platform", f"{platform.machine()}-manylinux_2_28"),
            *_requirements(),
        ]
    )


def with_kij_train(paths: StatePaths) -> str:
    """An image with kij-train as it is in this checkout."""
    source = CLONE / "launcher" / "kij_train"
    files = sorted(file for file in source.rglob("*") if file.suffix not in ("", ".pyc"))
    parts = [b"".join((str(file).encode(), file.read_bytes())) for file in files]
    key = cache.digest(str(packages()), KIJ_TRAIN, *parts)

    def fill(layer: Path) -> None:
        site = layer / SITE
        shutil.copytree(packages(), site)
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, site / "kij_train", ignore=skipped)
        program = layer / "usr/local/bin/kij-train"
        program.parent.mkdir(parents=True)
        program.write_text(KIJ_TRAIN)
        program.chmod(0o755)

    return load(paths, "kij-train", key, fill)


def with_program(paths: StatePaths, program: Path) -> str:
    """An image with a program of a part in its PATH."""

    def fill(layer: Path) -> None:
        target = layer / "usr/bin" / program.name
        target.parent.mkdir(parents=True)
        shutil.copy(program, target)

    return load(paths, program.name, cache.digest(str(program)), fill)
