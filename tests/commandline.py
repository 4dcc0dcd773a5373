"""The command line as a user has it: a process in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KIJ_TRAIN = [sys.executable, "-m", "kij_train"]


def run(folder: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`kij-train ARGV` in a folder, to its end; `env` is added to this environment."""
    return subprocess.run(
        [*KIJ_TRAIN, *argv],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def running(folder: Path, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """`kij-train ARGV` in the background, killed at the end if it is still there."""
    with subprocess.Popen(
        [*KIJ_TRAIN, *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
