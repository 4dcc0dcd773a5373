"""Nodes that the real Karpenter buys, with its kwok provider in place of a cloud."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests import controllers
from tests.cluster import parts
from tests.cluster.kwok import LABEL as SIMULATED
from tests.cluster.paths import StatePaths
from tests.cluster.processes import wait_until
from tests.cluster.state import State
from tests.goldens import ROOT
from tests.kube import Namespace, eventually
from tests.operators import apply, install_crds, kubectl

# It speaks of every pod that waits, also those of other tests.
pytestmark = [pytest.mark.controllers, pytest.mark.own_cluster, pytest.mark.alone]

RECIPES = ROOT / "manifests" / "recipes"
PORT = 9673
NEVER = "10h"
TYPE = "gpu-8"
TYPES = [
    {
        "name": TYPE,
        "offerings": [
            {
                "Price": 1.0,
                "Available": True,
                "Requirements": [
                    {"key": key, "operator": "In", "values": [value]}
                    for key, value in (
                        ("karpenter.sh/capacity-type", "spot"),
                        ("topology.kubernetes.io/zone", "us-east-1a"),
                    )
                ],
            }
        ],
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "resources": {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"},
    }
]
Object = dict[str, Any]


def pool(recipe: str, name: str, delay: str, gpus: int) -> list[Object]:
    """The NodePool of a recipe, with simulated machines that come after a delay."""
    group = "karpenter.kwok.sh"
    node_class = {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "KWOKNodeClass",
        "metadata": {"name": name},
        "spec": {"nodeRegistrationDelay": delay},
    }
    body = yaml.safe_load((RECIPES / recipe).read_text())
    body["metadata"]["name"] = name
    body["spec"]["limits"] = {"nvidia.com/gpu": gpus}
    body["spec"]["disruption"]["consolidateAfter"] = "5s"
    template = body["spec"]["template"]
    template["metadata"]["labels"][SIMULATED] = "true"
    template["spec"]["nodeClassRef"] = {"group": group, "kind": "KWOKNodeClass", "name": name}
    for need in template["spec"]["requirements"]:
        if need["key"] == "node.kubernetes.io/instance-type":
            need["values"] = [TYPE]
    return [node_class, body]


POOLS = [
    *pool("karpenter-training.yaml", "kij-slow", NEVER, 64),
    *pool("karpenter-training.yaml", "kij-small", "0s", 4),
    *pool("karpenter-evaluations.yaml", "kij-fast", "0s", 8),
]


@pytest.fixture(scope="module")
def karpenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """It runs, and so does what has its machines get ready and their pods run."""
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None
    argv = [sys.executable, "-m", "tests.cluster", "simulate", "0"]
    subprocess.run(argv, cwd=ROOT, check=True, timeout=280)
    part, folder = parts.found("karpenter"), tmp_path_factory.mktemp("karpenter")
    for crds in parts.PARTS["karpenter"].keep:
        install_crds(state, part / crds)
    types = folder / "types.json"
    types.write_text(json.dumps(TYPES))
    log = folder / "karpenter.log"
    env = {
        "KUBECONFIG": state.kubeconfig,
        "SYSTEM_NAMESPACE": "kube-system",
        "DISABLE_LEADER_ELECTION": "true",
        "HEALTH_PROBE_PORT": str(PORT),
        "METRICS_PORT": str(PORT + 1),
        "INSTANCE_TYPES_FILE_PATH": str(types),
    }
    with controllers.running([part / "karpenter"], log, env) as process:
        ready = f"http://127.0.0.1:{PORT}/readyz"
        wait_until("karpenter", lambda: controllers.answers(ready), timeout_s=120, needs=[])
        apply(state, POOLS)
        yield
        assert process.poll() is None, log.read_text()[-3000:]
        names = [body["metadata"]["name"] for body in POOLS if body["kind"] == "NodePool"]
        kubectl(state, "delete", "nodepool", "--timeout=120s", *names)
        kubectl(state, "delete", "nodeclaims", "--all", "--timeout=120s")


def launch(ns: Namespace, folder: Path, image: str, name: str, where: str, *flags: str) -> None:
    (folder / "train.py").write_text("")
    words = ["--name", name, "--image", image, "--no-torchrun", "--gpus", "8", "--detach"]
    chosen = ["--node-selector", f"karpenter.sh/nodepool={where}", "--profile", "bought-nodes"]
    taint = ["--toleration", f"{SIMULATED}"]
    done = ns.kij_train("launch", *words, *chosen, *taint, *flags, "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr


def why(ns: Namespace, name: str, cwd: Path) -> Object:
    """The first finding about a job, when there is one."""
    done = ns.kij_train("why", name, "-o", "json", cwd=cwd)
    found = json.loads(done.stdout)["findings"]
    return dict(found[0]) if found else {}


@pytest.mark.usefixtures("karpenter")
def test_a_job_is_told_that_a_node_is_being_bought_for_it(
    ns: Namespace, tmp_path: Path, small_image: str
) -> None:
    launch(ns, tmp_path, small_image, "train", "kij-slow", "--nodes", "2", "--scheduler", "default")
    assert eventually(lambda: why(ns, "train", tmp_path).get("kind") == "node-coming", 90)
    said = ns.kij_train("why", "train", cwd=tmp_path).stdout
    assert "all 2 nodes: Karpenter is buying a node for it; now 0 of " in said
    claim = said.partition("nodeclaim/")[2].split()[0]
    claims = client.CustomObjectsApi(ns.api)
    body = claims.get_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", claim)
    assert body["metadata"]["labels"]["karpenter.sh/nodepool"] == "kij-slow"
    assert f"kubectl describe nodeclaim {claim}" in said
    pods = ns.core.list_namespaced_pod(ns.name).items
    assert {pod.metadata.annotations["karpenter.sh/do-not-disrupt"] for pod in pods} == {"true"}


@pytest.mark.usefixtures("karpenter")
def test_a_job_is_told_that_no_node_will_come(
    ns: Namespace, tmp_path: Path, small_image: str
) -> None:
    launch(ns, tmp_path, small_image, "train", "kij-small")
    assert eventually(lambda: why(ns, "train", tmp_path).get("kind") == "no-node-coming", 90)
    said = ns.kij_train("why", "train", cwd=tmp_path).stdout
    assert "no node will come, says Karpenter: NodePool kij-small is at its limits\n" in said
    assert "kubectl get nodepools" in said


@pytest.mark.usefixtures("karpenter")
def test_a_bought_node_runs_the_job_and_goes_when_it_is_empty(
    ns: Namespace, tmp_path: Path, small_image: str
) -> None:
    launch(ns, tmp_path, small_image, "train", "kij-fast")
    waited = ns.kij_train("wait", "train", "--timeout", "3m", cwd=tmp_path)
    assert waited.returncode == 0, waited.stderr
    machine = ns.core.list_namespaced_pod(ns.name).items[0].spec.node_name
    assert machine.startswith("kwok-kij-fast-")
    said = ns.kij_train("doctor", "-o", "json", cwd=tmp_path).stdout
    (check,) = [one for one in json.loads(said) if one["name"] == "bought on demand"]
    assert "kij-small (0 of 4 nvidia.com/gpu)" in check["detail"]
    assert eventually(lambda: machine not in machines(ns), 120)


def machines(ns: Namespace) -> set[str]:
    return {node.metadata.name for node in ns.core.list_node().items}
