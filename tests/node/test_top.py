"""`kij-train top` on real pods, of a job without supervisors."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.kube import ROOT, Namespace, eventually
from tests.local.test_top import STRAGGLES


def test_ranks_in_pods_are_looked_at_and_the_slow_one_is_named(
    ns: Namespace, image: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(STRAGGLES)
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", rules, tmp_path)
    flags = ["--image", image, "--nodes", "2", "--cpu", "1", "--memory", "1Gi"]
    launched = ns.kij_train("launch", "--detach", "--name", "a", *flags, "train.py", cwd=project)
    assert launched.returncode == 0, launched.stderr

    def slow() -> bool:
        line = ["top", "a", "-o", "json", "--interval", "1s", "--for", "20s"]
        result = ns.kij_train(*line, cwd=project, kubeconfig=config)
        if result.returncode != 0:
            return False
        said = json.loads(result.stdout)
        (project / "said.json").write_text(result.stdout)
        return any(one.startswith("slow: rank 1 (index 1 on ") for one in said["findings"])

    assert eventually(slow, 240)
    first, second = json.loads((project / "said.json").read_text())["pods"]
    assert [rank["rank"] for pod in (first, second) for rank in pod["ranks"]] == [0, 1]
    assert first["memoryLimitBytes"] == 1 << 30
    assert 0 < first["memoryBytes"] < 1 << 30
    assert first["cores"] is not None
    assert second["ranks"][0]["stepsPerSecond"] is not None
    table = ns.kij_train("top", "a", "--interval", "1s", cwd=project, kubeconfig=config).stdout
    header, *rows = table.splitlines()
    assert header.split()[:3] == ["RANK", "CPU", "MEM"]
    assert [row.split()[0] for row in rows[:2]] == ["0/0", "1/1"]
