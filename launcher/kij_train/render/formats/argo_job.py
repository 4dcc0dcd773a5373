"""A Job that Argo Workflows makes itself, by a resource template.

Its name is made by the server, so that the step can be tried again. What of it depends on that name
comes from the label that the Job controller puts on pods. Code and Service are made once, beside
the template: a Service of the template gives every pod of every Job its host name, since these
begin with the Job's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from kij_train import names, units
from kij_train.errors import RequestError
from kij_train.pod import contract, gang
from kij_train.render.formats import Objects, Rendered

WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
"""By which Argo finds the logs of a workflow: `argo logs NAME -l …`."""
WORKFLOW = "{{workflow.name}}"
ITEM = "STEP_ITEM"
"""Variable with the item of a step that has several jobs."""
LEAST_TTL_S = 60
"""Argo looks every 5 s, and takes a Job that is gone for one that has failed."""
JOB = f"$({contract.ENV_JOB})"
POD_GROUPS = ("coscheduling", "native")


def check(job: Rendered, objects: Sequence[dict[str, Any]], called: str) -> None:
    """Raise RequestError for what a Job in a resource template cannot have.

    `called` is how messages name the step.
    """
    body, spec = objects[-1], job.spec
    is_array = names.ARRAY in body["metadata"]["labels"]
    refused = {
        "restart": (gang.ENV_GANG in job.shape.environment, "its pods would meet those of others"),
        f"scheduler {spec.scheduler}": (
            spec.scheduler in POD_GROUPS,
            "its pod group is made for one Job, whose name is known",
        ),
        "gates": (getattr(spec, "evaluate", False), "kij-train judges them when the Job has ended"),
        "nodes of a trial": (
            is_array and names.PER_INDEX not in job.shape.policy,
            "each trial would be a Job",
        ),
        f"ttl {units.format_seconds(spec.ttl or 0)}": (
            spec.ttl is not None and spec.ttl < LEAST_TTL_S,
            f"Argo may find the Job gone before it has seen its end: {LEAST_TTL_S} s at least",
        ),
        "owner": (spec.owner is not None, "the workflow owns the Job"),
    }
    for what, (is_so, why) in refused.items():
        if is_so:
            raise RequestError(
                f"{called}: {what} does not go with a step in which Argo holds the Job itself: "
                f"{why}",
                hints=("let kij-train make the Job: in a file with steps, step_image: IMAGE",),
            )


def beside(objects: Sequence[dict[str, Any]], namespace: str | None) -> Objects:
    """What is made once, with the template, in its namespace: code, Service, NetworkPolicy, claims.

    Pods of a step's Jobs may connect to each other, also to those of other workflows.
    """
    renamed = _config_maps(objects)
    found = copy.deepcopy(list(objects[:-1]))
    for body in found:
        name = body["metadata"]["name"]
        own = {} if namespace is None else {"namespace": namespace}
        body["metadata"] |= {"name": renamed.get(name, name), **own}
        if body["kind"] == "Service":
            body["spec"]["selector"] = {names.LABEL_INSTANCE: name}
        if body["kind"] == "NetworkPolicy":
            pods = {"matchLabels": {names.LABEL_INSTANCE: name}}
            body["spec"]["podSelector"] = pods
            body["spec"]["ingress"][0]["from"][0] = {"podSelector": pods}
    return found


def manifest(
    objects: Sequence[dict[str, Any]], job: Rendered, step: str, *, image: str, has_items: bool
) -> dict[str, Any]:
    """The Job as the template has it; `image` may be a reference to a parameter."""
    body: dict[str, Any] = _escaped(objects[-1])
    prefix = f"{WORKFLOW}-{step}"
    metadata, template = body["metadata"], body["spec"]["template"]
    for key in ("name", "namespace"):
        metadata.pop(key, None)
    body["metadata"] = {"generateName": f"{prefix}-", **metadata}
    for labels in (metadata["labels"], template["metadata"]["labels"]):
        labels[WORKFLOW_LABEL] = WORKFLOW
        if names.ARRAY in labels:
            labels[names.ARRAY] = prefix
    # It was not applied with the rest, which stays when the Job is deleted.
    metadata.setdefault("annotations", {})[names.SUBMISSION] = "{{workflow.uid}}"
    pod = template["spec"]
    container = pod["containers"][0]
    container["image"] = image
    container["env"] = _environment(container["env"], job.name, has_items)
    renamed = _config_maps(objects)
    for volume in pod["volumes"]:
        for source in (volume.get("projected") or {}).get("sources") or []:
            source["configMap"]["name"] = renamed[source["configMap"]["name"]]
    _of_one_job(pod.get("affinity") or {}, job.name)
    return body


def _config_maps(objects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Names of the ConfigMaps, and those that they have beside a template.

    Those of the same code that a launch makes are owned by its Job, and go with it.
    """
    found = (str(one["metadata"]["name"]) for one in objects if one["kind"] == "ConfigMap")
    return {name: f"{name}-argo" for name in found}


def _escaped(value: Any) -> Any:
    """A copy in which Argo replaces nothing."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def escaped(text: str) -> str:
    """Text in which {{ begins no reference of Argo's."""
    return text.replace("{{", "{{='{{'}}")


def _environment(env: list[dict[str, Any]], name: str, has_items: bool) -> list[dict[str, Any]]:
    """The variables of the pods, those with the Job's name by its label."""
    label = {"fieldRef": {"fieldPath": f"metadata.labels['{names.LABEL_JOB_NAME}']"}}
    found: list[dict[str, Any]] = [{"name": contract.ENV_JOB, "valueFrom": label}]
    for variable in env:
        if variable["name"] == contract.ENV_JOB:
            continue
        if variable["name"] == contract.ENV_MASTER_ADDR:
            variable = {**variable, "value": f"{JOB}-0.{name}"}
        if variable["name"] == contract.ENV_SPREAD:
            value = variable["value"].replace(f"{name}-{{}}.{name}", f"{JOB}-{{}}.{name}")
            variable = {**variable, "value": value}
        found.append(variable)
    if has_items:
        found.append({"name": ITEM, "value": "{{inputs.parameters.item}}"})
    return found


def _of_one_job(affinity: dict[str, Any], name: str) -> None:
    """Have pods look for others of their own Job, whose name is not known yet."""
    for rules in affinity.values():
        for terms in rules.values():
            for term in terms if isinstance(terms, list) else []:
                own = term.get("podAffinityTerm", term)
                labels = (own.get("labelSelector") or {}).get("matchLabels") or {}
                if labels.get(names.LABEL_JOB_NAME) == name:
                    own["labelSelector"] = {"matchLabels": {names.LABEL_INSTANCE: name}}
                    own["matchLabelKeys"] = [names.LABEL_JOB_NAME]
