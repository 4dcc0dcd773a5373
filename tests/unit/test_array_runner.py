"""A runner of an array on this machine: whether something has ended it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kij_train.local.array import _Runner

from tests.kube import eventually

WAITS = "import sys; sys.stdin.read()"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("is_reaped", [False, True])
@pytest.mark.parametrize(("program", "killed"), [(DIES, True), ("", False)])
def test_a_runner_that_a_signal_ends_is_known_before_anybody_has_waited_for_it(
    program: str, killed: bool, is_reaped: bool
) -> None:
    """What it has said in the middle is no end of an index then."""
    with subprocess.Popen([sys.executable, "-S", "-c", program]) as process:
        runner = _Runner(0, process)
        if is_reaped:
            process.wait()
        if killed:
            assert eventually(runner.was_killed, 30)
        process.wait()
        assert runner.was_killed() is killed


def test_a_runner_that_runs_was_not_killed() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", WAITS], stdin=subprocess.PIPE) as process:
        assert not _Runner(0, process).was_killed()
        assert process.poll() is None
