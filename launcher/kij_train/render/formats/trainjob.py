"""A training job as a TrainJob (trainer.kubeflow.org/v1alpha1) with a TrainingRuntime of its own.

Trainer 2 makes a JobSet of both. The TrainJob has what one changes from run to run: image, command,
arguments, environment, nodes and their resources; the runtime has the rest of the pods. Trainer
adds its own variables for torchrun (PET_…), which say the same as ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from kij_train import gpus, names
from kij_train.pod import contract
from kij_train.render.formats import Objects, Rendered
from kij_train.render.formats.jobset import (
    NODE,
    SUFFIX,
    beside,
    job_template,
    own_metadata,
    refuse,
    spec_of,
    whole_name,
)
from kij_train.spec import DEFAULT_PORT, JobSpec

GROUP = "trainer.kubeflow.org"
API_VERSION = f"{GROUP}/v1alpha1"
STEP = f"{GROUP}/trainjob-ancestor-step"
"""Label of the Job that trains; its container must be called node."""
OF_A_RUN = ("image", "command", "args", "env")
OF_TRAINER = tuple(
    f"PET_{name}"
    for name in ("MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK", "NPROC_PER_NODE")
)
"""Variables that Trainer adds; a pod drops those of a run that nobody has named."""

__all__ = ["SUFFIX", "convert"]


def convert(objects: Sequence[dict[str, Any]], job: Rendered) -> Objects:
    """The objects with TrainingRuntime and TrainJob for the Job; `job` as for a JobSet."""
    name, spec = whole_name(job), spec_of(job)
    refuse(spec, "trainjob", _lacking(spec))
    body = copy.deepcopy(objects[-1])
    suspend = body["spec"].pop("suspend", None)
    template = job_template(body, job.name, name)
    template["metadata"]["labels"][STEP] = "trainer"
    pods = template["spec"]
    for field in ("completions", "parallelism"):  # Trainer sets them
        pods.pop(field)
    for rule in pods.get("podFailurePolicy", {}).get("rules", ()):
        if "onExitCodes" in rule:
            rule["onExitCodes"]["containerName"] = NODE
    container = pods["template"]["spec"]["containers"][0]
    container["name"] = NODE
    (known,) = (one for one in container["env"] if one["name"] == contract.ENV_NAMES)
    known["value"] = " ".join(sorted([*known["value"].split(), *OF_TRAINER]))
    trainer = {field: container[field] for field in OF_A_RUN}
    for field in ("command", "args", "env"):
        del container[field]
    trainer |= {"numNodes": spec.nodes, "numProcPerNode": spec.ranks_per_node}
    resources = container.pop("resources", None)
    if resources is not None:
        trainer["resourcesPerNode"] = resources
    metadata = own_metadata(body, name)
    runtime_metadata = copy.deepcopy(metadata)
    for label in (names.QUEUE, names.KUEUE_PRIORITY):
        runtime_metadata["labels"].pop(label, None)
    whole = {"replicatedJobs": [{"name": NODE, "replicas": 1, "template": template}]}
    policy = {"numNodes": spec.nodes, "torch": {"numProcPerNode": spec.ranks_per_node}}
    runtime = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        "metadata": runtime_metadata,
        "spec": {"mlPolicy": policy, "template": {"spec": whole}},
    }
    run = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": name},
        "trainer": trainer,
        **({} if suspend is None else {"suspend": suspend}),
    }
    own = {"apiVersion": API_VERSION, "kind": "TrainJob", "metadata": metadata, "spec": run}
    return [*beside(objects, name), runtime, own]


def _lacking(spec: JobSpec) -> dict[str, tuple[bool, str]]:
    """Fields that a TrainJob has no counterpart for: whether they are asked for, and why not."""
    return {
        "restart": (
            spec.supervised,
            "its Job has as many indexes as nodes, and none for spares or lost pods",
        ),
        "ttl": (spec.ttl is not None, "a TrainJob stays until somebody deletes it"),
        "port": (
            spec.port not in (None, DEFAULT_PORT),
            f"Trainer tells all ranks that it is {DEFAULT_PORT}",
        ),
        "gpu_kind": (
            gpus.kind(spec.gpu_kind).device_class is not None and bool(spec.gpus),
            "the resources of a TrainJob have no claims",
        ),
    }
