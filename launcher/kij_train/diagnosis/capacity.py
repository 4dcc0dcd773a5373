"""What machines have free: what they can give, less what the pods on them have asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from kij_train.diagnosis.phases import Object
from kij_train.units import quantity_value

FREE = "kij-train/free"
"""Key of a machine's status with what is free, by resource, as plain numbers."""


def with_free(machines: Sequence[Object], pods: Iterable[Object]) -> list[dict[str, Any]]:
    """The Node objects with FREE in their status; `pods` are those of all namespaces."""
    used: dict[str, dict[str, Decimal]] = {}
    for pod in pods:
        machine = pod.get("spec", {}).get("nodeName")
        if not machine or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        taken = used.setdefault(str(machine), {})
        for container in pod["spec"].get("containers") or []:
            for resource, amount in (
                (container.get("resources") or {}).get("requests") or {}
            ).items():
                taken[resource] = taken.get(resource, Decimal(0)) + quantity_value(str(amount))
    found = []
    for machine in machines:
        status = dict(machine.get("status", {}))
        taken = used.get(str(machine["metadata"]["name"]), {})
        status[FREE] = {
            resource: quantity_value(str(amount)) - taken.get(resource, Decimal(0))
            for resource, amount in (status.get("allocatable") or {}).items()
        }
        found.append({**machine, "status": status})
    return found
