"""The recipes, against the CRDs and types of those who read them, every field checked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import parts
from tests.cluster.errors import ClusterError
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.goldens import ROOT
from tests.operators import apply, install_crds

pytestmark = [pytest.mark.controllers, pytest.mark.own_cluster]

RECIPES = ROOT / "manifests" / "recipes"
CRDS = {
    "karpenter": "pkg/apis/crds",
    "kueue": "config/components/crd/bases",
    "gpu-operator": "config/crd/bases",
}
DRY = ("--dry-run=server",)
Object = dict[str, Any]


@pytest.fixture(scope="module")
def state() -> Iterator[State]:
    found = State.of_running(StatePaths.of_this_clone())
    assert found is not None
    for part, folder in CRDS.items():
        install_crds(found, parts.found(part) / folder)
    yield found


def bodies(name: str) -> list[Object]:
    return [body for body in yaml.safe_load_all((RECIPES / name).read_text()) if body]


@pytest.mark.parametrize(
    "name",
    [path.name for path in sorted(RECIPES.glob("*.yaml")) if not path.stem.startswith("gpu-oper")],
)
def test_the_api_server_takes_a_recipe(state: State, name: str) -> None:
    said = apply(state, bodies(name), *DRY)
    assert said.count("serverside-applied (server dry run)") == len(bodies(name))


@pytest.mark.parametrize("name", ["karpenter-training.yaml", "dra-mig.yaml"])
def test_a_mistake_in_a_recipe_would_be_seen(state: State, name: str) -> None:
    wrong = bodies(name)
    wrong[0]["spec"]["noSuchField"] = 1
    with pytest.raises(ClusterError, match="noSuchField"):
        apply(state, wrong, *DRY)


@pytest.mark.parametrize("name", ["gpu-operator-sharing.yaml", "gpu-operator-mig.yaml"])
def test_the_operators_policy_takes_a_patch(state: State, name: str) -> None:
    """The patches are of a policy that the operator's chart has made."""
    parts_of_it = ("daemonsets", "dcgm", "dcgmExporter", "devicePlugin", "driver", "gfd")
    spec: Object = {part: {} for part in (*parts_of_it, "nodeStatusExporter", "toolkit")}
    spec["operator"] = {"defaultRuntime": "containerd"}
    (patch,) = bodies(name)
    policy: Object = {
        "apiVersion": "nvidia.com/v1",
        "kind": "ClusterPolicy",
        "metadata": {"name": "cluster-policy"},
        "spec": {**spec, **patch["spec"]},
    }
    assert "dry run" in apply(state, [policy], *DRY)
    policy["spec"].setdefault("mig", {})["strategy"] = "both"
    with pytest.raises(ClusterError, match="strategy"):
        apply(state, [policy], *DRY)


@pytest.mark.parametrize(
    ("name", "key", "strategy"),
    [
        ("nvidia-time-slicing.yaml", "whole", "none"),
        ("nvidia-time-slicing.yaml", "time-slicing", "time-slicing"),
        ("nvidia-mps.yaml", "whole", "none"),
        ("nvidia-mps.yaml", "mps", "mps"),
    ],
)
def test_the_device_plugin_reads_a_configuration_as_it_is_meant(
    tmp_path: Path, name: str, key: str, strategy: str
) -> None:
    (recipe,) = bodies(name)
    done = read_config(tmp_path, recipe["data"][key])
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["strategy"] == strategy
    meant = yaml.safe_load(recipe["data"][key])
    assert_in(meant, read["config"], key)
    if strategy != "none":
        sharing = read["config"]["sharing"]["mps" if strategy == "mps" else "timeSlicing"]
        assert sharing["failRequestsGreaterThanOne"] is True
        assert sharing["resources"][0]["rename"] == "nvidia.com/gpu.shared"


def test_the_device_plugin_refuses_what_is_no_configuration(tmp_path: Path) -> None:
    (recipe,) = bodies("nvidia-time-slicing.yaml")
    done = read_config(tmp_path, recipe["data"]["time-slicing"].replace("replicas: 4", "x: 4"))
    assert done.returncode == 1
    assert "no replicas specified" in done.stderr


def read_config(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "config.yaml"
    file.write_text(text)
    program = parts.found("device-plugin") / "read-config"
    argv = [str(program), "--config-file", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def assert_in(part: Any, whole: Any, where: str) -> None:
    """All that a file says is in what was read of it: a misspelt key would be dropped."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole, f"{where}.{key} was dropped"
            assert_in(value, whole[key], f"{where}.{key}")
    elif isinstance(part, list):
        assert len(part) == len(whole)
        for mine, read in zip(part, whole, strict=True):
            assert_in(mine, read, where)
    else:
        assert part == whole, where
