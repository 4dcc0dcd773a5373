"""The cluster of tests/cluster itself: a second one beside it, killed, started again, gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import cgroups
from tests.cluster.paths import StatePaths
from tests.cluster.processes import all_pids, namespace
from tests.cluster.state import State
from tests.kube import ROOT, eventually

pytestmark = [pytest.mark.own_cluster, pytest.mark.alone]


class SecondCluster:
    """A cluster with a state folder of its own, as another clone would have."""

    def __init__(self, folder: str) -> None:
        self.paths = StatePaths(Path(folder))
        self._env = {**os.environ, "KIJ_TEST_STATE": folder, "SHELL": "/bin/true"}
        first = State.of_running(StatePaths.of_this_clone())
        assert first is not None, "conftest.py has seen to it"
        # Out of the first cluster's network, which its supervisor is not in.
        self._out = ["nsenter", "--target", str(first.supervisor_pid), "--net", "--"]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [*self._out, sys.executable, "-m", "tests.cluster", *words]
        return subprocess.run(
            line, cwd=ROOT, env=self._env, text=True, capture_output=True, check=False, timeout=200
        )

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.command("status", "--json").stdout))


@pytest.fixture
def second() -> Iterator[SecondCluster]:
    # Not tmp_path: a socket's path has at most 107 characters.
    folder = tempfile.mkdtemp(prefix="kij-second-")
    cluster = SecondCluster(folder)
    yield cluster
    cluster.command("down")
    shutil.rmtree(folder)


@pytest.mark.slow  # two more clusters; each run of CI starts one and takes it down
def test_a_killed_cluster_leaves_nothing_that_hinders_the_next(second: SecondCluster) -> None:
    up = second.command("up", "--detach")
    assert up.returncode == 0, up.stdout
    state = second.status()
    assert len(state["nodes"]) == 2
    os.kill(state["supervisor_pid"], signal.SIGKILL)
    net = state["network_namespace"]
    assert eventually(lambda: not [pid for pid in all_pids() if namespace(pid, "net") == net], 20)
    assert second.command("status").returncode == 1

    again = second.command("up", "--detach")
    assert again.returncode == 0, again.stdout
    nodes = second.command("exec", "--", "kubectl", "get", "nodes", "-o", "name")
    assert nodes.stdout.split() == ["node/node-1", "node/node-2"]
    reused = second.command("up", "--detach")
    assert "using the cluster that another `up` has started" in reused.stdout
    assert "--mount pvc:ckpt:/out" in second.command("shell").stdout
    claim = ("exec", "--", "kubectl", "get", "pvc", "ckpt", "-o", "jsonpath={.status.phase}")
    assert eventually(lambda: second.command(*claim).stdout == "Bound", 20)

    down = second.command("down")
    assert down.stdout == "down: 0 processes, 0 mounts, 0 links, 0 cgroups left\n"
    assert not cgroups.folders(second.paths.cgroup)
    assert str(second.paths.root) not in Path("/proc/self/mountinfo").read_text()


def test_a_command_without_a_cluster_says_what_to_do(second: SecondCluster) -> None:
    failed = second.command("exec", "--", "true")
    assert failed.returncode == 1
    assert "no cluster is running" in failed.stderr
    assert "up --detach" in failed.stderr
