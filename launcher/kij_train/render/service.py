"""The headless Service that gives every pod its DNS name."""

from __future__ import annotations

from typing import Any

from kij_train import names
from kij_train.render.metadata import job_labels, metadata
from kij_train.spec import DEFAULT_PORT, JobSpec


def render_service(spec: JobSpec, *, name: str) -> dict[str, Any]:
    """`<name>-<index>.<name>` resolves to the pod of that index as soon as it has an address.

    The name must equal the pods' subdomain, and pods must be published before they are ready, since
    rank 0 is looked up while it starts.
    """
    port = spec.port or DEFAULT_PORT
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec, name, job_labels(spec, name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB_NAME: name},
            "ports": [{"name": "rendezvous", "port": port, "protocol": "TCP"}],
        },
    }
