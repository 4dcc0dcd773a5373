"""Training jobs as JobSet and TrainJob: same pods, and the names that those operators give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kij_train import runs
from kij_train.cli import main
from kij_train.errors import RequestError
from kij_train.render import formats
from kij_train.spec import JobSpec
from kij_train.specfile import Resolved

OPERATORS = ("jobset", "trainjob")
Objects = list[dict[str, Any]]


def plan(**fields: Any) -> runs.Plan:
    spec = JobSpec(module="package.train", code=False, name="job", **fields)
    return runs.plan(Resolved(spec, {}), cwd=Path(), place=runs.OnCluster())


def job_of(objects: Objects) -> dict[str, Any]:
    """The Job that the operator makes of it."""
    kind = objects[-1]["kind"]
    if kind == "JobSet":
        (node,) = objects[-1]["spec"]["replicatedJobs"]
    else:
        (node,) = objects[-2]["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    assert node["replicas"] == 1
    template: dict[str, Any] = node["template"]
    return template


def pod_of(objects: Objects) -> dict[str, Any]:
    pod: dict[str, Any] = job_of(objects)["spec"]["template"]["spec"]
    return pod


def container_of(objects: Objects) -> dict[str, Any]:
    """With what a TrainJob puts into it."""
    container = dict(pod_of(objects)["containers"][0])
    if objects[-1]["kind"] == "TrainJob":
        trainer = objects[-1]["spec"]["trainer"]
        container |= {key: trainer[key] for key in ("image", "command", "args", "env")}
        if "resourcesPerNode" in trainer:
            container["resources"] = trainer["resourcesPerNode"]
    return container


def environment(objects: Objects) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container_of(objects)["env"]}


@pytest.mark.parametrize("form", OPERATORS)
def test_a_pod_is_that_of_a_launch_but_for_the_names_of_hosts(form: str) -> None:
    asked = plan(nodes=3, gpus=2, memory="8Gi", mounts=("pvc:data:/data",), env={"A": "$HOME"})
    own = asked.objects()[-1]["spec"]["template"]["spec"]
    objects = asked.in_format(form)
    assert environment(objects)["MASTER_ADDR"] == "job-node-0-0.job"
    theirs, mine = container_of(objects), dict(own["containers"][0])
    names = {"MASTER_ADDR", "KIJ_JOB", "KIJ_ENV_NAMES"}
    for container in (theirs, mine):
        container["env"] = [one for one in container["env"] if one["name"] not in names]
    expected = "node" if form == "trainjob" else "train"
    assert (theirs.pop("name"), mine.pop("name")) == (expected, "train")
    assert theirs == mine
    rest = ("containers", "subdomain")
    assert {k: v for k, v in pod_of(objects).items() if k not in rest} == {
        k: v for k, v in own.items() if k not in rest
    }


@pytest.mark.parametrize("form", OPERATORS)
def test_the_operator_makes_the_service_and_the_rest_is_applied_before_it(form: str) -> None:
    objects = plan(nodes=2).in_format(form)
    last = ["JobSet"] if form == "jobset" else ["TrainingRuntime", "TrainJob"]
    kinds = [one["kind"] for one in objects if one["kind"] != "ConfigMap"]
    assert kinds == ["NetworkPolicy", *last]
    (policy,) = (one for one in objects if one["kind"] == "NetworkPolicy")
    selected = {"matchLabels": {"batch.kubernetes.io/job-name": "job-node-0"}}
    assert policy["spec"]["podSelector"] == selected
    maps = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    (bundle,) = (one for one in pod_of(objects)["volumes"] if one["name"] == "bundle")
    assert {one["configMap"]["name"] for one in bundle["projected"]["sources"]} == maps


def test_a_jobset_has_the_restarts_of_a_launch() -> None:
    asked = plan(nodes=4, restart="gang", spares=1, fetch=("https://hub.example/m:/m",))
    objects = asked.in_format("jobset")
    own, theirs = asked.objects()[-1]["spec"], job_of(objects)["spec"]
    for key in own.keys() - {"template"}:
        assert theirs[key] == own[key]
    said = environment(objects)
    assert json.loads(said["KIJ_GANG"])["peers"] == ["job-node-0-{}.job:29502"]
    assert json.loads(said["KIJ_SPREAD"])["peers"] == ["job-node-0-{}.job:29504"]


@pytest.mark.parametrize("form", OPERATORS)
def test_a_queue_admits_the_whole_and_not_its_job(form: str) -> None:
    objects = plan(nodes=2, queue="team-a", queue_priority="high").in_format(form)
    whole, inner = objects[-1], job_of(objects)
    assert whole["spec"]["suspend"] is True
    assert whole["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert whole["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert "suspend" not in inner["spec"]
    assert not [label for label in inner["metadata"]["labels"] if "kueue" in label]


def test_a_jobset_ends_with_its_own_ttl() -> None:
    objects = plan(ttl=60, timeout=120).in_format("jobset")
    assert objects[-1]["spec"]["ttlSecondsAfterFinished"] == 60
    inner = job_of(objects)["spec"]
    assert "ttlSecondsAfterFinished" not in inner
    assert inner["activeDeadlineSeconds"] == 120


def test_a_trainjob_tells_trainer_what_its_pods_are_told() -> None:
    objects = plan(nodes=3, nproc_per_node=2).in_format("trainjob")
    trainer = objects[-1]["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)
    said = environment(objects)
    assert (said["NNODES"], said["NPROC_PER_NODE"], said["WORLD_SIZE"]) == ("3", "2", "6")
    # Without their names, a pod drops Trainer's variables: those of a run that nobody has named.
    own = environment(plan(nodes=3, nproc_per_node=2).in_format("jobset"))
    added = set(said["KIJ_ENV_NAMES"].split()) - set(own["KIJ_ENV_NAMES"].split())
    assert {"PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR"} <= added
    assert objects[-1]["spec"]["runtimeRef"]["name"] == objects[-2]["metadata"]["name"] == "job"
    (rule,) = job_of(objects)["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == pod_of(objects)["containers"][0]["name"]


@pytest.mark.parametrize("form", OPERATORS)
def test_commands_that_change_a_job_leave_the_operators_alone(form: str) -> None:
    labels = job_of(plan(nodes=2).in_format(form))["metadata"]["labels"]
    assert "app.kubernetes.io/managed-by" not in labels


@pytest.mark.parametrize(
    ("form", "fields", "field"),
    [
        ("jobset", {"scheduler": "native"}, "scheduler"),
        ("trainjob", {"scheduler": "native"}, "scheduler"),
        ("trainjob", {"restart": "gang"}, "restart"),
        ("trainjob", {"nodes": "3:4", "restart": "elastic"}, "restart"),
        ("trainjob", {"ttl": "1h"}, "ttl"),
        ("trainjob", {"port": 29600}, "port"),
        ("trainjob", {"gpus": 1, "gpu_kind": "dra"}, "gpu_kind"),
    ],
)
def test_what_an_operator_has_no_counterpart_for_is_refused_by_name(
    form: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError, match=f"^{field} has no counterpart in --format {form}: "):
        plan(**fields).in_format(form)


@given(length=st.integers(1, 63), nodes=st.sampled_from([1, 2, 11, 100_000]))
def test_a_name_is_taken_if_and_only_if_its_longest_pod_has_one(length: int, nodes: int) -> None:
    name = "a" * length
    spec = JobSpec(module="train", code=False, nodes=nodes)
    named = runs.Plan(spec, name, Path(), None)
    fits = len(f"{name}-node-0-{nodes - 1}-xxxxx") <= 63
    for form in OPERATORS:
        if fits:
            assert named.in_format(form)[-1]["metadata"]["name"] == name
        else:
            with pytest.raises(RequestError, match="is too long for a name here"):
                named.in_format(form)


@pytest.mark.parametrize("form", formats.FORMATS)
def test_every_format_is_one_request_and_gives_the_same_bytes(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(syntax: str) -> str:
        words = ["render", "--format", form, "-o", syntax, "--no-code", "--name", "job"]
        assert main([*words, "-m", "train"]) == 0
        return capsys.readouterr().out

    assert printed("yaml") == printed("yaml")
    assert list(yaml.safe_load_all(printed("yaml"))) == json.loads(printed("json"))["items"]
