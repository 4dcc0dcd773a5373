"""The NetworkPolicy of a job."""

from __future__ import annotations

from typing import Any

from kij_train import names
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.shapes import Shape
from kij_train.spec import Common


def network_policies(spec: Common, *, name: str, shape: Shape) -> list[dict[str, Any]]:
    """Ingress to the job's pods: from each other on all ports, and from whom the user allows.

    The API server, exec, port forwarding and probes come through the kubelet of the pod's machine,
    which no NetworkPolicy keeps out. Pods of the host's network are outside of it as well.
    """
    if not spec.network_policy:
        return []
    own = {"matchLabels": {names.LABEL_JOB_NAME: name}}
    peers: list[dict[str, Any]] = [{"podSelector": own}]
    for each in spec.allow_from:
        if each.namespace:
            labels = {names.NAMESPACE_NAME: each.namespace}
            peers.append({"namespaceSelector": {"matchLabels": labels}})
        elif each.pods:
            peers.append({"podSelector": {"matchLabels": dict(each.pods)}})
        else:
            peers.append({"ipBlock": {"cidr": each.addresses}})
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(spec, name, job_labels(spec, name, shape.component)),
            "spec": {
                "podSelector": own,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": peers}],
            },
        }
    ]
