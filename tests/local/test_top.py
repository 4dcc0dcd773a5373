"""`kij-train top --local` on real ranks: their steps, and the one that the others wait for."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import run, running

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STRAGGLES = """\
import os, pathlib, time
import torch, torch.distributed as dist

dist.init_process_group("gloo")
rank, beat = dist.get_rank(), pathlib.Path(os.environ["KIJ_HEARTBEAT_FILE"])
for step in range(1, 10_000):
    time.sleep(1.5 if rank == 1 else 0.5)
    beat.write_text(str(step))
    dist.all_reduce(torch.ones(1))
"""


def test_the_rank_that_holds_up_the_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(STRAGGLES)

    def look(seconds: int) -> dict[str, Any] | None:
        flags = ("--local", "-o", "json", "--interval", "1s", "--for", f"{seconds}s")
        result = run(tmp_path, "top", "slowly", *flags)
        return json.loads(result.stdout) if result.returncode == 0 else None

    with running(tmp_path, "launch", "--local", "--name", "slowly", "--nodes", "3", "train.py"):
        deadline, said = time.monotonic() + 180, None
        while time.monotonic() < deadline and not (said and said["findings"]):
            said = look(20)
    assert said is not None
    assert [pod["index"] for pod in said["pods"]] == [0, 1, 2]
    assert any(finding.startswith("slow: rank 1 (index 1):") for finding in said["findings"])
    (slow,) = said["pods"][1]["ranks"]
    assert slow["lateSeconds"] == pytest.approx(1.0, rel=0.5)
    assert all(pod["ranks"][0]["memoryBytes"] > 10**7 for pod in said["pods"])


def test_the_log_of_a_job_that_restarts_names_the_slow_rank_and_its_end_says_so(
    tmp_path: Path,
) -> None:
    script = STRAGGLES.replace("10_000", "20") + "dist.destroy_process_group()\n"
    (tmp_path / "train.py").write_text(script)
    result = run(tmp_path, "launch", "--local", "--restart", "gang", "--nodes", "2", "train.py")
    assert result.returncode == 0, result.stderr
    assert "rank 1 (index 1 on node 1) is slow: " in result.stderr
    assert "later than the median in each step of " in result.stderr
    (end,) = [line for line in result.stderr.splitlines() if "the job trained" in line]
    assert "; rank 1 (index 1 on node 1) was slow for " in end
