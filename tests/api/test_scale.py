"""Many nodes, simulated by kwok: real scheduling, a real Job controller, pods without a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.kwok import LABEL
from tests.kube import ROOT, Namespace, eventually

NODES = 500


@pytest.mark.own_cluster
@pytest.mark.alone
def test_a_job_of_many_nodes_runs_to_its_end(ns: Namespace, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.cluster", "simulate", "60"], cwd=ROOT, check=True, timeout=280
    )
    (tmp_path / "train.py").write_text("pass\n")
    place = ["--node-selector", f"{LABEL}=true", "--toleration", f"{LABEL}=true:NoSchedule"]
    size = ["--nodes", str(NODES), "--gpus", "1", "--name", "big", "--detach"]
    result = ns.kij_train("launch", *size, *place, "train.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    def complete() -> bool:
        return bool(ns.batch.read_namespaced_job("big", ns.name).status.succeeded == NODES)

    assert eventually(complete, within_s=120)
    pods = ns.core.list_namespaced_pod(ns.name).items
    assert {pod.spec.node_name.partition("-")[0] for pod in pods} == {"simulated"}
    ns.delete_job("big")
    assert ns.empties(within_s=60)
