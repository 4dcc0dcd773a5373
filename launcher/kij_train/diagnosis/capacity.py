"""What machines have, and have free: what they can give, less what their pods have asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from kij_train import commands, gpus
from kij_train.diagnosis import offers
from kij_train.diagnosis.jobview import Object
from kij_train.units import quantity_value

FREE = "kij-train/free"
"""Key of a machine's status with what is free, by resource, as plain numbers."""


def which_nobody_has(resources: Iterable[str], machines: Iterable[Object]) -> list[str]:
    """The resources that no machine has at all. `machines` is read only as far as needed."""
    missing = list(dict.fromkeys(resources))
    for machine in machines:
        there = machine.get("status", {}).get("allocatable") or {}
        missing = [one for one in missing if quantity_value(str(there.get(one, "0"))) == 0]
        if not missing:
            break
    return missing


def without(resource: str, machines: Sequence[Object]) -> str:
    """What to do about a resource that no machine has; a command in it is a mark."""
    there = {
        name
        for machine in machines
        for name, count in (machine.get("status", {}).get("allocatable") or {}).items()
        if str(count) != "0"
    }
    others = {name: kind for name in sorted(there) if (kind := gpus.of_resource(name)) is not None}
    if others and gpus.of_resource(resource) is not None:
        flags = " or ".join(kind.flags for kind in others.values())
        have = ", ".join(f"{name} ({offers.a_machine(name, machines)})" for name in others)
        return f"their GPUs are {have}: {flags}"
    return f"what the machines have: {commands.command('doctor')}"


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
