"""The benchmark and the preflight in real pods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kube import Namespace


@pytest.mark.parametrize("how", [pytest.param([], marks=pytest.mark.slow), ["--parallel"]])
def test_a_sweep_over_pods_is_one_report_and_leaves_nothing(
    ns: Namespace, tmp_path: Path, image: str, how: list[str]
) -> None:
    result = ns.kij_train(
        "bench",
        "allreduce",
        "--nodes",
        "1,2",
        *how,
        "--image",
        image,
        "-b",
        "1K",
        "-e",
        "64K",
        "-f",
        "8",
        "--json",
        "out.json",
        cwd=tmp_path,
        timeout_s=280,
    )
    assert result.returncode == 0, result.stderr
    assert "#json" not in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert [run["report"]["kij"]["ranks"] for run in document["runs"]] == [1, 2]
    assert sum(row["in_place"]["nwrong"] for row in document["runs"][1]["report"]["results"]) == 0
    assert ns.empties()


def test_the_preflight_runs_in_pods_before_the_training_and_each_pod_is_told_its_role(
    ns: Namespace, tmp_path: Path, image: str
) -> None:
    script = "import os; print('trained', os.environ['RANK'], 'as', os.environ['KIJ_ROLE'])\n"
    (tmp_path / "train.py").write_text(script)
    argv = ["--name", "a", "--roles", "prefill=1,decode=1", "--image", image]
    argv += ["--run-as-user", "1000", "--preflight", "train.py"]
    result = ns.kij_train("launch", *argv, cwd=tmp_path, timeout_s=280)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    assert output.index("a rank does: matrix product") < output.index("2 nodes are good")
    assert output.index("preflight: 2 nodes are good") < output.index("trained")
    logs = ns.kij_train("logs", "a", "--all", cwd=tmp_path).stdout
    assert "trained 0 as prefill" in logs
    assert "trained 1 as decode" in logs
