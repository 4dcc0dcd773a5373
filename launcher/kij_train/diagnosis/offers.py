"""What a cluster offers: GPUs of which kind, shared by whom, bought by whom.

What is shared is read from labels that NVIDIA's GPU feature discovery writes, as RESOURCE.replicas
and RESOURCE.sharing-strategy, and GKE, which has one label for a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kij_train import gpus
from kij_train.diagnosis.jobview import Object

SHARED_BY = ("time-slicing", "mps")
"""Values of sharing-strategy; without sharing it is `none`."""
SHARING = f"{gpus.WHOLE_RESOURCE}.sharing-strategy"
SLICES = f"{gpus.WHOLE_RESOURCE}.slices.gi"
"""Label of machines whose whole GPUs are slices, by MIG's strategy "single"."""
PRODUCT = f"{gpus.WHOLE_RESOURCE}.product"
_INVALID = "MIG-INVALID"
GKE_SHARING = "cloud.google.com/gke-gpu-sharing-strategy"
_GKE_CLIENTS = "cloud.google.com/gke-max-shared-clients-per-gpu"
KARPENTER = ("karpenter.sh", "nodepools")
DEVICE_CLASSES = ("resource.k8s.io", "deviceclasses")
MOST_NAMED = 8


@dataclass(frozen=True)
class Offer:
    """What the machines of a cluster have."""

    counted: tuple[str, ...]
    """As `2 × 8 nvidia.com/gpu`: machines, and how many each of them has."""
    notes: tuple[str, ...]
    """What is special about some."""
    hint: str | None
    """What to do about that."""


def of_machines(machines: Sequence[Object]) -> Offer:
    """The GPUs of all machines, and what a user must know who asks for them."""
    kinds: Counter[tuple[str, str]] = Counter()
    for machine in machines:
        for resource, count in _allocatable(machine).items():
            if gpus.of_resource(resource) or "gpu" in resource.rpartition("/")[2]:
                kinds[(resource, str(count))] += str(count) != "0"
    counted = [f"{n} × {count} {resource}" for (resource, count), n in sorted(kinds.items()) if n]
    notes = Counter(note for machine in machines for note in _notes(machine))
    said = [f"on {n} machine{'' if n == 1 else 's'}, {note}" for note, n in sorted(notes.items())]
    hint = None
    if any(_shares_whole(machine) for machine in machines):
        hint = (
            f"train on whole GPUs: --node-selector {SHARING}=none; an admin can give shares a name "
            "of their own (renameByDefault: true), for --gpu-kind shared"
        )
    return Offer(tuple(counted), tuple(said), hint)


def a_machine(resource: str, machines: Sequence[Object]) -> str:
    """How many of it the machines have: `8 a machine`, or `2 to 8 a machine`."""
    counts = {int(count) for m in machines if (count := _count(m, resource)) not in ("", "0")}
    if not counts:
        return "none"
    low, high = min(counts), max(counts)
    return f"{high} a machine" if low == high else f"{low} to {high} a machine"


def of_pool(pool: Object) -> str:
    """A NodePool of Karpenter, with what it has of its limits."""
    limits, there = pool["spec"].get("limits") or {}, pool.get("status", {}).get("resources") or {}
    used = [f"{there.get(what, 0)} of {most} {what}" for what, most in sorted(limits.items())]
    said = f"{pool['metadata']['name']} ({', '.join(used) or 'no limits'})"
    ready = [c for c in pool.get("status", {}).get("conditions") or () if c["type"] == "Ready"]
    if ready and ready[0]["status"] != "True":
        said += f", buys nothing: {ready[0].get('message')}"
    return said


def of_classes(classes: Sequence[Object]) -> str:
    """DeviceClasses for claims, as a user asks for them."""
    names = sorted(str(one["metadata"]["name"]) for one in classes)
    asked = [gpus.claim_of(name) for name in names[:MOST_NAMED]]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"--gpu-kind {', '.join(asked)}{more}"


def _notes(machine: Object) -> Iterator[str]:
    labels = _labels(machine)
    for resource in _allocatable(machine):
        # Labels keep the name of what is shared, also where a share has a name of its own.
        whole = resource.removesuffix(".shared")
        strategy = labels.get(f"{whole}.sharing-strategy")
        if strategy in SHARED_BY:
            by = labels.get(f"{whole}.replicas", "several")
            yield f"{by} pods share one GPU ({strategy}): for evaluations, not for training"
    if GKE_SHARING in labels:
        by = labels.get(_GKE_CLIENTS, "several")
        yield f"{by} pods share one GPU ({labels[GKE_SHARING]}): for evaluations, not for training"
    if _INVALID in labels.get(PRODUCT, ""):
        yield "MIG is not set up as its strategy wants it, and no GPU is there: an admin must look"
    elif SLICES in labels and has_whole(machine):
        yield f"{gpus.WHOLE_RESOURCE} is a MIG slice ({labels.get(PRODUCT, 'of any size')})"


def has_whole(machine: Object) -> bool:
    """Whether it has something by the name of whole GPUs."""
    return _count(machine, gpus.WHOLE_RESOURCE) not in ("", "0")


def _shares_whole(machine: Object) -> bool:
    return has_whole(machine) and _labels(machine).get(SHARING) in SHARED_BY


def _labels(machine: Object) -> dict[str, str]:
    return {str(k): str(v) for k, v in (machine["metadata"].get("labels") or {}).items()}


def _allocatable(machine: Object) -> dict[str, str]:
    found = machine.get("status", {}).get("allocatable") or {}
    return {str(resource): str(count) for resource, count in found.items()}


def _count(machine: Object, resource: str) -> str:
    return _allocatable(machine).get(resource, "")
