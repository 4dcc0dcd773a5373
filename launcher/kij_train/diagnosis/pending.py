"""Why nodes do not run yet: the words of scheduler, kubelet and quota, in one sentence."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from kij_train import commands, gpus, names
from kij_train.diagnosis import buying, capacity, causes
from kij_train.diagnosis.capacity import FREE
from kij_train.diagnosis.jobview import JobView, Object
from kij_train.diagnosis.phases import Node, Phase
from kij_train.diagnosis.refusals import refusal_in


@dataclass(frozen=True)
class Finding:
    """One thing that explains the state of a job."""

    kind: str
    """Stable, for scripts: `unschedulable`, `image-pull`, `exception`."""
    summary: str
    evidence: tuple[str, ...] = ()
    """What the objects say, quoted."""
    hint: str | None = None
    """What to do about it. A command in it is a mark (commands.py), which `why` fills."""


MOST_TAINTS = 4
IN_BYTES = ("memory", "ephemeral-storage")
# Scheduler: "9 Insufficient nvidia.com/gpu" and so on, after "0/12 nodes are available: ".
_REASON = re.compile(r"(\d+) (.+?)(?=, \d+ |\. |\.?$)")
_INSUFFICIENT = re.compile(r"Insufficient (\S+)")
_TAINT = re.compile(r"node\(s\) had untolerated taint(?:\(s\))? ?\{?([^}]*)\}?")
_DEVICE_CLASS = re.compile(r"device class (\S+) does not exist")
_IMAGE = re.compile(r'image "([^"]+)"')


def of_nodes(
    nodes: Sequence[Node], job: JobView, events: Sequence[Object], machines: Sequence[Object]
) -> list[Finding]:
    """Findings about nodes that do not run; those that say the same are one."""
    by_pod = _events_by_pod(events)
    grouped: dict[tuple[str, str], list[tuple[Node, Finding]]] = defaultdict(list)
    for node in nodes:
        if node.pod is None:
            continue
        if node.phase in (Phase.PENDING, Phase.STARTING, Phase.PULLING):
            finding = _of_node(node, by_pod.get(node.pod, []), job, machines)
            if finding is not None:
                grouped[(finding.kind, finding.summary)].append((node, finding))
    return [
        Finding(
            first.kind,
            _count(len(group), len(nodes)) + first.summary,
            first.evidence,
            first.hint,
        )
        for group in grouped.values()
        for first in [group[0][1]]
    ]


def of_creation(events: Iterable[Object]) -> list[Finding]:
    """Why the Job controller could not create pods, from its events; the newest word counts."""
    failed = [e for e in sorted_events(events) if e.get("reason") == "FailedCreate"]
    if not failed:
        return []
    message = str(failed[-1].get("message", ""))
    known = refusal_in(message, "its pods")
    if known is not None:
        return [Finding(known.kind, f"the namespace {known.clause}", (known.said,), known.hint)]
    said = message.partition("is forbidden: ")[2] or message
    return [Finding("refused", "the cluster refuses to create its pods", (said,))]


def _of_node(
    node: Node, events: Sequence[Object], job: JobView, machines: Sequence[Object]
) -> Finding | None:
    finding = (
        _image(node, events)
        or _config(node, events)
        or _mount(node, events, job)
        or _sandbox(node, events)
    )
    if finding is not None:
        return finding
    said = unfit(events)
    if node.reason == "Unschedulable" or said:
        return _with_purchase(unschedulable(said or "", job, machines), events)
    return None


def unfit(events: Sequence[Object]) -> str | None:
    """The scheduler's newest word on why a pod has no place; Karpenter has events of that name."""
    own = [each for each in events if not buying.is_of_karpenter(str(each.get("message", "")))]
    return _last(own, "FailedScheduling")


def _with_purchase(finding: Finding, events: Sequence[Object]) -> Finding:
    """With what an autoscaler does about it, where there is one."""
    purchase = buying.of_pod(events)
    if purchase is None:
        return finding
    return replace(
        finding,
        kind="node-coming" if purchase.comes else "no-node-coming",
        summary=f"{purchase.summary}; now {finding.summary}"
        if purchase.comes
        else f"{finding.summary}; {purchase.summary}",
        evidence=(*finding.evidence, purchase.said),
        hint=purchase.hint if purchase.comes else purchase.hint or finding.hint,
    )


def _image(node: Node, events: Sequence[Object]) -> Finding | None:
    if node.reason == "InvalidImageName":
        said = _last(events, "InspectFailed", "Failed") or ""
        return Finding(
            "image-name", "the image's name is none", _quoted(said), "--image NAME[:TAG]"
        )
    if node.reason not in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"):
        return None
    said = _last_with(events, r"pull image|not present|rpc error|Failed to") or ""
    image = _IMAGE.search(said)
    what = f"image {image[1]} cannot be pulled" if image else "the image cannot be pulled"
    lower = said.lower()
    if node.reason == "ErrImageNeverPull":
        return Finding(
            "image-pull",
            f"{what}: it is not on the machine, and --image-pull-policy is Never",
            _quoted(said),
            "--image-pull-policy IfNotPresent",
        )
    if "toomanyrequests" in lower or "rate limit" in lower:
        return Finding(
            "image-rate-limit",
            f"{what}: the registry's rate limit",
            _quoted(said),
            "log in to the registry: --image-pull-secret NAME",
        )
    if "unauthorized" in lower or "denied" in lower or "authentication" in lower or "403" in lower:
        return Finding(
            "image-auth",
            f"{what}: the registry wants credentials, or there is no such image",
            _quoted(said),
            "--image-pull-secret NAME, or check the name",
        )
    if "not found" in lower or "manifest unknown" in lower:
        return Finding(
            "image-not-found",
            f"{what}: there is no such name or tag",
            _quoted(said),
            "check --image",
        )
    return Finding(
        "image-pull", what, _quoted(said), "check --image, and that the machines reach the registry"
    )


def _config(node: Node, events: Sequence[Object]) -> Finding | None:
    if node.reason not in (
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ):
        return None
    said = _last(events, "Failed") or ""
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', said)
    if missing:
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[missing[1]]
        what = ("secret", "generic") if kind == "Secret" else ("configmap",)
        return Finding(
            "missing-object",
            f"{kind} {missing[2]} does not exist in the namespace",
            _quoted(said),
            f"create it: {commands.kubectl('create', *what, missing[2])} …",
        )
    key = re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S+/(\S+)", said)
    if key:
        return Finding("missing-key", f"{key[2]} {key[3]} has no key {key[1]}", _quoted(said))
    if "runAsNonRoot" in said:
        return Finding(
            "run-as-root",
            "the image runs as root, which its namespace forbids",
            _quoted(said),
            "--run-as-user 1000",
        )
    known = causes.of_message(said)
    if known is not None and known.summary is not None:
        return Finding(known.kind, known.summary, _quoted(said), known.hint)
    return Finding("container-create", "the container cannot be created", _quoted(said))


def _mount(node: Node, events: Sequence[Object], job: JobView) -> Finding | None:
    if node.phase is not Phase.STARTING:
        return None
    said = _last(events, "FailedMount", "FailedAttachVolume", "FailedMapVolume")
    if said is None:
        return None
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', said)
    if missing:
        return _missing_volume(missing[1], missing[2], said, job)
    path = re.search(r"hostPath type check failed: (\S+)", said)
    if path:
        return Finding("mount", f"the host path {path[1]} is not on its machine", _quoted(said))
    if "Multi-Attach" in said:
        return Finding(
            "volume-elsewhere",
            "a claim's volume is attached to another machine, and only one at a time can have it "
            "(ReadWriteOnce)",
            _quoted(said),
            "take a claim with ReadWriteMany, or one machine for all pods: --node-selector "
            "kubernetes.io/hostname=MACHINE",
        )
    return Finding("mount", "a volume cannot be mounted", _quoted(said), "check --mount")


def _missing_volume(kind: str, name: str, said: str, job: JobView) -> Finding:
    """A Secret or ConfigMap of a volume: of the code, of a --mount, or of what a policy added."""
    volumes = job.pod.get("volumes") or []
    of_volumes = {str(volume["name"]): json.dumps(volume) for volume in volumes}
    by = [volume for volume, text in of_volumes.items() if json.dumps(name) in text]
    what = f"{'Secret' if kind == 'secret' else 'ConfigMap'} {name}"
    if names.CODE_VOLUME in by:
        return Finding(
            "missing-code",
            f"{what}, which carries its code, does not exist in the namespace",
            _quoted(said),
            "launch it again, with --replace; where it was applied, apply all that kij-train "
            f"render prints: {commands.kubectl('apply', '--server-side', '-f', '-')}",
        )
    if by:
        return Finding(
            "missing-object",
            f"{what}, which it mounts, does not exist in the namespace",
            _quoted(said),
            "create it, or leave out its --mount",
        )
    return Finding(
        "missing-object",
        f"{what}, which the cluster has added to its pods, does not exist in the namespace",
        _quoted(said),
        "ask whoever has it added",
    )


def _sandbox(node: Node, events: Sequence[Object]) -> Finding | None:
    said = _last(events, "FailedCreatePodSandBox", "NetworkNotReady")
    if said is None or node.phase is not Phase.STARTING:
        return None
    return Finding(
        "sandbox",
        "the pod's network or sandbox cannot be made on its machine",
        _quoted(said),
        "another machine: --node-selector; an admin must look at this one",
    )


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


def _count(some: int, total: int) -> str:
    if total == 1:
        return ""
    return f"all {total} nodes: " if some == total else f"{some} of {total} nodes: "


def _quoted(message: str) -> tuple[str, ...]:
    return (message.strip(),) if message.strip() else ()


def _events_by_pod(events: Iterable[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = defaultdict(list)
    for event in sorted_events(events):
        found[str(event.get("involvedObject", {}).get("name"))].append(event)
    return found


def sorted_events(events: Iterable[Object]) -> list[Object]:
    """Oldest first; an event that is counted up has its newest time."""
    return sorted(events, key=time_of_event)


def time_of_event(event: Object) -> str:
    """As the API server writes it; empty where nobody knows."""
    return str(
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def _last(events: Sequence[Object], *reasons: str) -> str | None:
    said = [str(event.get("message", "")) for event in events if event.get("reason") in reasons]
    return said[-1] if said else None


def _last_with(events: Sequence[Object], pattern: str) -> str | None:
    said = [
        str(e.get("message", ""))
        for e in events
        if e.get("type") == "Warning" or "pull" in str(e.get("reason", "")).lower()
    ]
    return next((text for text in reversed(said) if re.search(pattern, text)), None)
