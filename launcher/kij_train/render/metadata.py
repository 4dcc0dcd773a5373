"""Labels and annotations that all objects share."""

from __future__ import annotations

from typing import Any

from kij_train import names
from kij_train.spec import Common


def shared_labels(spec: Common, component: str) -> dict[str, str]:
    """Labels of objects that may belong to several jobs."""
    return {
        **spec.labels,
        names.LABEL_NAME: names.MANAGER,
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_COMPONENT: component,
    }


def job_labels(spec: Common, name: str, component: str) -> dict[str, str]:
    """Labels of objects that belong to one job."""
    return {**shared_labels(spec, component), names.LABEL_INSTANCE: name}


def metadata(spec: Common, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Object metadata; the namespace only where one is known."""
    result: dict[str, Any] = {"name": name}
    if spec.namespace is not None:
        result["namespace"] = spec.namespace
    return {**result, "labels": dict(sorted(labels.items()))}
