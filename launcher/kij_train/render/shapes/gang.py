"""N nodes that start again together, with --restart gang or elastic, and their spares."""

from __future__ import annotations

import json

from kij_train import names, pod
from kij_train.pod import gang
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT, SUPERVISOR_PORT, JobSpec

LOST_MACHINE_S = 5
"""Seconds until a pod on a machine that is not heard of is replaced; Kubernetes waits 300."""


def shape(spec: JobSpec, name: str) -> Shape:
    """The shape of a job that restarts: a supervisor is the first process of every pod."""
    port = (spec.port or DEFAULT_PORT) + SUPERVISOR_PORT
    settings = spec.gang_settings(
        [f"{name}-{{}}.{name}:{port}"], spec.max_restarts, spec.shared_paths
    )
    return Shape(
        # No podFailurePolicy: it forces podReplacementPolicy Failed, under which a pod on a dead
        # machine is not replaced until somebody removes it. backoffLimitPerIndex gives every index
        # a backoff of its own, from 10 s on; a shared one would double with every pod that is lost.
        policy={
            "completions": spec.pods,
            "parallelism": spec.pods,
            "backoffLimit": spec.max_restarts,
            "backoffLimitPerIndex": spec.max_restarts,
            "successPolicy": {"rules": [{"succeededCount": spec.least_nodes}]},
        },
        first_process=gang.SUPERVISOR.name,
        sources=(*pod.BESIDE, *gang.FILES),
        environment={gang.ENV_GANG: json.dumps(settings._asdict())},
        field_references={
            gang.ENV_POD_IP: "status.podIP",
            gang.ENV_GANG_ID: f"metadata.labels['{names.CONTROLLER_UID}']",
        },
        ports={"supervisor": port},
        # A pod is ready while its node trains. A pod that stands by is not ready.
        probes={
            "readinessProbe": {
                "tcpSocket": {"port": port + gang.READY_PORT},
                "periodSeconds": 5,
                "failureThreshold": 1,
            }
        },
        tolerations=[
            {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": LOST_MACHINE_S,
            }
            for key in (names.NOT_READY, names.UNREACHABLE)
        ],
    )
