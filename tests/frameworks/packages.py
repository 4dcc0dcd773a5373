"""The frameworks as a folder for pods, whose image has torch alone."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cluster.rootfs import PYTHON

NAMES = ("accelerate", "hydra-core", "pytorch-lightning", "tqdm", "transformers")
IN_THE_IMAGE = ("torch", "numpy")


def packages(shared: Path) -> Path:
    """In the folder that all nodes share, the versions that this environment has.

    Made once. The cluster has no network, so uv takes them from its cache.
    """
    from uv import find_uv_bin

    wanted = [f"{name}=={version(name)}" for name in NAMES]
    folder = shared / f"frameworks-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}"
    if folder.exists():
        return folder
    part = Path(tempfile.mkdtemp(prefix=folder.name, dir=shared))
    excludes = part / "excludes.txt"
    excludes.write_text("\n".join(IN_THE_IMAGE))
    command = [find_uv_bin(), "pip", "install", "--quiet", "--python-version", PYTHON]
    command += ["--target", str(part), "--excludes", str(excludes), *wanted]
    made = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"{made.stderr}\nrun this once outside of the cluster: {' '.join(command)}")
    part.chmod(0o755)
    with suppress(OSError):  # another process was faster
        part.rename(folder)
    return folder
