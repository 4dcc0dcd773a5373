"""The benchmark with real ranks on this machine: right results, wrong ones, resuming, gates."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from kij_train import pod
from kij_train.cli.bench import COMMANDS

from tests import commandline

SMALL = ["-b", "1K", "-e", "16K", "-f", "4", "-n", "3"]


def bench(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return commandline.run(folder, "bench", *argv)


RUNS: list[tuple[str, int, list[str]]] = [
    ("allreduce", 2, ["-d", "bfloat16"]),
    ("allgather", 3, []),
    ("reducescatter", 2, ["-o", "max", "-d", "int8"]),
    ("broadcast", 2, []),
    ("alltoall", 2, ["-d", "int64"]),
]


def test_every_collective_is_run() -> None:
    assert {command for command, _, _ in RUNS} == set(COMMANDS)


@pytest.mark.parametrize(("command", "nproc", "more"), RUNS)
def test_every_collective_gives_right_results(
    tmp_path: Path, command: str, nproc: int, more: list[str]
) -> None:
    result = bench(tmp_path, command, "--local", "--nproc-per-node", str(nproc), *SMALL, *more)
    assert result.returncode == 0, result.stderr
    assert "# Out of bounds values : 0 OK" in result.stdout
    assert "#json" not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("     ")]
    assert [len(row) for row in rows[:3]] == [13] * 3


def test_a_sweep_is_one_report_that_can_be_resumed_and_gated(tmp_path: Path) -> None:
    more = ["--env", "WANDB_API_KEY=abcdef", "--env", "GLOO_DEVICE_TRANSPORT=TCP"]
    line = ["allreduce", "--local", *SMALL, *more, "--json", "out.json"]
    first = bench(tmp_path, *line, "--nodes", "1")
    assert first.returncode == 0, first.stderr
    # No variable but those of the backends reaches the report.
    assert "# GLOO_DEVICE_TRANSPORT=TCP" in first.stdout
    assert "abcdef" not in first.stdout + (tmp_path / "out.json").read_text()
    second = bench(tmp_path, *line, "--nodes", "1,2", "--resume", "--min-busbw", "16K:1e6")
    assert second.returncode == 1
    assert "1 nodes: measured already" in second.stderr
    assert "2 nodes 2 ranks 16384 B: busbw" in second.stderr
    assert "is under 1e+06 GB/s" in second.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert [run["nodes"] for run in document["runs"]] == [1, 2]
    report = document["runs"][1]["report"]
    assert [row["size"] for row in report["results"]] == [1024, 4096, 16384]
    assert len(report["results"][0]["ranks"]["times_us"]) == 2
    assert report["kij"]["backend"] == "gloo"
    assert [line["nodes"] for line in document["summary"]] == [1, 2]
    third = bench(tmp_path, *line, "--nodes", "2", "--resume", "-n", "4")
    assert third.returncode == 2
    assert "--resume: out.json has arguments" in third.stderr


def test_one_wrong_element_of_one_rank_is_counted(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(pod.__file__).parent)!r})\n"
        "from collectives import __main__, measuring\n"
        "right = measuring.Run.call\n"
        "def wrong(self, send, receive):\n"
        "    right(self, send, receive)\n"
        "    if self.rank == 1: receive[3] += 1\n"
        "measuring.Run.call = wrong\n"
        "sys.exit(__main__.main(sys.argv[1:]))\n"
    )
    line = ["launch", "--local", "--nproc-per-node", "2", "broken.py"]
    result = commandline.run(tmp_path, *line, *SMALL)
    assert result.returncode == 1
    assert "# Out of bounds values : 3 FAILED" in result.stdout
