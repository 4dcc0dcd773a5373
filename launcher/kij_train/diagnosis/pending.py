"""Why nodes do not run yet: the words of scheduler, kubelet and quota, in one sentence."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kij_train import commands, names
from kij_train.diagnosis import buying, causes
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import JobView, Object
from kij_train.diagnosis.phases import Node, Phase
from kij_train.diagnosis.refusals import refusal_in
from kij_train.diagnosis.unschedulable import unschedulable

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
