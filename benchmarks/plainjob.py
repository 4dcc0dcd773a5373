"""The job that one writes by hand for torchrun: what kij-train is compared with.

A headless Service and an Indexed Job, and nothing that kij-train adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PORT = 29500
_OF_JOB = "batch.kubernetes.io/job-name"


def torchrun(name: str, pods: int, *script: str) -> list[str]:
    """torchrun with its static rendezvous, a rank a pod."""
    return [
        "torchrun",
        f"--nnodes={pods}",
        "--nproc-per-node=1",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}",
        f"--master-port={PORT}",
        *script,
    ]


def objects(
    name: str,
    image: str,
    pods: int,
    command: list[str],
    volumes: Mapping[str, Mapping[str, Any]],
    *,
    env: Mapping[str, str] | None = None,
    backoff: int = 0,
    apart: bool = False,
) -> list[dict[str, Any]]:
    """The Service, then the Job.

    `volumes` are sources as a pod spells them, by the path that they are mounted at; `apart`: no
    two pods on one machine.
    """
    service = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {_OF_JOB: name},
    }
    container: dict[str, Any] = {
        "name": "train",
        "image": image,
        "command": command,
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "volumeMounts": [{"name": path.strip("/"), "mountPath": path} for path in volumes],
    }
    pod: dict[str, Any] = {
        "subdomain": name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": path.strip("/"), **source} for path, source in volumes.items()],
    }
    if apart:
        away = {
            "labelSelector": {"matchLabels": {_OF_JOB: name}},
            "topologyKey": "kubernetes.io/hostname",
        }
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        pod["affinity"] = {"podAntiAffinity": {required: [away]}}
    job = {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": backoff,
        "template": {"spec": pod},
    }
    metadata = {"name": name}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job},
    ]
