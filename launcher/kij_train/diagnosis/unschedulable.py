"""Why no machine takes a pod: the scheduler's message in other words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from kij_train import commands, gpus
from kij_train.diagnosis import capacity
from kij_train.diagnosis.capacity import FREE
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import JobView, Object

MOST_TAINTS = 4
IN_BYTES = ("memory", "ephemeral-storage")
# Scheduler: "9 Insufficient nvidia.com/gpu" and so on, after "0/12 nodes are available: ".
_REASON = re.compile(r"(\d+) (.+?)(?=, \d+ |\. |\.?$)")
_INSUFFICIENT = re.compile(r"Insufficient (\S+)")
_TAINT = re.compile(r"node\(s\) had untolerated taint(?:\(s\))? ?\{?([^}]*)\}?")
_DEVICE_CLASS = re.compile(r"device class (\S+) does not exist")


def unschedulable(message: str, job: JobView, machines: Sequence[Object]) -> Finding:
    """The scheduler's message in other words: what is short on how many machines, which taints."""
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', message)
    if claim:
        return Finding(
            "missing-object",
            f"PersistentVolumeClaim {claim[1]} does not exist in the namespace",
            (message,),
            "create it, or leave out its --mount",
        )
    if "unbound immediate PersistentVolumeClaims" in message:
        return Finding(
            "volume-unbound",
            "a PersistentVolumeClaim has no volume yet",
            (message,),
            f"it needs a volume or a storage class: {commands.kubectl('get', 'pvc,storageclass')}",
        )
    device_class = _DEVICE_CLASS.search(message)
    if device_class:
        look = commands.command("doctor")
        return Finding(
            "missing-object",
            f"there is no DeviceClass {device_class[1]}, which it claims a device of",
            (message,),
            f"another --gpu-kind; those that there are: {look}",
        )
    if "gated" in message.lower() and "scheduling gate" in message.lower():
        return Finding("gated", "it has a scheduling gate that somebody must lift", (message,))
    total = re.match(r"(\d+)/(\d+) nodes are available: ", message)
    if total is None:
        said = (message,) if message else ()
        return Finding(
            "unschedulable",
            "no machine fits" if message else "the scheduler has found no machine yet",
            said,
        )
    reasons = _REASON.findall(message[total.end() :].partition(" preemption:")[0])
    parts, hints = [], []
    for count, text in reasons:
        part, hint = _reason(count, text, job, machines)
        parts.append(part)
        if hint and hint not in hints:
            hints.append(hint)
    summary = f"{total[1]} of {total[2]} machines fit: " + ", ".join(parts)
    return Finding("unschedulable", summary, (message,), " · ".join(hints) or None)


def _reason(
    count: str, text: str, job: JobView, machines: Sequence[Object]
) -> tuple[str, str | None]:
    short = _INSUFFICIENT.match(text)
    if short:
        resource = short[1].rstrip(".")
        asked = job.requests.get(resource)
        if machines and capacity.which_nobody_has([resource], machines):
            of = f" (asked {asked})" if asked else ""
            return f"no machine has {resource}{of}", capacity.without(resource, machines)
        words = f"{count} have too little {resource} free"
        about = [f"asked {asked}"] if asked else []
        largest = _largest(machines, resource)
        if largest is not None:
            about.append(f"the largest machine has {largest} in all")
        free = _most_free(machines, resource)
        if free is not None:
            about.append(f"the most that is free on one is {free}")
        gpu = gpus.of_resource(resource)
        flags = {"cpu": "--cpu", "memory": "--memory", "ephemeral-storage": "--disk"}
        flag = gpu.flags if gpu else flags.get(resource, f"--resource {resource}")
        return words + (f" ({', '.join(about)})" if about else ""), f"ask for less a node: {flag}"
    taint = _TAINT.match(text)
    if taint and taint[1].strip():
        return f"{count} have the taint {taint[1].strip()}", f"--toleration {_toleration(taint[1])}"
    if taint:  # newer schedulers do not say which
        known = sorted({_taint_text(one) for m in machines for one in _taints(m)})
        which = f" ({', '.join(known[:MOST_TAINTS])})" if known else ""
        hint = f"--toleration {known[0]}" if len(known) == 1 else None
        return f"{count} have a taint that it does not tolerate{which}", hint
    if "didn't match Pod's node affinity/selector" in text:
        selector = job.pod.get("nodeSelector") or {}
        wanted = ",".join(f"{key}={value}" for key, value in selector.items())
        return f"{count} do not match the node selector" + (
            f" {wanted}" if wanted else " or affinity"
        ), "check --node-selector"
    if "didn't match pod affinity rules" in text:
        places = f"which places there are: {commands.command('doctor')}"
        return f"{count} are not in the place of its other pods, or in none", places
    if "cannot allocate all claims" in text:
        has = "has" if count == "1" else "have"
        return f"{count} {has} no device free for its claim", (
            "wait until others end, or another kind: --gpu-kind"
        )
    if "were unschedulable" in text:
        return f"{count} are cordoned", None
    return f"{count} {text}", None


def _taints(machine: Object) -> list[Object]:
    """Those that keep pods away."""
    taints = machine.get("spec", {}).get("taints") or []
    return [one for one in taints if one.get("effect") != "PreferNoSchedule"]


def _taint_text(taint: Object) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}"


def _toleration(taint: str) -> str:
    key, _, value = taint.strip().partition(":")
    return f"{key.strip()}={value.strip()}" if value.strip() else key.strip()


def _largest(machines: Sequence[Object], resource: str) -> str | None:
    from kij_train.units import format_bytes, quantity_value

    values = [m.get("status", {}).get("allocatable", {}).get(resource) for m in machines]
    found = [str(value) for value in values if value is not None]
    if not found:
        return None
    largest = max(found, key=quantity_value)
    return format_bytes(int(quantity_value(largest))) if resource in IN_BYTES else largest


def _most_free(machines: Sequence[Object], resource: str) -> str | None:
    """On a machine that takes pods at all; None where nobody knows."""
    from kij_train.units import format_bytes

    able = [m for m in machines if not m.get("spec", {}).get("unschedulable")]
    known = [m["status"][FREE] for m in able if FREE in m.get("status", {})]
    if not known:
        return None
    most = max(max(free.get(resource, Decimal(0)), Decimal(0)) for free in known)
    return format_bytes(int(most)) if resource in IN_BYTES else f"{most.normalize():f}"
