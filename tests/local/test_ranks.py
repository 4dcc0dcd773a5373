"""Ranks under real torchrun on this machine: last words, crashes, orphans, and a quiet end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kij_train.local.machine import free_port
from kij_train.pod import bootstrap, records

from tests.local.test_local import launch
from tests.mainprogram import ORPHANS


def contract(rank: int, nodes: int, port: int, record: Path) -> dict[str, str]:
    """The environment of a node's first process."""
    return {
        **os.environ,
        "NODE_RANK": str(rank),
        "NNODES": str(nodes),
        "NPROC_PER_NODE": "1",
        "WORLD_SIZE": str(nodes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_ERROR_FILE": str(record),
    }


@pytest.mark.parametrize("restart", ["never", "gang"])
def test_a_rank_that_crashes_is_told_with_its_last_words_and_its_stack(
    tmp_path: Path, restart: str
) -> None:
    (tmp_path / "train.py").write_text(
        "import os, signal, sys, time\n"
        "def kernel():\n"
        "    sys.stdout.write('calling the kernel ...')\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if os.environ['RANK'] == '1': kernel()\n"
        "time.sleep(600)\n"
    )
    flags = ["--restart", restart, "--max-restarts", "0"] if restart == "gang" else []
    result = launch(tmp_path, *flags, "--nproc-per-node", "2", "train.py")
    assert result.returncode == 1
    assert result.stdout == "calling the kernel ...\n"
    said, verdict = result.stderr.split(" failed after ")
    assert "Fatal Python error: Segmentation fault" in said
    assert "rank 1 was killed by SIGSEGV" in verdict
    assert f'File "{tmp_path}/train.py", line 4, in kernel' in verdict


def test_a_job_that_starts_again_finds_its_name(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, sys\n"
        "print(os.environ['KIJ_JOB'], os.environ['TORCHELASTIC_RUN_ID'])\n"
        "sys.exit('restarts' if os.environ.get('KIJ_RESTARTS') == '0' else 0)\n"
    )
    result = launch(tmp_path, "--restart", "gang", "--name", "run-7", "train.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "run-7 run-7\n" * 2


BARRIER = """
import os, signal, time
if os.environ["RANK"] == "1":
    open("rank1", "w").write(str(os.getpid()))
else:
    while not os.path.exists("rank1") or not open("rank1").read():
        time.sleep(0.1)
    other = "/proc/" + open("rank1").read()
    while os.path.exists(other):
        time.sleep(0.1)
    time.sleep(1)  # by then its agent waits for this one
    os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_agent_whose_ranks_are_done_makes_no_noise_when_the_store_goes_first(
    tmp_path: Path,
) -> None:
    """The agent of rank 0, which has the store, may end before the others have heard it."""
    (tmp_path / "train.py").write_text(BARRIER)
    port = free_port()
    nodes = [
        subprocess.Popen(
            [sys.executable, "-u", bootstrap.__file__, "train.py"],
            cwd=tmp_path,
            env=contract(rank, 2, port, tmp_path / f"record{rank}"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [-signal.SIGKILL, 0], said
    assert said[1].splitlines()[1:] == []


AS_PID_1 = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_be_pid_1() -> bool:
    try:
        return subprocess.run([*AS_PID_1, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_be_pid_1(), reason="makes a process namespace, as root")
def test_a_pods_first_process_reaps_orphans_and_gives_torchruns_exit_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(ORPHANS + "raise SystemExit(3)")
    result = subprocess.run(
        [*AS_PID_1, sys.executable, "-u", bootstrap.__file__, "train.py"],
        cwd=tmp_path,
        env=contract(0, 1, free_port(), tmp_path / "record"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "zombies 0\n"), result.stderr
    assert records.read_record(str(tmp_path / "record"))["kij"]["exit_code"] == 3


@pytest.mark.skipif(not can_be_pid_1(), reason="makes a process namespace, as root")
def test_sigterm_reaches_the_ranks_through_a_pods_first_process(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\n"
        "print('ready')\n"
        "os.kill(1, signal.SIGTERM)\n"
        "signal.pause()\n"
    )
    result = subprocess.run(
        [*AS_PID_1, sys.executable, "-u", bootstrap.__file__, "train.py"],
        cwd=tmp_path,
        env=contract(0, 1, free_port(), tmp_path / "record"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.stdout == "ready\nsaved\n", result.stderr
    assert result.returncode == 128 + signal.SIGTERM
