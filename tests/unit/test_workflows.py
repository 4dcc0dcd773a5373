"""Files with steps, and what Argo Workflows is given of them; without a controller."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows.models import WorkflowTemplate
from hypothesis import given
from hypothesis import strategies as st
from kij_train import names
from kij_train.cli import main
from kij_train.pod import contract
from kij_train.render.formats import argo, argo_job

from tests.goldens import ROOT

ALL_KINDS = """\
name: nightly
step_image: registry.example/kij-train:1
defaults: {image: registry.example/train:1, labels: {team: vision}}
parameters: [image, train.nodes, shards.items]
steps:
  train: {run: launch --nodes 2 train.py --lr 3e-4}
  shards: {needs: train, run: "map --items list.txt --retries 1 work.py {item}", retry: 2}
  search: {run: "sweep -p lr=1e-3,1e-4 --min loss train.py", each: 3}
  judge: {needs: [shards, search], run: "eval --data data.jsonl --gate 'acc >= 0.5' score.py"}
  names: {needs: judge, program: python names.py}
  held: {each: names, run: launch --nodes 4 --spread train.py, form: resource}
  items: {run: "map --range 0:10 work.py {item}", form: resource, each: [a, "{{b}}"]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Code that steps can run."""
    for name in ("train.py", "work.py", "score.py", "names.py"):
        (tmp_path / name).write_text("print(1)\n")
    (tmp_path / "list.txt").write_text("a\nb\n")
    (tmp_path / "data.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rendered(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Objects of a file with steps."""
    (folder / "flow.yaml").write_text(text)
    code = main(["render", "--format", "argo", "-f", "flow.yaml", "-o", "json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    objects: list[dict[str, Any]] = json.loads(out)["items"]
    return objects


def template_of(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = objects[-1]["spec"]["templates"]
    return next(one for one in found if one["name"] == name)


def test_every_kind_of_step_is_one_that_the_models_of_hera_know(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered(folder, ALL_KINDS, capsys)
    body = objects[-1]
    # hera drops what Argo does not know, so what is left must be all of it.
    known = WorkflowTemplate.model_validate(body)
    assert known.model_dump(exclude_none=True, by_alias=True, mode="json") == body
    assert [one["kind"] for one in objects if one["kind"] != "ConfigMap"] == [
        *(
            "Service",
            "NetworkPolicy",
            "NetworkPolicy",
            "ServiceAccount",
            "Role",
            "RoleBinding",
            "WorkflowTemplate",
        )
    ]
    tasks = {task["name"]: task for task in template_of(objects, "main")["dag"]["tasks"]}
    assert tasks["judge"]["dependencies"] == ["shards", "search"]
    assert tasks["search"]["withSequence"] == {"count": "3"}
    assert tasks["held"]["withParam"] == "{{tasks.names.outputs.parameters.value}}"
    assert tasks["held"]["dependencies"] == ["names"]
    assert template_of(objects, "shards")["retryStrategy"] == {
        "limit": "2",
        "retryPolicy": "Always",
    }
    assert body["spec"]["arguments"]["parameters"] == [
        {"name": "image", "value": "registry.example/train:1"},
        {"name": "train-nodes", "value": "2"},
        {"name": "shards-items", "value": "a\nb\n"},
    ]


def test_a_container_step_is_told_parameters_and_what_steps_before_it_have_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered(folder, ALL_KINDS, capsys)
    step = template_of(objects, "shards")["container"]
    assert step["image"] == "registry.example/kij-train:1"
    assert step["args"][:2] == ["step", "shards"]
    pairs = list(zip(step["args"][2::2], step["args"][3::2], strict=True))
    assert ("--set", "image={{workflow.parameters.image}}") in pairs
    assert ("--set", "items={{workflow.parameters.shards-items}}") in pairs
    assert ("--input", "train-job={{inputs.parameters.train-job}}") in pairs
    told = json.loads(objects[0]["data"][argo.STEPS_KEY])["steps"]
    assert told["train"]["run"] == ["launch", "--nodes", "2", "train.py", "--lr", "3e-4"]
    assert told["train"]["run"][: told["train"]["at"]] == ["launch", "--nodes", "2"]
    assert "held" not in told


def test_outputs_of_a_container_step_have_defaults_so_that_a_failed_one_has_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered(folder, ALL_KINDS, capsys)
    for step, names_of in (("shards", argo.OF_JOB), ("names", argo.OF_PROGRAM)):
        found = template_of(objects, step)["outputs"]["parameters"]
        assert tuple(one["name"] for one in found) == names_of
        assert all(one["valueFrom"]["default"] == "" for one in found)


def test_what_depends_on_the_name_of_a_job_comes_from_its_label_in_a_resource_step(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered(folder, ALL_KINDS, capsys)
    service = next(one for one in objects if one["kind"] == "Service")
    assert service["spec"]["selector"] == {names.LABEL_INSTANCE: "nightly-held"}
    policy = next(one for one in objects if one["kind"] == "NetworkPolicy")
    own = {"podSelector": {"matchLabels": {names.LABEL_INSTANCE: "nightly-held"}}}
    assert policy["spec"]["podSelector"] == own["podSelector"]
    assert policy["spec"]["ingress"] == [{"from": [own]}]
    resource = template_of(objects, "held")["resource"]
    assert resource["setOwnerReference"] is True
    job = yaml.safe_load(resource["manifest"])
    assert job["metadata"]["generateName"] == "{{workflow.name}}-held-"
    assert "name" not in job["metadata"]
    pod = job["spec"]["template"]["spec"]
    env = pod["containers"][0]["env"]
    assert env[0]["name"] == contract.ENV_JOB
    assert names.LABEL_JOB_NAME in env[0]["valueFrom"]["fieldRef"]["fieldPath"]
    values = {one["name"]: one.get("value") for one in env}
    assert values[contract.ENV_MASTER_ADDR] == f"$({contract.ENV_JOB})-0.nightly-held"
    assert values[argo_job.ITEM] == "{{inputs.parameters.item}}"
    assert pod["subdomain"] == service["metadata"]["name"] == "nightly-held"
    (term,) = pod["affinity"]["podAntiAffinity"].popitem()[1]
    assert term["matchLabelKeys"] == [names.LABEL_JOB_NAME]
    assert job["spec"]["template"]["metadata"]["labels"][argo_job.WORKFLOW_LABEL] == (
        "{{workflow.name}}"
    )
    # Code that a launch has made is owned by its Job; that of a template is not.
    mounted = {one["configMap"]["name"] for one in pod["volumes"][0]["projected"]["sources"]}
    applied = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    assert mounted <= applied and all(name.endswith("-argo") for name in mounted)


def test_all_that_is_applied_is_in_the_namespace_that_was_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "flow.yaml").write_text(ALL_KINDS)
    line = ["render", "--format", "argo", "-o", "json", "-n", "ml"]
    assert main([*line, "-f", "flow.yaml"]) == 0
    flow = json.loads(capsys.readouterr().out)["items"]
    assert main([*line, "train.py"]) == 0
    one = json.loads(capsys.readouterr().out)["items"]
    assert {body["metadata"]["namespace"] for body in (*flow, *one)} == {"ml"}


def test_one_job_is_a_template_of_one_step_that_holds_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["render", "--format", "argo", "-o", "json", "--name", "train", "--nodes", "2"]
    assert main([*line, "train.py", "{{x}}"]) == 0
    body = json.loads(capsys.readouterr().out)["items"][-1]
    known = WorkflowTemplate.model_validate(body)
    assert known.model_dump(exclude_none=True, by_alias=True, mode="json") == body
    manifest = template_of([body], "train")["resource"]["manifest"]
    assert "{{='{{'}}x}}" in manifest
    assert "{{workflow.parameters.image}}" in manifest


@given(st.text(alphabet="{}x='\n ", max_size=30))
def test_argo_gives_back_what_was_escaped(text: str) -> None:
    # As fasttemplate does: a tag ends at the first }}, and the expression '{{' is two braces.
    left, found = argo_job.escaped(text), ""
    while "{{" in left:
        before, _, rest = left.partition("{{")
        tag, closed, left = rest.partition("}}")
        assert closed and tag == "='{{'"
        found += before + "{{"
    assert found + left == text


REFUSED = {
    "a step that names no job": ("steps: {a: {needs: []}}", "names no job"),
    "a misspelt command": ("steps: {a: {run: lauch train.py}}", "'lauch' names no job"),
    "a step that waits for none": ("steps: {a: {run: launch train.py, needs: b}}", "b is no step"),
    "a cycle": (
        "steps: {a: {run: launch train.py, needs: b}, b: {run: launch train.py, needs: a}}",
        "wait for each other: a → b → a",
    ),
    "a parameter that nothing takes": (
        "parameters: [items]\nsteps: {a: {run: launch train.py}}",
        "no step takes it",
    ),
    "a parameter that there is not": (
        "parameters: [lr]\nsteps: {a: {run: launch train.py}}",
        "'lr' is nothing that a step takes",
    ),
    "a parameter of two values": (
        "step_image: k:1\nparameters: nodes\nsteps: {a: {run: launch --nodes 2 train.py}, "
        "b: {run: launch train.py}}",
        "different values for it, a and b",
    ),
    "a name that is too long": (
        f"steps: {{{'a' * 40}: {{run: launch train.py}}}}",
        "with what Argo adds to flow",
    ),
    "a name that is none": ("steps: {A_b: {run: launch train.py}}", "is no name of a step"),
    "a program without an image": ("steps: {a: {program: ls}}", "beside kij-train"),
    "a container without an image": (
        "steps: {a: {run: launch train.py, form: container}}",
        "name an image that has it, step_image",
    ),
    "a script that is not there": ("steps: {a: {run: launch none.py}}", "step a: "),
    "an unknown flag": ("steps: {a: {run: launch --nods 2 train.py}}", "No such option"),
    "a local step": ("steps: {a: {run: launch --local train.py}}", "--local does not go with"),
    "a detached step": ("steps: {a: {run: launch -d train.py}}", "--detach does not go with"),
    "a job that restarts": (
        "steps: {a: {run: launch --restart gang --nodes 2 train.py}}",
        "restart does not go with a step in which Argo holds the Job itself",
    ),
    "gates without kij-train": (
        "steps: {a: {run: \"eval --data data.jsonl --gate 'x >= 1' score.py\"}}",
        "gates does not go with",
    ),
    "trials of several pods": (
        "steps: {a: {run: sweep -p lr=1 --min loss --nodes 2 train.py}}",
        "nodes of a trial does not go with",
    ),
    "a pod group": (
        "steps: {a: {run: launch --nodes 2 --scheduler coscheduling train.py}}",
        "scheduler coscheduling does not go with",
    ),
    "nodes of a Job that is rendered": (
        "parameters: a.nodes\nsteps: {a: {run: launch train.py}}",
        "nodes cannot be a parameter where Argo holds the Job itself",
    ),
    "a list that does not ship": (
        "step_image: k:1\nsteps: {a: {run: 'map --items /etc/hosts work.py {item}'}}",
        "--items /etc/hosts: is not in the code that the step gets",
    ),
    "a value of a step that leaves none": (
        "step_image: k:1\nsteps: {a: {run: launch train.py}, b: {run: launch train.py, each: a}}",
        "a leaves no value",
    ),
    "code for all steps": (
        "defaults: {script: train.py}\nsteps: {a: {run: launch train.py}}",
        "script cannot hold for all steps",
    ),
    "a search": (
        "steps: {a: {run: "
        "'sweep -p lr=log(1e-5,1e-2) --sample 4 --sampler tpe --min loss train.py'}}",
        "a search makes one Job after the other",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_workflow_can_be_made_of_is_refused_by_name(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = REFUSED[name]
    (folder / "flow.yaml").write_text(f"name: flow\n{text}\n")
    assert main(["render", "--format", "argo", "-f", "flow.yaml"]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err
    assert out == ""


def test_flags_beside_a_file_of_steps_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "flow.yaml").write_text("name: flow\nsteps: {a: {run: launch train.py}}\n")
    assert main(["render", "--format", "argo", "-f", "flow.yaml", "--nodes", "2"]) == 2
    assert "--nodes does not go with a file that has steps" in capsys.readouterr().err
    for line in (["launch", "--local"], ["render"]):
        assert main([*line, "-f", "flow.yaml"]) == 2
        assert "kij-train render --format argo" in capsys.readouterr().err


def test_code_that_only_git_knows_of_is_missed_before_a_step_lacks_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess

    (folder / ".gitignore").write_text("kept.txt\n")
    (folder / "kept.txt").write_text("tracked nevertheless\n")
    for words in (["init", "-q"], ["add", "-f", "."]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    text = "name: flow\nstep_image: k:1\nsteps: {a: {run: launch train.py}}\n"
    (folder / "flow.yaml").write_text(text)
    assert main(["render", "--format", "argo", "-f", "flow.yaml"]) == 0
    assert "without kept.txt" in capsys.readouterr().err


def test_a_container_step_may_do_no_more_than_a_user_of_kij_train() -> None:
    role = yaml.safe_load((ROOT / "manifests" / "role.yaml").read_text(encoding="utf-8"))
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for rules in argo.RULES.values():
        for rule in rules:
            for verb in rule["verbs"]:
                assert (rule["apiGroups"][0], rule["resources"][0], verb) in allowed


def test_an_owner_is_in_the_job_and_in_nothing_that_is_launched_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = "argoproj.io/v1alpha1/Workflow/nightly-x7k2p/0b29fdd6"
    assert main(["render", "-o", "json", "--owner", owner, "train.py"]) == 0
    job = json.loads(capsys.readouterr().out)["items"][-1]
    assert job["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": "nightly-x7k2p",
            "uid": "0b29fdd6",
            "controller": False,
            "blockOwnerDeletion": False,
        }
    ]
    assert "nightly" not in job["metadata"]["annotations"][names.REQUEST]
    assert main(["render", "--owner", "nightly", "train.py"]) == 2
    assert "must look like VERSION/KIND/NAME/UID" in capsys.readouterr().err


@pytest.fixture
def pod(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """What a pod of a workflow finds, in folders of this machine; gives that of the outputs."""
    program = 'python3 -c \'import os; open(os.environ["STEP_VALUE_FILE"], "w").write({})\''
    steps = {
        "value": {"program": program.format('os.environ["STEP_LIST_VALUE"] * 2')},
        "large": {"program": program.format('"x" * 9000')},
        "fails": {"program": ["python3", "-c", "raise SystemExit(6)"]},
        "none": {"program": "no-such-program"},
    }
    flow = {"name": "flow", "step_image": "k:1", "steps": steps}
    bundle = folder / "pod" / "bundle"
    bundle.mkdir(parents=True)
    for body in rendered(folder, yaml.safe_dump(flow, sort_keys=False), capsys):
        for key, text in body.get("data", {}).items():
            (bundle / key).write_text(text)
        for key, text in body.get("binaryData", {}).items():
            (bundle / key).write_bytes(base64.b64decode(text))
    monkeypatch.setattr(contract, "BUNDLE_DIR", str(bundle))
    monkeypatch.setattr(contract, "WORK_DIR", str(folder / "pod" / "work"))
    monkeypatch.setattr(argo, "OUTPUTS_DIR", str(folder / "pod" / "outputs"))
    for name in ("HOME", "PYTHONUNBUFFERED"):
        monkeypatch.setenv(name, "")
    return folder / "pod" / "outputs"


def test_a_program_is_told_what_steps_have_left_and_leaves_its_own_value(pod: Path) -> None:
    line = ["step", "value", "--workflow", "flow-abcde/uid", "--input", "list-value=ab"]
    assert main(line) == 0
    assert (pod / "value").read_text() == "abab"
    assert (pod / "verdict").read_text() == "passed"


@pytest.mark.parametrize(
    ("step", "code", "said", "verdict"),
    [
        ("fails", 6, "", "undecided"),
        ("large", 2, "9,000 bytes, 8,192 at most", "passed"),
        ("none", 2, "no-such-program cannot be run", None),
        ("other", 2, "other is no step: there are value, large, fails, none", None),
    ],
)
def test_a_program_that_fails_leaves_a_verdict_and_is_told_why_it_could_not_run(
    pod: Path,
    capsys: pytest.CaptureFixture[str],
    step: str,
    code: int,
    said: str,
    verdict: str | None,
) -> None:
    assert main(["step", step, "--workflow", "flow-abcde/uid"]) == code
    assert said in capsys.readouterr().err
    found = pod / "verdict"
    assert (found.read_text() if found.exists() else None) == verdict
    assert not (pod / "value").exists()


def test_a_step_outside_of_a_workflow_is_told_how_to_make_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["step", "a", "--workflow", "flow/uid"]) == 2
    assert "is for the pods of a workflow" in capsys.readouterr().err
