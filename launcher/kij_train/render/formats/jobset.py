"""A training job as a JobSet (jobset.x-k8s.io/v1alpha2), for clusters whose operator that is.

JobSet makes one Indexed Job of it, and the headless Service that gives the pods their names:
`<jobset>-node-0-<index>.<jobset>`. Its Job is ours in all that concerns pods.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from kij_train import names
from kij_train.errors import RequestError
from kij_train.pod import contract, gang
from kij_train.render.formats import SUFFIXES, Objects, Rendered
from kij_train.spec import Common, JobSpec

API_VERSION = "jobset.x-k8s.io/v1alpha2"
NODE = "node"
"""Of the only group of Jobs, as Trainer calls its own."""
SUFFIX = SUFFIXES["jobset"]
"""What JobSet adds to its name for that of the Job."""
POD_SUFFIX = "-xxxxx"
"""What the names of pods end with, which JobSet counts too."""
WITH_HOSTS = (contract.ENV_MASTER_ADDR, contract.ENV_SPREAD, gang.ENV_GANG)
"""Variables that name pods."""
OF_THE_WHOLE = ("suspend", "ttlSecondsAfterFinished")
"""What JobSet does itself, rather than its Job."""


def convert(objects: Sequence[dict[str, Any]], job: Rendered) -> Objects:
    """The objects with a JobSet for the Job and its Service; `job` has the name of JobSet's Job."""
    name = whole_name(job)
    refuse(job.spec, "jobset", {})
    body = copy.deepcopy(objects[-1])
    spec, whole = body["spec"], {}
    for field in OF_THE_WHOLE:
        if field in spec:
            whole[field] = spec.pop(field)
    own = {"apiVersion": API_VERSION, "kind": "JobSet", "metadata": own_metadata(body, name)}
    network = {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    node = {"name": NODE, "replicas": 1, "template": job_template(body, job.name, name)}
    own["spec"] = {**whole, "network": network, "replicatedJobs": [node]}
    return [*beside(objects, name), own]


def whole_name(job: Rendered) -> str:
    """The operator's name for what it makes the Job of. Raises RequestError for one too long."""
    name = job.name.removesuffix(SUFFIX)
    assert name != job.name, f"{job.name} does not end with {SUFFIX}"
    try:
        names.check_job_name(job.name + POD_SUFFIX, job.shape.policy["completions"])
    except ValueError:
        index = job.shape.policy["completions"] - 1
        longest = names.DNS_LABEL_MAX - len(f"{SUFFIX}-{index}{POD_SUFFIX}")
        raise RequestError(
            f"{name} is too long for a name here: with what the operator adds to it for a pod, it "
            f"has more than {names.DNS_LABEL_MAX} characters",
            hints=(f"at most {longest} of them: --name NAME",),
        ) from None
    return name


def refuse(spec: Common, form: str, more: dict[str, tuple[bool, str]]) -> None:
    """Raise RequestError for what the operator has no counterpart for.

    `more` has, beside what neither knows, fields with whether they are asked for, and why not.
    """
    lacking = {
        "scheduler": (
            spec.scheduler == "native",
            "its API has no schedulingGroup for pods, and would drop it",
        ),
        **more,
    }
    for field, (asked, why) in lacking.items():
        if asked:
            raise RequestError(
                f"{field} has no counterpart in --format {form}: {why}",
                hints=("leave it out, or launch the job itself: kij-train launch …",),
            )


def own_metadata(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Of the operator's object: the Job's, without what only launches read."""
    metadata = copy.deepcopy(job["metadata"])
    metadata["name"] = name
    metadata["labels"][names.LABEL_INSTANCE] = name
    annotations = metadata.pop("annotations", {})
    annotations.pop(names.REQUEST, None)
    return {**metadata, **({"annotations": annotations} if annotations else {})}


def job_template(job: dict[str, Any], job_name: str, name: str) -> dict[str, Any]:
    """The template of the Job that the operator makes; `name` is that of its own object."""
    spec, labels = job["spec"], dict(job["metadata"]["labels"])
    # The operator decides on it: `kij-train cancel` and the like leave it alone.
    for label in (names.LABEL_MANAGED_BY, names.QUEUE, names.KUEUE_PRIORITY):
        labels.pop(label, None)
    annotations = job["metadata"].get("annotations") or {}
    template = spec["template"]
    template["spec"].pop("subdomain", None)  # it sets its own
    for one in (labels, template["metadata"]["labels"]):
        one[names.LABEL_INSTANCE] = name
    for variable in template["spec"]["containers"][0]["env"]:
        if variable["name"] in WITH_HOSTS:
            # Of host names alone: <job>-<index>.<subdomain>.
            for host in ("0", "{}"):
                variable["value"] = variable["value"].replace(
                    f"{job_name}-{host}.{job_name}", f"{job_name}-{host}.{name}"
                )
    metadata = {"labels": labels, **({"annotations": annotations} if annotations else {})}
    return {"metadata": metadata, "spec": spec}


def beside(objects: Sequence[dict[str, Any]], name: str) -> Objects:
    """What is applied in front of it: code and claims. The operator makes the Service."""
    found = copy.deepcopy([one for one in objects[:-1] if one["kind"] != "Service"])
    for body in found:
        labels = body["metadata"]["labels"]
        if names.LABEL_INSTANCE in labels:
            labels[names.LABEL_INSTANCE] = name
    return found


def spec_of(job: Rendered) -> JobSpec:
    """Of a training job: no other kind has this format."""
    assert isinstance(job.spec, JobSpec)
    return job.spec
