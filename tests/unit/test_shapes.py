"""What a kind of job asks of the Job controller, shape by shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kij_train import render
from kij_train.pod import gang
from kij_train.spec import JobSpec

GANG = {"restart": "gang", "max_restarts": 7}


@pytest.mark.parametrize(
    ("fields", "completions", "backoff_limit", "per_index", "enough"),
    [
        ({"nodes": 4}, 4, 0, None, None),
        ({"nodes": 4, "backoff": 2}, 4, 2, None, None),
        ({"nodes": 4, **GANG}, 4, 7, 7, 4),
        ({"nodes": 4, "spares": 2, **GANG}, 6, 7, 7, 4),
        ({"nodes": "3:4", "restart": "elastic"}, 4, 3, 3, 3),
    ],
)
def test_a_shape_says_how_many_pods_there_are_and_how_many_may_fail(
    fields: dict[str, Any],
    completions: int,
    backoff_limit: int,
    per_index: int | None,
    enough: int | None,
) -> None:
    policy = render.shape_of(JobSpec(script="a.py", **fields), "job").policy
    assert policy["completions"] == policy["parallelism"] == completions
    assert policy["backoffLimit"] == backoff_limit
    assert policy.get("backoffLimitPerIndex") == per_index
    rules = policy.get("successPolicy", {"rules": [{"succeededCount": None}]})["rules"]
    assert rules == [{"succeededCount": enough}]


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


def test_no_other_module_of_render_asks_which_kind_of_job_it_is() -> None:
    for file in Path(render.__file__).parent.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert "supervised" not in source and "spec.restart" not in source, file.name
