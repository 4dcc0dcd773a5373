"""The folders of a local run, one for each index: `.kij-train/runs/NAME/INDEX`, where it works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BASE = Path(".kij-train", "runs")


@contextmanager
def run_dirs(cwd: Path, name: str, scratch: Path) -> Iterator[Path]:
    """The folder for those of a run. In the end, those with nothing in them are removed.

    Where nothing can be written in `cwd`, they are in `scratch`, which goes with the run.
    """
    if not os.access(cwd, os.W_OK):
        yield scratch / "run"
        return
    mine = cwd / BASE / name
    try:
        yield mine
    finally:
        with suppress(OSError):  # it keeps something, or another run does
            for folder in mine.iterdir():
                with suppress(OSError):
                    folder.rmdir()
            for folder in (mine, mine.parent, mine.parent.parent):
                folder.rmdir()
        ignores = cwd / BASE.parent / ".gitignore"
        if mine.exists() and not ignores.exists():
            with suppress(OSError):
                ignores.write_text("*\n")
