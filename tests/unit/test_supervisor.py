"""The supervisor's files where no torch and no cluster is: what they need, and what they refuse."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kij_train.api import job
from kij_train.pod import contract, gang

CONTRACT = {
    "NODE_RANK": "2",
    "NNODES": "2",
    "NPROC_PER_NODE": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SETTINGS = gang.Settings(
    low=2,
    high=2,
    spares=1,
    peers=["127.0.0.1:1"] * 3,
    max_restarts=1,
    backoff_limit=1,
)


def run(folder: Path, **env: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The supervisor, without packages; its verdict."""
    record = folder / "record"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(gang.SUPERVISOR), "train.py"],
        env={"PATH": os.defpath, "TORCHELASTIC_ERROR_FILE": str(record), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, json.loads(record.read_text())["message"]["message"]


@pytest.mark.parametrize("file", gang.FILES, ids=lambda file: file.name)
def test_python_3_8_reads_it(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"low": 2}', "no json"])
def test_settings_that_are_not_there_are_named(tmp_path: Path, text: str) -> None:
    done, message = run(tmp_path, **CONTRACT, KIJ_GANG=text)
    assert done.returncode == contract.EXIT_CONTRACT, done.stderr
    assert f"KIJ_GANG={text!r} does not say how the job restarts" in message
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"NODE_RANK": "3"}, "NODE_RANK='3' is no number from 0 to 2"),
        ({"WORLD_SIZE": "3"}, "WORLD_SIZE='3', not 2"),
        ({"WORLD_SIZE": ""}, "not set or empty: WORLD_SIZE"),
        ({"NPROC_PER_NODE": "x"}, "WORLD_SIZE"),
        ({"MASTER_ADDR": ""}, "not set or empty: MASTER_ADDR"),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, wrong: dict[str, str], said: str) -> None:
    done, message = run(tmp_path, **{**CONTRACT, **wrong}, KIJ_GANG=json.dumps(SETTINGS._asdict()))
    assert done.returncode == contract.EXIT_CONTRACT, done.stderr
    assert said in message
    assert "Traceback" not in done.stderr


def test_the_spare_is_one_more_than_the_nodes(tmp_path: Path) -> None:
    """Index 2 of two nodes is fine; what is missing is torch."""
    port = 29700 + os.getpid() % 1000
    peers = [f"127.0.0.1:{port + each}" for each in range(3)]
    settings = SETTINGS._replace(peers=peers)
    done, message = run(tmp_path, **CONTRACT, KIJ_GANG=json.dumps(settings._asdict()))
    assert done.returncode == contract.EXIT_CONTRACT, done.stderr
    assert "index 2 of 2 and 1 spare" in done.stderr
    assert f"torch cannot be imported by {sys.executable}" in message


def test_addresses() -> None:
    one = SETTINGS._replace(peers=["job-{}.job:29502"])
    assert one.address(7) == ("job-7.job", 29502)
    assert SETTINGS._replace(peers=["a:1", "b:2"]).address(1) == ("b", 2)


def test_supervisors_are_told_what_the_spec_says() -> None:
    spec = job("train.py", nodes=3, min_nodes=2, restart="elastic", grace="5s", hang_timeout="1m")
    told = spec.gang_settings(["a-{}.a:1"], 7)
    assert (told.low, told.high, told.backoff_limit) == (2, 3, 7)
    assert (told.grace_s, told.hang_timeout_s, told.first_sign_s) == (5, 60, 600)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_ranks_that_are_forked_anew_hold_no_connection_open() -> None:
    """Others would take a supervisor that has hung up for one that is there."""
    code = f"""
import runpy, socket
runpy.run_path({str(gang.SUPERVISOR)!r})
from kij_train.pod.gang import ranks
kept, other = socket.socketpair()
ranks._close_sockets(but=kept.fileno())
kept.getpeername()
try:
    other.getpeername()
except OSError:
    print("closed")
other.detach()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "closed\n"
