"""Training that may get shares or slices of GPUs is warned, against a small server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from kij_train import runs
from kij_train.runs import shares
from kij_train.spec import JobSpec

from tests.unit.test_client import Answer, ApiServer, Handler

SHARING = "nvidia.com/gpu.sharing-strategy in (time-slicing,mps)"
GKE = "cloud.google.com/gke-gpu-sharing-strategy"
SLICES = "nvidia.com/gpu.slices.gi"


class Machines(ApiServer):
    """A cluster with some machines by the label that they are asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.machines: dict[str, list[dict[str, Any]]] = {}
        """By the selector that finds them."""
        self.asked: list[str] = []
        self.refuses = False
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if self.refuses:
            return 403, b'{"reason": "Forbidden", "message": "nodes is forbidden"}'
        selector = parse_qs(urlsplit(path).query)["labelSelector"][0]
        self.asked.append(selector)
        return 200, json.dumps({"metadata": {}, "items": self.machines.get(selector, [])}).encode()


@pytest.fixture
def server() -> Iterator[Machines]:
    with Machines() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def config(server: Machines, tmp_path: Path) -> str:
    context = {"name": "here", "context": {"cluster": "lab", "user": "ada"}}
    url = f"http://127.0.0.1:{server.server_port}"
    text = {
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "ada", "user": {"token": "t"}}],
        "contexts": [context],
        "current-context": "here",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(text))
    return str(tmp_path / "config")


def doubts(config: str, **fields: Any) -> list[str]:
    spec = JobSpec(script="a.py", kubeconfig=config, namespace="team", **fields)
    return [f"{note.text} {note.hints}" for note in shares.doubts(spec, lambda: runs.connect(spec))]


def machine(name: str, **has: str) -> dict[str, Any]:
    there = {f"nvidia.com/{resource}": count for resource, count in has.items()}
    return {"metadata": {"name": name}, "status": {"allocatable": there}}


@pytest.mark.parametrize("selector", [SHARING, GKE])
def test_shares_that_are_called_whole_gpus_are_told(
    server: Machines, config: str, selector: str
) -> None:
    server.machines[selector] = [machine("a", gpu="32"), machine("b", gpu="32")]
    (said,) = doubts(config, gpus=1)
    assert "on machine a and 1 more, several pods share each GPU" in said
    assert "--node-selector nvidia.com/gpu.sharing-strategy=none" in said


def test_shares_with_a_name_of_their_own_are_not_what_training_gets(
    server: Machines, config: str
) -> None:
    server.machines[SHARING] = [machine("a", **{"gpu.shared": "32"})]
    assert doubts(config, gpus=8) == []


def test_slices_of_the_single_strategy_are_told_where_more_than_one_is_asked_for(
    server: Machines, config: str
) -> None:
    server.machines[SLICES] = [machine("a", gpu="7")]
    (said,) = doubts(config, gpus=2)
    assert "on machine a, nvidia.com/gpu is a MIG slice (strategy single)" in said
    assert doubts(config, gpus=1) == []


def test_only_machines_that_the_job_may_get_are_asked_for(server: Machines, config: str) -> None:
    doubts(config, gpus=2, node_selector={"pool": "h100"})
    assert server.asked == [f"pool=h100,{selector}" for selector in (SHARING, GKE, SLICES)]


@pytest.mark.parametrize(
    "fields", [{}, {"gpus": 1, "gpu_kind": "amd"}, {"gpus": 1, "gpu_kind": "dra"}]
)
def test_jobs_without_whole_gpus_of_nvidia_ask_nothing(
    server: Machines, config: str, fields: dict[str, Any]
) -> None:
    assert doubts(config, **fields) == []
    assert server.asked == []


def test_training_on_a_share_is_told(config: str) -> None:
    (said,) = doubts(config, gpus=1, gpu_kind="shared")
    assert "training on a shared GPU" in said and "--gpu-kind whole" in said


def test_who_may_not_see_machines_is_told_nothing(server: Machines, config: str) -> None:
    server.refuses = True
    assert doubts(config, gpus=8) == []
