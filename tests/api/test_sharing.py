"""Slices and shares of GPUs that are only made up: what doctor, why and the scheduler do."""

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

from tests.cluster.kwok import LABEL
from tests.goldens import ROOT
from tests.kube import Namespace, eventually

pytestmark = pytest.mark.own_cluster


@pytest.fixture
def machine(ns: Namespace) -> Iterator[str]:
    """A simulated machine of the test's own: MIG slices as a resource, and one as a device."""
    argv = [sys.executable, "-m", "tests.cluster", "simulate", "0"]
    subprocess.run(argv, cwd=ROOT, check=True, timeout=280)
    name = f"sliced-{ns.name}"
    taint = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
    has = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/mig-1g.10gb": "7"}
    labels = {
        LABEL: "true",
        "kubernetes.io/hostname": name,
        "nvidia.com/mig-1g.10gb.sharing-strategy": "time-slicing",
        "nvidia.com/mig-1g.10gb.replicas": "4",
    }
    node = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [taint]}}
    ns.core.create_node({**node, "status": {"capacity": has, "allocatable": has}})
    objects, resources = client.CustomObjectsApi(ns.api), client.ResourceV1Api(ns.api)
    classes = list(yaml.safe_load_all((ROOT / "manifests/recipes/dra-mig.yaml").read_text()))
    for one in classes:
        one["metadata"]["name"] = f"{one['metadata']['name']}.{ns.name}"
        objects.create_cluster_custom_object("resource.k8s.io", "v1", "deviceclasses", one)
    objects.create_cluster_custom_object("resource.k8s.io", "v1", "resourceslices", a_slice(name))
    yield name
    for one in classes:
        resources.delete_device_class(one["metadata"]["name"])
    resources.delete_resource_slice(name)
    ns.core.delete_node(name)


def a_slice(machine: str) -> dict[str, Any]:
    """What NVIDIA's driver says of one MIG slice, as far as the DeviceClasses look at it."""
    attributes = {"type": {"string": "mig"}, "profile": {"string": "1g.10gb"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": machine},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": machine,
            "pool": {"name": machine, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0-mig-0", "attributes": attributes}],
        },
    }


def launch(ns: Namespace, folder: Path, machine: str, name: str, kind: str) -> str:
    (folder / "train.py").write_text("")
    place = ["--node-selector", f"kubernetes.io/hostname={machine}", "--toleration", LABEL]
    stays = ["--annotation", "kij-train.test/runs-for=1h", "--detach", "--no-torchrun"]
    asked = ["--name", name, "--gpus", "1", "--gpu-kind", kind]
    done = ns.kij_train("launch", *asked, *place, *stays, "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_slices_and_claims_of_them_are_offered_given_and_missed(
    ns: Namespace, tmp_path: Path, machine: str
) -> None:
    small, large = f"mig-1g.10gb.{ns.name}", f"mig-4g.40gb.{ns.name}"
    checks = json.loads(ns.kij_train("doctor", "-o", "json", cwd=tmp_path).stdout)
    (offer,) = [check["detail"] for check in checks if check["name"] == "gpus"]
    assert "1 × 7 nvidia.com/mig-1g.10gb" in offer
    assert f"dra:{small}" in offer and f"dra:{large}" in offer
    assert "on 1 machine, 4 pods share one GPU (time-slicing)" in offer

    launch(ns, tmp_path, machine, "claims", f"dra:{small}")
    assert eventually(lambda: ns.batch.read_namespaced_job("claims", ns.name).status.active == 1)

    def allocated() -> list[str]:
        claims = client.ResourceV1Api(ns.api).list_namespaced_resource_claim(ns.name).items
        given = [claim.status.allocation for claim in claims if claim.status]
        return [one.device for each in given if each for one in each.devices.results]

    assert eventually(lambda: allocated() == ["gpu-0-mig-0"])

    launch(ns, tmp_path, machine, "late", f"dra:{small}")
    assert eventually(lambda: "has no device free for its claim" in why(ns, "late", tmp_path))
    launch(ns, tmp_path, machine, "wrong", "dra:none-such")
    assert eventually(lambda: "there is no DeviceClass none-such" in why(ns, "wrong", tmp_path))

    warned = launch(ns, tmp_path, machine, "other", "mig-1g.5gb")
    has = "nvidia.com/mig-1g.10gb (7 a machine)"
    assert "no machine of the cluster has nvidia.com/mig-1g.5gb" in warned and has in warned
    assert eventually(lambda: has in why(ns, "other", tmp_path))
    assert "--gpus with --gpu-kind mig-1g.10gb" in why(ns, "other", tmp_path)


def why(ns: Namespace, name: str, cwd: Path) -> str:
    return ns.kij_train("why", name, cwd=cwd).stdout
