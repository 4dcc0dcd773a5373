"""What the test cluster's `up` and `down` may end: nothing of another cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.leftovers import processes_of
from tests.cluster.paths import StatePaths
from tests.cluster.processes import namespace
from tests.cluster.state import State

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextmanager
def waiting(*argv: str, **env: str) -> Iterator[int]:
    """A process that names what it is told to, until its input ends."""
    line = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()", *argv]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, env={**os.environ, **env}, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.stdin.close()


def test_an_old_state_whose_namespaces_have_new_owners_ends_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of this test's own namespaces stand for numbers that were given again."""
    root = tmp_path / "kij"
    monkeypatch.setenv("KIJ_TEST_STATE", str(root))
    paths = StatePaths.of_this_clone()
    state = State("stopped", 1, "", False, False)
    state.pid_namespace = namespace(os.getpid(), "pid") or 0
    state.network_namespace = namespace(os.getpid(), "net") or 0
    monkeypatch.delenv("KIJ_TEST_STATE")
    other = tmp_path / "kij-of-another-clone"
    kubeconfig = str(paths.kubeconfig)
    with (
        waiting(KUBECONFIG=f"{other}/run/kubeconfig"),
        waiting(str(other)),
        waiting(KUBECONFIG=kubeconfig) as a_shell,
        waiting(str(root)) as a_daemon,
    ):
        assert processes_of(paths, state) == sorted([a_shell, a_daemon])
