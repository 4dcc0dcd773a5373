"""The picture of a sweep in docs/sweeps.md: what that page's own command finds on this machine.

python -m tests.sweeppicture
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, PngImagePlugin

from tests.kube import ROOT

PICTURE = ROOT / "docs" / "sweep.png"
COMMAND = "Command"
"""The text of the picture that says what it is of."""


def command() -> str:
    """The first sweep of docs/sweeps.md on this machine."""
    lines = map(str.strip, (ROOT / "docs/sweeps.md").read_text().splitlines())
    return next(line for line in lines if line.startswith("kij-train sweep --local "))


def main() -> int:
    """Sweep, draw, and note the command in the picture."""
    line = command()
    _, sweep, *words = shlex.split(line)
    kij_train = [sys.executable, "-m", "kij_train"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "train_examples", folder / "train_examples")
        drawn = folder / PICTURE.name
        subprocess.run([*kij_train, sweep, "--name", "s", *words], cwd=folder, check=True)
        subprocess.run([*kij_train, "report", "s", "--plot", str(drawn)], cwd=folder, check=True)
        noted = PngImagePlugin.PngInfo()
        noted.add_text(COMMAND, line)
        with Image.open(drawn) as image:
            image.save(PICTURE, pnginfo=noted)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
