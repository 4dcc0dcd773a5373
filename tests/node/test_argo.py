"""Workflows with steps of ours, run by the controller of Argo Workflows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import kube
from tests.argo import Argo, controller, nodes_of, outputs_of, phase_of
from tests.conftest import KUBECONFIG
from tests.goldens import ROOT
from tests.kube import eventually

pytestmark = [pytest.mark.controllers, pytest.mark.own_cluster, pytest.mark.alone]

MOST_STATUS_BYTES = 20 * 1024
SLEEPS = "import sys, time\nprint('began', flush=True)\ntime.sleep(int(sys.argv[1]))\n"
TRIAL = """
import json, os, sys
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"loss": float(sys.argv[sys.argv.index("--x") + 1])}), file=file)
"""


@pytest.fixture(scope="module")
def argo(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Argo]:
    """The controller, for all tests of this file: to start it takes long."""
    os.environ["KUBECONFIG"] = pytestconfig.stash[KUBECONFIG]
    log = tmp_path_factory.mktemp("argo") / "controller.log"
    with kube.namespace(pytestconfig.stash[KUBECONFIG]) as ns, controller(ns, log) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A script that sleeps, and one that fails for some items."""
    (tmp_path / "sleep.py").write_text(SLEEPS)
    (tmp_path / "ok.py").write_text("import sys\nprint(sys.argv)\n")
    (tmp_path / "items.py").write_text("import sys\nsys.exit(sys.argv[1] in ('3', '7'))\n")
    return tmp_path


def flow(folder: Path, argo: Argo, image: str, name: str, steps: str) -> Path:
    """A file of container steps."""
    text = f"name: {name}\nstep_image: {argo.step_image}\ndefaults: {{image: '{image}'}}\n{steps}\n"
    path = folder / "flow.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def pipeline(argo: Argo, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example: prepare, a map of twenty, its mean, a gate."""
    folder = tmp_path_factory.mktemp("pipeline")
    shutil.copytree(ROOT / "manifests" / "pipeline", folder, dirs_exist_ok=True)
    file = folder / "pipeline.yaml"
    text = file.read_text().replace("registry.example/kij-train:0.1", argo.step_image)
    file.write_text(text.replace("python:3.12", "kij-train.test/python:3.11"))
    return str(argo.apply(file)["metadata"]["name"])


def test_a_pipeline_passes_and_its_values_go_from_step_to_step(argo: Argo, pipeline: str) -> None:
    workflow = argo.ended(argo.submit(pipeline))
    nodes = nodes_of(workflow)
    assert phase_of(workflow) == "Succeeded", argo.said(workflow["metadata"]["name"])
    assert {name: outputs_of(nodes[name])["verdict"] for name in ("prepare", "shards", "gate")} == {
        "prepare": "passed",
        "shards": "passed",
        "gate": "passed",
    }
    assert outputs_of(nodes["mean"])["value"] == "143.5"
    # The job is the workflow's, and its pods are found by Argo's label.
    job = argo.ns.batch.read_namespaced_job(outputs_of(nodes["shards"])["job"], argo.ns.name)
    (owner,) = job.metadata.owner_references
    assert (owner.kind, owner.uid) == ("Workflow", workflow["metadata"]["uid"])
    label = f"workflows.argoproj.io/workflow={workflow['metadata']['name']}"
    selector = f"{label},batch.kubernetes.io/job-name={job.metadata.name}"
    pods = argo.ns.core.list_namespaced_pod(argo.ns.name, label_selector=selector).items
    assert len(pods) == 20
    assert len(json.dumps(workflow["status"], separators=(",", ":"))) < MOST_STATUS_BYTES


def test_a_failing_index_is_in_the_outputs_of_a_failed_workflow(argo: Argo, pipeline: str) -> None:
    items = [str(number) for number in range(20)]
    items[7] = "seven"
    workflow = argo.ended(argo.submit(pipeline, items="\n".join(items)))
    nodes = nodes_of(workflow)
    assert phase_of(workflow) == "Failed", argo.said(workflow["metadata"]["name"])
    found = outputs_of(nodes["shards"])
    assert (found["verdict"], found["failed-indexes"]) == ("failed", "7")
    assert found["job"].startswith(workflow["metadata"]["name"])
    assert phase_of({"status": nodes["gate"]}) == "Omitted"


def test_a_step_is_tried_again_with_a_job_of_another_name(
    argo: Argo, folder: Path, small_image: str
) -> None:
    steps = 'steps: {a: {run: "map --range 0:10 items.py {item}", retry: 1}}'
    argo.apply(flow(folder, argo, small_image, "again", steps))
    workflow = argo.ended(argo.submit("again"))
    assert phase_of(workflow) == "Failed"
    tries = [outputs_of(node) for name, node in nodes_of(workflow).items() if name.startswith("a(")]
    assert [one["failed-indexes"] for one in tries] == ["3,7", "3,7"]
    assert len({one["job"] for one in tries}) == 2


def test_a_stopped_workflow_cancels_its_job(argo: Argo, folder: Path, small_image: str) -> None:
    steps = "steps: {a: {run: launch --no-torchrun sleep.py 600}}"
    argo.apply(flow(folder, argo, small_image, "stop", steps))
    name = argo.submit("stop")
    job = argo.job_of(name, "a").metadata.name

    def pods() -> int:
        selector = f"batch.kubernetes.io/job-name={job}"
        return len(argo.ns.core.list_namespaced_pod(argo.ns.name, label_selector=selector).items)

    assert eventually(lambda: pods() == 1)
    argo.patch(name, {"spec": {"shutdown": "Stop"}})
    workflow = argo.ended(name)
    assert phase_of(workflow) == "Failed"
    body = argo.ns.batch.read_namespaced_job(job, argo.ns.name)
    assert body.spec.suspend is True
    assert body.metadata.annotations["kij-train/cancelled"] == "true"
    assert eventually(lambda: pods() == 0)


def test_a_sweep_is_a_step_with_a_pod_for_each_point(
    argo: Argo, folder: Path, small_image: str
) -> None:
    (folder / "trial.py").write_text(TRIAL)
    steps = "steps: {search: {run: 'sweep -p x=1,2,3 --min loss trial.py'}}"
    argo.apply(flow(folder, argo, small_image, "points", steps))
    workflow = argo.ended(argo.submit("points"))
    assert phase_of(workflow) == "Succeeded", argo.said(workflow["metadata"]["name"])
    found = outputs_of(nodes_of(workflow)["search"])
    assert (found["verdict"], found["failed-indexes"]) == ("passed", "")
    label = f"batch.kubernetes.io/job-name={found['job']}"
    assert len(argo.ns.core.list_namespaced_pod(argo.ns.name, label_selector=label).items) == 3


@pytest.mark.parametrize("form", ["container", "resource"])
def test_a_job_that_somebody_deletes_fails_its_step(
    form: str, argo: Argo, folder: Path, small_image: str
) -> None:
    steps = f"steps: {{a: {{run: launch --no-torchrun sleep.py 600, form: {form}}}}}"
    argo.apply(flow(folder, argo, small_image, f"gone-{form}", steps))
    name = argo.submit(f"gone-{form}")
    argo.ns.delete_job(argo.job_of(name, "a").metadata.name)
    workflow = argo.ended(name)
    assert phase_of(workflow) in ("Failed", "Error")
    if form == "resource":
        assert "has been deleted" in nodes_of(workflow)["a"]["message"]


def test_jobs_that_argo_holds_itself_run_one_for_each_text_of_a_list_and_meet_rank_0(
    argo: Argo, folder: Path, image: str
) -> None:
    (folder / "ranks.py").write_text(
        "import os, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "print('item', os.environ['STEP_ITEM'], 'ranks', dist.get_world_size(), flush=True)\n"
        "dist.destroy_process_group()\n"
    )
    steps = (
        "steps:\n"
        "  list: {program: \"sh -c 'echo [1, 2] > $STEP_VALUE_FILE'\"}\n"
        "  train: {run: launch --nodes 2 ranks.py, form: resource, each: list}\n"
    )
    argo.apply(flow(folder, argo, image, "held", steps))
    workflow = argo.ended(argo.submit("held"))
    assert phase_of(workflow) == "Succeeded", argo.said(workflow["metadata"]["name"])
    jobs = [
        outputs_of(one)["job"]
        for one in nodes_of(workflow).values()
        if one["type"] == "Pod" and one["templateName"] == "train"
    ]
    said = set()
    for job in jobs:
        selector = f"batch.kubernetes.io/job-name={job}"
        for pod in argo.ns.core.list_namespaced_pod(argo.ns.name, label_selector=selector).items:
            log = argo.ns.core.read_namespaced_pod_log(pod.metadata.name, argo.ns.name)
            said |= {line for line in log.splitlines() if line.startswith("item")}
    assert said == {"item 1 ranks 2", "item 2 ranks 2"}


def test_an_array_that_argo_holds_itself_fails_with_its_items(
    argo: Argo, folder: Path, small_image: str
) -> None:
    steps = 'steps: {a: {run: "map --range 0:10 items.py {item}", form: resource}}'
    argo.apply(flow(folder, argo, small_image, "items", steps))
    name = argo.submit("items")
    workflow = argo.ended(name)
    assert phase_of(workflow) == "Failed"
    assert "[Failed]}' evaluated true" in nodes_of(workflow)["a"]["message"]
    report = argo.ns.kij_train("report", f"{name}-a", cwd=folder)
    assert report.returncode == 1
    assert "indexes 3, 7" in report.stdout or "3,7" in report.stdout, report.stdout


def test_ten_thousand_indexes_are_one_node_and_little_status(
    argo: Argo, folder: Path, small_image: str
) -> None:
    # The Job waits for a queue that nobody serves: its pods are not the question.
    steps = (
        "steps: {a: {run: 'map --range 0:10000 --chunk 1 --queue nobody ok.py {item}', form: "
        "resource}, b: {run: 'map --range 0:10000 --chunk 1 --queue nobody ok.py {item}'}}"
    )
    argo.apply(flow(folder, argo, small_image, "many", steps))
    name = argo.submit("many")
    for step in ("a", "b"):
        assert argo.job_of(name, step).spec.completions == 10_000
    workflow = argo.get(name)
    assert len(workflow["status"]["nodes"]) == 3
    assert len(json.dumps(workflow["status"], separators=(",", ":"))) < MOST_STATUS_BYTES
    argo.patch(name, {"spec": {"shutdown": "Stop"}})
    argo.ended(name)


def test_doctor_finds_schemas_that_refuse_a_misspelt_field(argo: Argo, folder: Path) -> None:
    found = argo.ns.kij_train("doctor", "-o", "json", cwd=folder)  # it asks with a wrong one
    check = next(one for one in json.loads(found.stdout) if one["name"] == "argo")
    assert check["result"] == "ok", check


def test_a_service_account_without_rights_is_told_before_a_job_is_made(
    argo: Argo, folder: Path, small_image: str
) -> None:
    steps = "steps: {a: {run: launch --no-torchrun ok.py}}"
    argo.apply(flow(folder, argo, small_image, "poor", steps))
    rules = [
        {
            "apiGroups": ["argoproj.io"],
            "resources": ["workflowtaskresults"],
            "verbs": ["create", "patch"],
        }
    ]
    argo.ns.rbac.patch_namespaced_role("poor", argo.ns.name, {"rules": rules})
    workflow = argo.ended(argo.submit("poor"))
    (node,) = [one for one in nodes_of(workflow).values() if one["type"] == "Pod"]
    assert node["outputs"]["exitCode"] == "2"
    log = argo.log_of(node)
    assert "may not: create jobs" in log and "kubectl apply --server-side" in log
