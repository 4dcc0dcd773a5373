"""What a kind of job asks of the Job controller, shape by shape."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from kij_train import render
from kij_train.pod import contract, gang
from kij_train.spec import ArraySpec, JobSpec
from pydantic import ValidationError

GANG = {"restart": "gang", "max_restarts": 7}


@pytest.mark.parametrize(
    ("fields", "at_once", "reserve", "enough"),
    [
        ({"nodes": 4}, 4, 0, None),
        ({"nodes": 4, **GANG}, 4, 7, 4),
        ({"nodes": 4, "spares": 2, **GANG}, 6, 7, 4),
        ({"nodes": "3:4", "restart": "elastic"}, 4, 3, 3),
        ({"nodes": 4, "restart": "gang", "max_restarts": 0}, 4, 0, 4),
    ],
)
def test_a_shape_says_how_many_pods_there_are_and_how_many_more_there_may_be(
    fields: dict[str, Any], at_once: int, reserve: int, enough: int | None
) -> None:
    policy = render.shape_of(JobSpec(script="a.py", **fields), "job").policy
    assert (policy["parallelism"], policy["completions"]) == (at_once, at_once + reserve)
    rules = policy.get("successPolicy", {"rules": [{"succeededCount": None}]})["rules"]
    assert rules == [{"succeededCount": enough}]


@pytest.mark.parametrize("backoff", [0, 2])
def test_pods_of_a_job_that_does_not_restart_may_fail_as_often_as_its_user_says(
    backoff: int,
) -> None:
    policy = render.shape_of(JobSpec(script="a.py", nodes=4, backoff=backoff), "job").policy
    assert policy["backoffLimit"] == backoff
    assert "backoffLimitPerIndex" not in policy


def test_an_index_that_is_lost_is_never_tried_again_and_as_many_may_be_as_are_in_reserve() -> None:
    shape = render.shape_of(JobSpec(script="a.py", nodes=4, spares=1, **GANG), "job")
    assert shape.policy["backoffLimitPerIndex"] == 0
    assert shape.policy["maxFailedIndexes"] == 7
    assert "backoffLimit" not in shape.policy
    told = json.loads(shape.environment[gang.ENV_GANG])
    assert (told["reserve"], told["backoff_limit"], told["max_restarts"]) == (7, 7, 7)


def test_only_a_job_that_does_not_restart_ends_at_its_first_failed_pod() -> None:
    static = render.shape_of(JobSpec(script="a.py"), "job").policy
    assert static["podReplacementPolicy"] == "Failed"
    assert static["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
    assert "podFailurePolicy" not in render.shape_of(JobSpec(script="a.py", **GANG), "job").policy


def test_the_first_process_of_a_gang_is_a_supervisor_and_has_what_it_imports() -> None:
    shape = render.shape_of(JobSpec(script="a.py", port=4000, **GANG), "job")
    assert shape.first_process in {file.name for file in shape.sources}
    assert all(file.is_file() for file in shape.sources)
    assert shape.ports == {"rendezvous": 4000, "supervisor": 4002}
    assert shape.probes["readinessProbe"]["tcpSocket"] == {"port": 4003}
    assert '"job-{}.job:4002"' in shape.environment[gang.ENV_GANG]


def test_a_trial_of_several_pods_is_a_job_whose_first_failed_pod_ends_it() -> None:
    spec = ArraySpec(script="a.py", trial_nodes=3, nproc_per_node=2, parallelism=5)
    attempt = render.Attempt("tune", 1, "0" * 64, b"", number=4, selection=b"x")
    shape = render.shape_of(spec, "tune-r4", attempt)
    assert shape.policy == {
        "completions": 3,
        "parallelism": 3,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
    }
    assert (shape.at_once, shape.service_port) == (3, 29500)
    assert shape.environment["MASTER_ADDR"] == "tune-r4-0.tune-r4"
    assert (shape.environment["NNODES"], shape.environment["WORLD_SIZE"]) == ("3", "6")
    assert next(iter(shape.field_references)) == "NODE_RANK"
    assert shape.labels["kij-train/attempt"] == "4"


def test_no_other_module_of_render_asks_which_kind_of_job_it_is() -> None:
    for file in Path(render.__file__).parent.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert "supervised" not in source and "spec.restart" not in source, file.name


# --- roles ----------------------------------------------------------------------------------------


def test_roles_are_as_many_nodes_as_they_name_and_pods_are_told() -> None:
    spec = JobSpec(script="a.py", roles="prefill=2,decode=3", gpus=1)
    assert (spec.nodes, spec.world_size) == (5, 5)
    shape = render.shape_of(spec, "job")
    assert (shape.policy["completions"], shape.environment["NNODES"]) == (5, "5")
    assert shape.environment[contract.ENV_ROLES] == "prefill=2,decode=3"
    assert contract.ENV_ROLES not in render.shape_of(JobSpec(script="a.py"), "job").environment
    assert JobSpec(script="a.py", roles="a=1,b=1", nodes=2, spares=1, restart="gang").pods == 3


def test_a_node_has_the_role_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = "prefill=2,decode=3"
    found = [contract.role_of(rank, roles) for rank in range(6)]
    assert found == ["prefill", "prefill", "decode", "decode", "decode", ""]
    monkeypatch.setenv(contract.ENV_ROLES, roles)
    monkeypatch.setenv(contract.ENV_ROLE, "of the round before")
    contract.take_role(4)
    assert os.environ[contract.ENV_ROLE] == "decode"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"roles": "a=1,b=1", "restart": "elastic"}, "does not go with --restart elastic"),
        (
            {"roles": "prefill=2,decode=2", "nodes": 3},
            "adds up to 4 nodes, not to 3. Leave --nodes out",
        ),
        ({"roles": "prefill=2,prefill=1"}, "names prefill twice"),
        ({"roles": "prefill"}, "'prefill' must look like prefill=2"),
        ({"roles": "prefill=0"}, "'prefill=0' must look like prefill=2"),
        ({"roles": "Pre fill=1"}, "must look like prefill=2"),
        ({"roles": "a=1,"}, "'' must look like prefill=2"),
        ({"roles": "a=1:gpus=8,b=1"}, "Resources are those of a node, the same for all: --gpus"),
        (
            {"roles": "a=2,b=1", "nodes": "2:3", "restart": "elastic"},
            "does not go with --restart elastic",
        ),
    ],
)
def test_roles_that_do_not_add_up_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        JobSpec(script="a.py", **fields)
