"""What the preflight makes of what the ranks say, and how it gets into the pods."""

from __future__ import annotations

from typing import Any

import pytest
from kij_train import render
from kij_train.payloads import preflight
from kij_train.spec import JobSpec


def info(index: int, *problems: str, model: str = "H100") -> dict[str, Any]:
    return {"index": index, "where": f"node-{index}", "model": model, "problems": list(problems)}


def test_good_nodes_have_no_problem() -> None:
    assert preflight.problems_of({0: info(0), 1: info(0), 2: info(1)}, 3, 2) == []


def test_a_bad_node_is_named_once_however_many_ranks_it_has() -> None:
    bad = info(1, "7 of 8 GPUs are visible")
    assert preflight.problems_of({0: info(0), 1: bad, 2: bad}, 3, 2) == [
        "index 1 on node-1: 7 of 8 GPUs are visible"
    ]


def test_another_model_and_a_rank_that_never_came_are_named() -> None:
    infos = {0: info(0), 1: info(1), 2: info(2, model="A100")}
    assert preflight.problems_of(infos, 4, 1) == [
        "index 3 (rank 3) never came, within 60 s",
        "index 2 on node-2: GPU model A100, others have H100",
    ]


def test_it_travels_beside_the_bootstrap_and_only_when_asked_for() -> None:
    code = render.Code("bootstrap", preflight="source")
    spec = JobSpec(script="a.py", gpus=4, preflight=True)
    config_map, _, job = render.render(spec, name="job", code=code)
    assert config_map["data"]["preflight.py"] == "source"
    env = {v["name"]: v.get("value") for v in _container(job)["env"]}
    assert env["KIJ_PREFLIGHT_SCRIPT"] == "/kij/bundle/preflight.py"
    assert env["KIJ_PREFLIGHT_GPUS"] == "4"
    plain = render.render(JobSpec(script="a.py"), name="job", code=render.Code("bootstrap"))
    assert list(plain[0]["data"]) == ["bootstrap.py"]
    assert "KIJ_PREFLIGHT_SCRIPT" not in [v["name"] for v in _container(plain[-1])["env"]]
    assert plain[0]["metadata"]["name"] != config_map["metadata"]["name"]


def _container(job: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return first


def test_a_program_cannot_be_preceded_by_it() -> None:
    with pytest.raises(ValueError, match="needs a script or module"):
        JobSpec(program="sh", preflight=True)
