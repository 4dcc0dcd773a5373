"""Ctrl-C before a command has begun: nothing is to be undone, and nothing to be explained."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))
sys.meta_path.insert(0, Finder())
from kij_train.cli import main
sys.exit(main(sys.argv[3:]))
"""


def interrupted(at_import_of: str, handler: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", INTERRUPTED, at_import_of, handler, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "module", ["kij_train.cli.app", "click", "kij_train.cli.launch", "pydantic", "kij_train.local"]
)
def test_ctrl_c_while_modules_are_imported_ends_without_a_word(module: str) -> None:
    done = interrupted(module, "default_int_handler", "launch", "--local", "none.py")
    assert done.returncode in (-signal.SIGINT, 130)
    assert (done.stdout, done.stderr.strip()) == ("", "")


def test_a_ctrl_c_that_is_ignored_stays_so_while_modules_are_imported() -> None:
    done = interrupted("click", "SIG_IGN", "version")
    assert (done.returncode, done.stderr) == (0, "")
