"""GPUs as claims of Dynamic Resource Allocation, in place of a counted resource."""

from __future__ import annotations

from typing import Any

from kij_train import gpus
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.shapes.shape import Shape
from kij_train.spec import Common


def claim_templates(spec: Common, name: str, shape: Shape) -> list[dict[str, Any]]:
    """The template from which every pod gets its claim, with --gpu-kind dra (Kubernetes 1.34)."""
    if not container_claims(spec):
        return []
    exactly = {
        "deviceClassName": gpus.kind(spec.gpu_kind).device_class,
        "allocationMode": "ExactCount",
        "count": spec.gpus,
    }
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": metadata(spec, name, job_labels(spec, name, shape.component)),
            "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
        }
    ]


def pod_claims(spec: Common, name: str) -> list[dict[str, Any]]:
    """The pod's claims."""
    if not container_claims(spec):
        return []
    return [{"name": gpus.CLAIM, "resourceClaimTemplateName": name}]


def container_claims(spec: Common) -> list[dict[str, Any]]:
    """Which of them the container uses."""
    claimed = spec.gpus and gpus.kind(spec.gpu_kind).device_class is not None
    return [{"name": gpus.CLAIM}] if claimed else []
