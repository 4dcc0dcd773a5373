"""Steps as a WorkflowTemplate of Argo Workflows 4, and what it takes beside it.

One step with one job is one node of Argo's, however many pods the job has. A container step waits
in a pod of its own (`kij-train step`); in a resource step, Argo polls the Job every 5 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kij_train import names
from kij_train.errors import RequestError
from kij_train.pod import contract
from kij_train.render.code import steps_config_maps
from kij_train.render.formats import Objects, Rendered, argo_job
from kij_train.render.formats.argo_job import WORKFLOW
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.text import to_yaml
from kij_train.spec import Common, JobSpec
from kij_train.spec.workflow import Step

COMPONENT = "workflow"
STEPS_KEY = "steps.json"
OF_JOB = ("job", "verdict", "failed-indexes")
OF_PROGRAM = ("verdict", "value")
"""Parameters that a container step leaves, also when it has failed."""
OUTPUTS_DIR = "/tmp/kij-step"  # noqa: S108 - in a pod of its own
CONTAINER, RESOURCE = "container", "resource"
USER = 8737
"""Argo's own for pods that must not run as root."""
MOST_SUFFIX = "-" + "0" * 10
"""What Argo adds to a template's name: a CronWorkflow the time, others five characters."""
RANDOM = "-xxxxx"
"""What is added to the name of a step's job."""
SUCCESS = "status.completionTime"
"""A field that exists of a Job that has succeeded, and of no other."""
FAILURE = ", ".join(f"status.conditions.{at}.type == Failed" for at in range(4))
"""Of several terms one is enough. Where the condition stands varies: others may come before."""
EXECUTOR_RULES: Objects = [
    {
        "apiGroups": ["argoproj.io"],
        "resources": ["workflowtaskresults"],
        "verbs": ["create", "patch"],
    }
]
RULES: dict[str, Objects] = {
    RESOURCE: [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]}],
    CONTAINER: [
        {
            "apiGroups": ["batch"],
            "resources": ["jobs"],
            "verbs": ["create", "get", "list", "watch", "patch", "delete"],
        },
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "patch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["create"]},
        {
            "apiGroups": ["networking.k8s.io"],
            "resources": ["networkpolicies"],
            "verbs": ["create"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    ],
}
"""What a step of each form does in its namespace."""


@dataclass(frozen=True)
class Task:
    """A step that is fit to be rendered."""

    name: str
    step: Step
    form: str
    needs: tuple[str, ...] = ()
    takes: Mapping[str, str] = field(default_factory=dict)
    """Parameter of the workflow → the field that it is of."""
    objects: tuple[dict[str, Any], ...] = ()
    """Of the job of a resource step, the Job last."""
    job: Rendered | None = None
    """That job."""


@dataclass(frozen=True)
class Steps:
    """What container steps share."""

    image: str
    archive: bytes
    """The folder of the file, packed."""
    sha256: str
    told: dict[str, Any]
    """What each of them runs, by its name."""


def convert(objects: Sequence[dict[str, Any]], job: Rendered) -> Objects:
    """One training job as a template of one resource step, called train."""
    task = Task("train", Step(run=("launch",)), RESOURCE, (), {"image": "image"}, (*objects,), job)
    check_names(job.name, "train", job.shape.policy["completions"])
    return template(job.name, job.spec.namespace, [task], {"image": job.spec.image})


def check_names(name: str, step: str, indexes: int, room: int = 0) -> None:
    """Raise RequestError where a pod's host name would be too long.

    `room` is for what the names of later Jobs of the step have more.
    """
    longest = f"{name}{MOST_SUFFIX}-{step}{RANDOM}" + "x" * room
    try:
        names.check_job_name(longest, indexes)
    except ValueError as error:
        raise RequestError(
            f"step {step}: with what Argo adds to {name}, the name of its job {error}",
            hints=("give the file a shorter name, or the step",),
        ) from None


def template(
    name: str,
    namespace: str | None,
    tasks: Sequence[Task],
    parameters: Mapping[str, str],
    steps: Steps | None = None,
) -> Objects:
    """All that is applied: code, rights, Services, and the WorkflowTemplate last.

    `parameters` are those of the workflow, with their defaults; `steps` is there where a task is a
    container step. Raises RequestError for a job that cannot be in a resource step.
    """
    spec = JobSpec(namespace=namespace)
    maps: Objects = []
    if steps is not None:
        document = json.dumps({"code_sha256": steps.sha256, "steps": steps.told}, indent=1)
        maps = steps_config_maps(spec, COMPONENT, {STEPS_KEY: document}, steps.archive)
    shared: Objects = [*maps]
    for task in tasks:
        if task.job is not None:
            argo_job.check(task.job, task.objects, f"step {task.name}")
            beside = argo_job.beside(task.objects, namespace)
            shared += [one for one in beside if one not in shared]
    forms = dict.fromkeys(task.form for task in tasks)
    body = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": _metadata(spec, name),
        "spec": {
            "entrypoint": "main",
            "serviceAccountName": name,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **_arguments(parameters),
            **_volumes(maps),
            "templates": [
                {"name": "main", "dag": {"tasks": [_dag_task(task, tasks) for task in tasks]}},
                *(_template(task, tasks, steps) for task in tasks),
            ],
        },
    }
    return [*shared, *_rights(spec, name, forms), body]


def _metadata(spec: Common, name: str) -> dict[str, Any]:
    return metadata(spec, name, job_labels(spec, name, COMPONENT))


def _arguments(parameters: Mapping[str, str]) -> dict[str, Any]:
    listed = [{"name": name, "value": value} for name, value in parameters.items()]
    return {"arguments": {"parameters": listed}} if listed else {}


def _rights(spec: Common, name: str, forms: Mapping[str, None]) -> Objects:
    rules = [*EXECUTOR_RULES, *(rule for form in forms for rule in RULES[form])]
    if CONTAINER in forms and RESOURCE in forms:
        rules.remove(RULES[RESOURCE][0])  # the other form has all of it
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(spec, name)},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": _metadata(spec, name),
            "rules": rules,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": _metadata(spec, name),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    ]


def _inputs(task: Task, tasks: Sequence[Task]) -> dict[str, str]:
    """What a container step is told of those before it: its input's name → where it is."""
    if task.form == RESOURCE:
        return {}
    left = {one.name: "value" if one.step.program else "job" for one in tasks}
    return {
        f"{other}-{left[other]}": f"{{{{tasks.{other}.outputs.parameters.{left[other]}}}}}"
        for other in task.needs
    }


def _dag_task(task: Task, tasks: Sequence[Task]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task.name, "template": task.name}
    if task.needs:
        found["dependencies"] = list(task.needs)
    given = [{"name": name, "value": value} for name, value in _inputs(task, tasks).items()]
    each = task.step.each
    if each is not None:
        given.append({"name": "item", "value": "{{item}}"})
    if given:
        found["arguments"] = {"parameters": given}
    if isinstance(each, int):
        found["withSequence"] = {"count": str(each)}
    elif isinstance(each, str):
        found["withParam"] = f"{{{{tasks.{each}.outputs.parameters.value}}}}"
    elif each is not None:
        found["withParam"] = argo_job.escaped(json.dumps(list(each), ensure_ascii=False))
    return found


def _template(task: Task, tasks: Sequence[Task], steps: Steps | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task.name}
    inputs = [*_inputs(task, tasks), *(["item"] if task.step.each is not None else [])]
    if inputs:
        found["inputs"] = {"parameters": [{"name": name} for name in inputs]}
    if task.step.retry:
        found["retryStrategy"] = {"limit": str(task.step.retry), "retryPolicy": "Always"}
    if task.form == CONTAINER:
        assert steps is not None
        return {**found, **_container(task, tasks, steps)}
    assert task.job is not None
    image = next((name for name, field in task.takes.items() if field == "image"), None)
    body = argo_job.manifest(
        task.objects,
        task.job,
        task.name,
        image=_parameter(image) if image else argo_job.escaped(task.job.spec.image),
        has_items=task.step.each is not None,
    )
    return {
        **found,
        "resource": {
            "action": "create",
            "setOwnerReference": True,
            "successCondition": SUCCESS,
            "failureCondition": FAILURE,
            "manifest": to_yaml([body]).removeprefix("---\n"),
        },
        "outputs": {"parameters": [{"name": "job", "valueFrom": {"jsonPath": "{.metadata.name}"}}]},
    }


def _parameter(name: str) -> str:
    return f"{{{{workflow.parameters.{name}}}}}"


def _container(task: Task, tasks: Sequence[Task], steps: Steps) -> dict[str, Any]:
    args = ["step", task.name, "--workflow", f"{WORKFLOW}/{{{{workflow.uid}}}}"]
    for name, taken in task.takes.items():
        args += ["--set", f"{taken}={_parameter(name)}"]
    for other in _inputs(task, tasks):
        args += ["--input", f"{other}={{{{inputs.parameters.{other}}}}}"]
    if task.step.each is not None:
        args += ["--item", "{{inputs.parameters.item}}"]
    outputs = [
        {"name": name, "valueFrom": {"path": f"{OUTPUTS_DIR}/{name}", "default": ""}}
        for name in (OF_PROGRAM if task.step.program else OF_JOB)
    ]
    return {
        "container": {
            "image": steps.image,
            "command": ["kij-train"],
            "args": args,
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": names.CODE_VOLUME, "mountPath": contract.BUNDLE_DIR},
                {"name": "work", "mountPath": contract.WORK_DIR},
            ],
        },
        "outputs": {"parameters": outputs},
    }


def _volumes(maps: Objects) -> dict[str, Any]:
    """Of all container steps; once, since Argo keeps templates in the status of each workflow."""
    sources = [{"configMap": {"name": one["metadata"]["name"]}} for one in maps]
    volumes = [
        {"name": names.CODE_VOLUME, "projected": {"sources": sources}},
        {"name": "work", "emptyDir": {}},
    ]
    return {"volumes": volumes} if maps else {}
