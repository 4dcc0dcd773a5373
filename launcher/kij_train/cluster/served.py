"""What is rendered offline, in the form that this server takes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from kij_train import names
from kij_train.errors import RefusedError
from kij_train.pod import gang

if TYPE_CHECKING:
    from kij_train.cluster.client import Cluster

RESERVE_MINOR = 33
"""Kubernetes 1.x from which on the fields are stable by which a lost index is replaced by one of
the reserve; before, an administrator may have turned them off."""


def as_served(cluster: Cluster, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects as this server takes them; asks for what it has only where that matters.

    Kubernetes' own PodGroup gets the version that the server has. A job that restarts has no
    reserve on servers before 1.33. Where the server does not say, or has none of them, all stays
    as it is, for the create to fail.
    """
    objects = _pod_groups(cluster, objects)
    if not any(_has_reserve(body) for body in objects if body["kind"] == "Job"):
        return objects
    try:
        version = cluster.version()
    except RefusedError:
        return objects
    if minor(version) >= RESERVE_MINOR:
        return objects
    return [without_reserve(body) if body["kind"] == "Job" else body for body in objects]


def minor(version: dict[str, Any]) -> int:
    """37 of 1.37, from what /version says; 0 where it is no number."""
    return int("".join(filter(str.isdigit, str(version["minor"]))) or 0)


def _settings_variables(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that tell the supervisors how the job restarts."""
    return [
        variable
        for container in job["spec"]["template"]["spec"].get("containers") or []
        for variable in container.get("env") or []
        if variable["name"] == gang.ENV_GANG
    ]


def _has_reserve(job: dict[str, Any]) -> bool:
    return any(json.loads(each["value"])["reserve"] for each in _settings_variables(job))


def without_reserve(job: dict[str, Any]) -> dict[str, Any]:
    """The same job in the older form: a lost index comes back, with another pod, after 10 s.

    An index has its own backoff, which begins at 10 s and doubles; that of all pods together would
    double with every loss.
    """
    job = copy.deepcopy(job)
    spec = job["spec"]
    losses = spec.pop("maxFailedIndexes")
    spec["completions"] = spec["parallelism"]
    spec["backoffLimit"] = spec["backoffLimitPerIndex"] = losses
    for variable in _settings_variables(job):
        variable["value"] = json.dumps({**json.loads(variable["value"]), "reserve": 0})
    return job


def _pod_groups(cluster: Cluster, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not any(_is_native_group(body) for body in objects):
        return objects
    try:
        served = cluster.versions(names.NATIVE_GROUP)
    except RefusedError:
        return objects
    best = next((one for one in names.NATIVE_VERSIONS if one in served), None)
    if best is None:
        return objects
    return [
        {**body, "apiVersion": f"{names.NATIVE_GROUP}/{best}"} if _is_native_group(body) else body
        for body in objects
    ]


def _is_native_group(body: dict[str, Any]) -> bool:
    version = str(body["apiVersion"])
    return body["kind"] == "PodGroup" and version.startswith(f"{names.NATIVE_GROUP}/")
