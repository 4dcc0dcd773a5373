"""Hangs of real ranks: noticed, the one that holds up the others named, ended or begun again."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import commandline

pytest.importorskip("torch")

HANGS = """\
import os, signal, sys, time
from pathlib import Path
import torch, torch.distributed as dist

def load(step):
    if step == 5 and rank == 1 and int(os.environ["KIJ_RESTARTS"]) < int(sys.argv[1]):
        if sys.argv[2] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)

dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(10):
    load(step)
    dist.all_reduce(torch.ones(1))
    if sys.argv[3] == "file":
        Path(os.environ["KIJ_HEARTBEAT_FILE"]).touch()
    else:
        print("step", step, flush=True)
print("rank", rank, "is done after", os.environ["KIJ_RESTARTS"])
dist.destroy_process_group()
"""


def launch(folder: Path, *argv: str, flags: Sequence[str]) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(HANGS)
    (folder / "tmp").mkdir()
    line = ["launch", "--local", "--restart", "gang", *flags, "train.py", *argv]
    return commandline.run(folder, *line, TMPDIR=str(folder / "tmp"))


def test_ranks_that_hang_begin_again(tmp_path: Path) -> None:
    flags = ("--nodes", "2", "--hang-timeout", "15s", "--max-restarts", "1")
    result = launch(tmp_path, "1", "sleep", "file", flags=flags)
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"no sign of life for 15\.0 s: rank 1 is in load \(train\.py:9\); "
        r"rank 0 is in all_reduce, called in <module> \(train\.py:15\), .* into round 1",
        result.stderr,
    )
    assert result.stdout.count("is done after 1") == 2


@pytest.mark.parametrize(
    ("how", "heartbeat", "what", "stack"),
    [
        ("sleep", "output", r"rank 1 is in load \(train\.py:9\)", "line 9, in load"),
        pytest.param(
            *("stop", "file", r"rank 1 is silent: T \(stopped\)", ""), marks=pytest.mark.slow
        ),
    ],
)
def test_a_hang_too_many_ends_the_job(
    tmp_path: Path, how: str, heartbeat: str, what: str, stack: str
) -> None:
    flags = ["--nproc-per-node", "2", "--hang-timeout", "15s", "--heartbeat", heartbeat]
    result = launch(tmp_path, "1", how, heartbeat, flags=[*flags, "--max-restarts", "0"])
    assert result.returncode == 1
    assert re.search(rf"(?m)^  no sign of life for 15\.0 s: {what}", result.stderr), result.stderr
    assert stack in result.stderr
    assert not list((tmp_path / "tmp").glob("kij-*"))  # though ranks were killed
    assert "rank 0 is in all_reduce, called in <module>" in result.stderr
