"""A trial of several nodes on this machine: processes that end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NODES = """
import json, os, sys, time
from kij_train.pod import contract, itemnodes

def run(argv):
    rank = int(os.environ["NODE_RANK"])
    for number in range(20):
        os.write(1, b"%d of " % rank)
        os.write(1, b"line %d\\n" % number)
    if argv[0] == "well":
        return 0
    if rank == 1 and argv[0] == "bad":
        with open(contract.error_file(), "w") as file:
            json.dump("one is bad", file)
        return 7
    open(f"waits-{rank}", "w").close()
    time.sleep(60)
    return 0

sys.exit(itemnodes.run_nodes(run, sys.argv[1:], 3))
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json"),
        "KIJ_SCRATCH_DIR": str(tmp_path),
    }


def test_lines_of_nodes_stay_whole_and_nothing_is_left(tmp_path: Path, env: dict[str, str]) -> None:
    argv = [sys.executable, "-c", NODES, "well"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"{rank} of line {number}" for rank in range(3) for number in range(20)]
    assert sorted(done.stdout.splitlines()) == sorted(expected)
    assert not list(tmp_path.glob("kij-nodes-*"))


def test_the_first_node_that_fails_ends_the_others_and_leaves_its_record(
    tmp_path: Path, env: dict[str, str]
) -> None:
    argv = [sys.executable, "-c", NODES, "bad"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50)
    assert done.returncode == 7
    assert json.loads((tmp_path / "error.json").read_text()) == "one is bad"


def test_a_signal_reaches_every_node(tmp_path: Path, env: dict[str, str]) -> None:
    argv = [sys.executable, "-c", NODES, "waits"]
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 40
        while len(list(tmp_path.glob("waits-*"))) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 128 + signal.SIGTERM
