"""Queues, gangs and places: what different schedulers read from a Job and its pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kij_train import names
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.shapes import Shape
from kij_train.spec import Common

SCHEDULER_NAMES = {"volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"}
"""schedulerName of the pods; coscheduling's is that of the scheduler-plugins Helm chart."""
PREFERENCE = 100
"""Weight of a preferred affinity, the largest that Kubernetes takes."""


@dataclass(frozen=True)
class SchedulingMetadata:
    """Labels and annotations for schedulers."""

    job_labels: dict[str, str] = field(default_factory=dict)
    job_annotations: dict[str, str] = field(default_factory=dict)
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)


def sorted_dict(mapping: Mapping[str, str]) -> dict[str, str]:
    """The mapping in the order of its keys."""
    return dict(sorted(mapping.items()))


def scheduling_metadata(spec: Common, name: str, shape: Shape) -> SchedulingMetadata:
    """What Kueue, Volcano and the coscheduling plugin want to read."""
    result = SchedulingMetadata()
    if spec.kueue is not None:
        result.job_labels[names.QUEUE] = spec.kueue
        if spec.queue_priority is not None:
            result.job_labels[names.KUEUE_PRIORITY] = spec.queue_priority
        if spec.topology is not None:
            label, _, mode = spec.topology.partition(":")
            required = mode == "required"
            result.pod_annotations[
                names.KUEUE_REQUIRED_TOPOLOGY if required else names.KUEUE_PREFERRED_TOPOLOGY
            ] = label
    if spec.scheduler == "volcano":
        # Volcano's own controller makes the PodGroup from it.
        result.job_annotations[names.VOLCANO_MIN_MEMBER] = str(shape.at_once)
        if spec.queue is not None:
            result.pod_annotations[names.VOLCANO_QUEUE] = spec.queue
    if spec.scheduler == "coscheduling":
        result.pod_labels[names.COSCHEDULING_GROUP] = name
    return result


def pod_groups(spec: Common, name: str, shape: Shape) -> list[dict[str, Any]]:
    """The PodGroup of schedulers that do not make one by themselves."""
    shared = {
        "kind": "PodGroup",
        "metadata": metadata(spec, name, job_labels(spec, name, shape.component)),
    }
    if spec.scheduler == "coscheduling":
        gang: dict[str, Any] = {
            "minMember": shape.at_once,
            "scheduleTimeoutSeconds": shape.gang_timeout_s,
        }
        return [{"apiVersion": "scheduling.x-k8s.io/v1alpha1", **shared, "spec": gang}]
    if spec.scheduler == "native":
        # Not the Job's own spec.scheduling of 1.37, which takes one more feature gate, in alpha.
        policy = {"schedulingPolicy": {"gang": {"minCount": shape.at_once}}}
        version = f"{names.NATIVE_GROUP}/{names.NATIVE_VERSIONS[0]}"
        return [{"apiVersion": version, **shared, "spec": policy}]
    return []


def affinity(spec: Common, name: str) -> dict[str, Any] | None:
    """Pod affinity for --topology, unless Kueue sees to it, and for --spread and --pack."""
    rules: dict[str, dict[str, Any]] = {}

    def add(kind: str, label: str, *, required: bool) -> None:
        selector = {"matchLabels": {names.LABEL_JOB_NAME: name}}
        term: dict[str, Any] = {"labelSelector": selector, "topologyKey": label}
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        if not required:
            key = "preferredDuringSchedulingIgnoredDuringExecution"
            term = {"weight": PREFERENCE, "podAffinityTerm": term}
        rules.setdefault(kind, {}).setdefault(key, []).append(term)

    if spec.topology is not None and spec.kueue is None:
        label, _, mode = spec.topology.partition(":")
        add("podAffinity", label, required=mode == "required")
    if spec.placement == "spread":
        add("podAntiAffinity", names.HOSTNAME, required=True)
    if spec.placement == "pack":
        add("podAffinity", names.HOSTNAME, required=False)
    return rules or None
