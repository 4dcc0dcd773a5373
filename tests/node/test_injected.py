"""What a cluster or an image does to pods that kij-train did not ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube import Namespace, eventually

ENDS = "import sys\nprint('trained', flush=True)\nsys.exit(int(sys.argv[1]))\n"
PROXY = {"name": "proxy", "command": ["python3", "-c", "import time; time.sleep(600)"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(ENDS)
    return tmp_path


def submit_with_proxies(ns: Namespace, project: Path, image: str) -> None:
    """A job as a policy would change it, with a container that never ends before ours."""
    line = ["render", "--name", "a", "--image", image, "--nodes", "2", "--no-torchrun"]
    printed = ns.kij_train(*line, "--grace", "1s", "train.py", "0", cwd=project)
    for body in yaml.safe_load_all(printed.stdout):
        if body["kind"] == "NetworkPolicy":
            ns.networking.create_namespaced_network_policy(ns.name, body)
            continue
        if body["kind"] != "Job":
            kind = "config_map" if body["kind"] == "ConfigMap" else "service"
            getattr(ns.core, f"create_namespaced_{kind}")(ns.name, body)
            continue
        containers: list[dict[str, Any]] = body["spec"]["template"]["spec"]["containers"]
        containers.insert(0, {**PROXY, "image": image})
        ns.batch.create_namespaced_job(ns.name, body)


def test_a_container_that_never_ends_holds_up_the_pods_but_no_verdict(
    ns: Namespace, project: Path, small_image: str
) -> None:
    submit_with_proxies(ns, project, small_image)
    result = ns.kij_train("wait", "a", cwd=project, timeout_s=240)
    assert result.returncode == 0, result.stderr
    assert "a succeeded" in result.stderr
    assert "proxy in them is not kij-train's and has not ended" in result.stderr
    status = json.loads(ns.kij_train("status", "a", "-o", "json", cwd=project).stdout)
    assert {each["phase"] for each in status["indexes"]} == {"done"}
    assert "held-up" in [each["kind"] for each in status["verdict"]["findings"]]
    (listed,) = json.loads(ns.kij_train("list", "-o", "json", cwd=project).stdout)
    assert listed["state"] == status["state"] == "running"
    assert "trained" in ns.kij_train("logs", "a", cwd=project).stdout
    assert ns.kij_train("delete", "a", cwd=project).returncode == 0
    assert ns.empties(60)


def test_an_image_whose_python_is_not_on_its_path_is_told_what_to_do(
    ns: Namespace, project: Path, small_image: str
) -> None:
    line = ["launch", "--image", small_image, "--no-torchrun", "--env"]
    result = ns.kij_train(*line, "PATH=/nowhere", "train.py", "0", cwd=project)
    assert result.returncode == 1
    assert "there is no python3 on the PATH of the image" in result.stderr
    assert "ENTRYPOINT of the image, which pods do not run" in result.stderr
    assert "--env PATH=/opt/venv/bin:" in result.stderr
    found = ns.kij_train(*line, "PATH=/nowhere:/usr/bin", "train.py", "0", cwd=project)
    assert found.returncode == 0, found.stderr
    assert "trained" in found.stdout


def test_code_that_is_missing_is_named_as_that(
    ns: Namespace, project: Path, small_image: str
) -> None:
    line = ["render", "--name", "a", "--image", small_image, "train.py", "0"]
    *_, job = yaml.safe_load_all(ns.kij_train(*line, cwd=project).stdout)
    ns.batch.create_namespaced_job(ns.name, job)
    named = "which carries its code, does not exist"
    assert eventually(lambda: named in ns.kij_train("why", "a", cwd=project).stdout, 60)
    assert "--mount" not in ns.kij_train("why", "a", cwd=project).stdout
