"""What autoscalers say of a pod without a place: a node is being bought for it, or none will come.

The words are those of Karpenter 1.13 (pkg/controllers/provisioning/scheduling there), of Cluster
Autoscaler (processors/status/eventing_scale_up_processor.go, core/scaleup/orchestrator), and of
GKE's, which has one event more: FailedScaleUp. The newest of their events counts: each of them
looks again until the pod has a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kij_train import commands
from kij_train.diagnosis.jobview import Object

MOST_NAMED = 4

_KARPENTER = "Failed to schedule pod, "
_NOMINATED = re.compile(r"Pod should schedule on: (?:nodeclaim/(\S+?))?(?:, )?(?:node/(\S+))?$")
_TRIGGERED = re.compile(r"pod triggered scale-up: \[(.*)\]", re.IGNORECASE)
_GROUP = re.compile(r"\{(\S+) (\d+)->(\d+) \(max: (\d+)\)\}")
_COUNTED = re.compile(r"(\d+) (.+?)(?=, \d+ |$)")
_FAILED = re.compile(r"Node scale up in zones (.*?) ?associated with this pod failed: (.*?)\. Pod")
_POOL = r' ?(?:\(NodePool=(?:/)?([^),\s]+)\)|"([^"]+)")?'
_LIMITS = re.compile(rf"(?:exceed limits|limits have been exhausted) for nodepool{_POOL}")
_OTHER_POOL = "incompatible requirements, key karpenter.sh/nodepool,"
_TAINT = re.compile(r"did not tolerate taint \(taint=([^)]+)\)")
_TAINT_BEFORE_1_6 = re.compile(r"did not tolerate (\S+=?\S*:\w+)")
_LABEL = re.compile(
    r'label "([^"]+)" does not have known values|key (\S+?), \S+ (?:In|NotIn|Exists)'
)
_NO_TYPE = re.compile(r"no instance type (.*?)(?:, requirements=|, resources=|$)")


@dataclass(frozen=True)
class Purchase:
    """What an autoscaler does about a pod."""

    comes: bool
    """Whether a node is being bought."""
    summary: str
    said: str
    """The autoscaler's own words."""
    hint: str | None = None
    """A command in it is a mark."""


def of_pod(events: Sequence[Object]) -> Purchase | None:
    """The newest word of an autoscaler about a pod; `events` are the pod's, oldest first."""
    for event in reversed(events):
        read = _READERS.get(str(event.get("reason")))
        found = read(str(event.get("message", ""))) if read is not None else None
        if found is not None:
            return found
    return None


def is_of_karpenter(message: str) -> bool:
    """Whether an event FailedScheduling is Karpenter's, and not the scheduler's."""
    return message.startswith(_KARPENTER)


def _nominated(message: str) -> Purchase | None:
    found = _NOMINATED.match(message)
    if found is None:
        return None
    claim, node = found.groups()
    if node is not None:
        return Purchase(True, "Karpenter expects it on a node that gets ready", message)
    look = commands.kubectl("describe", "nodeclaim", claim) if claim else None
    hint = f"how far it is: {look}" if look else None
    return Purchase(True, "Karpenter is buying a node for it", message, hint)


def _not_by_karpenter(message: str) -> Purchase | None:
    if not is_of_karpenter(message):
        return None
    phrases, hints = [], []
    parts = message.removeprefix(_KARPENTER).split("; ")
    # A pod that names its pool hears from all others that they are not that one.
    chosen = [part for part in parts if _OTHER_POOL not in part]
    for part in chosen or parts:
        phrase, hint = _of_pool(part)
        if phrase not in phrases:
            phrases.append(phrase)
        if hint and hint not in hints:
            hints.append(hint)
    summary = f"no node will come, says Karpenter: {_listed(phrases)}"
    return Purchase(False, summary, message, " · ".join(hints) or None)


def _of_pool(part: str) -> tuple[str, str | None]:
    """Why one NodePool has no node for the pod, and what to do about it."""
    limits = _LIMITS.search(part)
    if limits is not None:
        name = limits[1] or limits[2]
        return (
            f"NodePool {name} is at its limits" if name else "a NodePool is at its limits",
            "wait until other nodes go, ask for less a node, or have an admin raise the limits: "
            + commands.kubectl("get", "nodepools"),
        )
    if (taint := _TAINT.search(part) or _TAINT_BEFORE_1_6.search(part)) is not None:
        return (
            f"a NodePool has the taint {taint[1]}, which it does not tolerate",
            f"--toleration {taint[1]}",
        )
    if "Dynamic Resource Allocation" in part:
        return (
            "Karpenter buys no nodes for pods with claims",
            "GPUs as a counted resource: leave out --gpu-kind dra",
        )
    if (label := _LABEL.search(part)) is not None:
        return (
            f"no NodePool makes nodes that fit in {label[1] or label[2]}",
            "another --node-selector, or leave it out",
        )
    if (none := _NO_TYPE.search(part)) is not None:
        return (f"no instance type {none[1]}", "ask for less a node, or for what the pools allow")
    return part.strip(), None


def _triggered(message: str) -> Purchase | None:
    found = _TRIGGERED.search(message)
    if found is None:
        return None
    groups = [
        f"{group.rpartition('/')[2]} grows from {old} to {new} of at most {most} nodes"
        for group, old, new, most in _GROUP.findall(found[1])
    ]
    summary = "a node is being bought for it"
    return Purchase(True, f"{summary}: {_listed(groups)}" if groups else summary, message)


_WORDS = {
    "max node group size reached": (
        "at their largest size",
        "wait until others end, or have an admin raise the maximum of the node group",
    ),
    "in backoff after failed scale-up": (
        "paused, since the last purchase failed (quota, or the cloud has none)",
        "it tries again by itself; another zone or kind of machine: --node-selector",
    ),
    "not ready for scale-up": ("not ready", "an admin must look at the node group"),
}
"""Of a node group, by the autoscaler's reason: what is said, and what to do."""


def _not_triggered(message: str) -> Purchase | None:
    head, colon, rest = message.partition("scale-up:")
    if "trigger scale-up" not in head + colon:
        return None
    phrases, hints = [], []
    for count, reason in _COUNTED.findall(rest.strip()):
        many = f"{count} node group{'' if count == '1' else 's'}"
        words, hint = _WORDS.get(reason, (None, None))
        phrases.append(f"{many} {words}" if words else f"{many}: {reason}")
        if hint and hint not in hints:
            hints.append(hint)
    if not phrases:
        phrases = [rest.strip() or "no node group has machines that it would fit on"]
    if not hints:
        hints = ["ask for what the node groups have: GPUs, --node-selector, --toleration"]
    waits = "in backoff" in rest
    sure = "no node comes for now" if waits else "no node will come"
    summary = f"{sure}, says the cluster's autoscaler: {_listed(phrases)}"
    return Purchase(False, summary, message, " · ".join(hints))


def _failed(message: str) -> Purchase | None:
    found = _FAILED.match(message)
    if found is None:
        return None
    where = f" in {found[1]}" if found[1] else ""
    return Purchase(
        False,
        f"a node was asked for{where} and not given: {found[2]}",
        message,
        "GKE tries again by itself; another zone or kind of machine: --node-selector; in a queue "
        "that waits for all nodes (flex-start): --queue NAME",
    )


def _listed(phrases: Sequence[str]) -> str:
    return ", ".join(_cut(phrases))


def _cut(phrases: Sequence[str]) -> Iterator[str]:
    yield from phrases[:MOST_NAMED]
    if len(phrases) > MOST_NAMED:
        yield f"and {len(phrases) - MOST_NAMED} more"


_READERS = {
    "Nominated": _nominated,
    "FailedScheduling": _not_by_karpenter,
    "TriggeredScaleUp": _triggered,
    "NotTriggerScaleUp": _not_triggered,
    "FailedScaleUp": _failed,
}
"""Reason of an event → what it tells."""
