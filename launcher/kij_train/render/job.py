"""The Indexed Job: a pod an index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kij_train import names
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.pod import pod_spec
from kij_train.render.scheduling import scheduling_metadata, sorted_dict
from kij_train.render.shapes import Shape
from kij_train.spec import Common, kept


def render_job(
    spec: Common,
    *,
    name: str,
    shape: Shape,
    bundle: list[dict[str, Any]],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """The Job. `bundle` are ConfigMaps with what ships, `hashes` are variables with its hashes."""
    labels = job_labels(spec, name, shape.component) | shape.labels
    body: dict[str, Any] = {"completionMode": "Indexed", **shape.policy}
    if spec.timeout is not None:
        body["activeDeadlineSeconds"] = spec.timeout
    if spec.ttl is not None:
        body["ttlSecondsAfterFinished"] = spec.ttl
    if spec.kueue is not None:
        body["suspend"] = True  # until Kueue admits it
    said = kept(spec)
    request = {} if said is None else {names.REQUEST: said}
    own = scheduling_metadata(spec, name, shape)
    template_metadata: dict[str, Any] = {"labels": sorted_dict(labels | own.pod_labels)}
    job_metadata = metadata(spec, name, labels | own.job_labels)
    if spec.owner is not None:
        job_metadata["ownerReferences"] = [names.parse_owner(spec.owner)]
    for target, notes in (
        (template_metadata, spec.annotations | own.pod_annotations),
        (job_metadata, spec.annotations | shape.annotations | own.job_annotations | request),
    ):
        if notes:
            target["annotations"] = sorted_dict(notes)
    body["template"] = {
        "metadata": template_metadata,
        "spec": pod_spec(spec, name, shape, bundle, hashes),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": job_metadata, "spec": body}
