"""The preflight with real ranks: good nodes train, a bad one is named and nothing trains."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import commandline

TRAIN = "print('trained')\n"


def launch(
    folder: Path, *argv: str, custom: str = "", deadline_s: int = 180
) -> subprocess.CompletedProcess[str]:
    """A launch with --preflight, with code that every preflight runs first."""
    (folder / "train.py").write_text(TRAIN)
    (folder / "site").mkdir()
    guard = "import os, sys\nif any(word.endswith('preflight.py') for word in sys.orig_argv):\n    "
    (folder / "site/sitecustomize.py").write_text(guard + (custom or "pass"))
    # What the shell says of it reaches no run.
    soon = ["--env", f"KIJ_PREFLIGHT_DEADLINE_S={deadline_s}"]
    line = ["launch", "--local", "--preflight", *soon, *argv, "train.py"]
    return commandline.run(folder, *line, PYTHONPATH=str(folder / "site"))


SLOW = """\
import time, torch; real = torch.mm
    def slow(*args, **kwargs):
        time.sleep(0.5)
        return real(*args, **kwargs)
    if os.environ['RANK'] == '3': torch.mm = slow
"""
LOST = """\
import torch
    def lost(*args, **kwargs):
        raise RuntimeError('CUDA error: GPU is lost')
    if os.environ['RANK'] == '1': torch.mm = lost
"""


def test_good_nodes_are_said_to_be_good_and_train_and_a_slow_one_is_named(tmp_path: Path) -> None:
    result = launch(tmp_path, "--nodes", "2", "--nproc-per-node", "2", custom=SLOW)
    assert result.returncode == 0, result.stderr
    assert re.search(r"a rank does: matrix product .* GFLOP/s to .*, memory copy ", result.stderr)
    slow = r"index 1 \(rank 3\) on node 1: matrix product 0.\d+ GFLOP/s, \d % of the median, .*"
    assert re.search(slow + r"others may use the same cores", result.stderr)
    assert "preflight: 2 nodes are good, all-reduce of 4 MiB" in result.stderr
    assert result.stdout.count("trained") == 4


@pytest.mark.parametrize(
    ("custom", "said", "deadline_s"),
    [
        (
            "import time; real = time.time\n"
            "    if os.environ['RANK'] == '1': time.time = lambda: real() + 100",
            r"index 1 on node 1: its clock is (99|100)\.\d s off rank 0's",
            180,
        ),
        (
            "if os.environ['RANK'] == '1': import time; time.sleep(600)",
            r"index 1 \(rank 1\) never came, within 15 s",
            15,
        ),
        (LOST, r"index 1 \(rank 1\) on node 1: speed: CUDA error: GPU is lost", 180),
    ],
)
def test_a_bad_node_is_named_and_nothing_trains(
    tmp_path: Path, custom: str, said: str, deadline_s: int
) -> None:
    result = launch(tmp_path, "--nodes", "2", custom=custom, deadline_s=deadline_s)
    assert result.returncode == 1
    assert re.search(f"PreflightError: preflight: {said}", result.stderr), result.stderr
    assert "trained" not in result.stdout
