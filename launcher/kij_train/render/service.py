"""The headless Service that gives every pod its DNS name."""

from __future__ import annotations

from typing import Any

from kij_train import names
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.shapes import Shape
from kij_train.spec import Common


def render_service(spec: Common, *, name: str, shape: Shape) -> dict[str, Any]:
    """`<name>-<index>.<name>` resolves to the pod of that index as soon as it has an address.

    The name must equal the pods' subdomain, and pods must be published before they are ready, since
    rank 0 is looked up while it starts.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec, name, job_labels(spec, name, shape.component)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB_NAME: name},
            "ports": [{"name": "rendezvous", "port": shape.service_port, "protocol": "TCP"}],
        },
    }
