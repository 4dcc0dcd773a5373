"""Make a Job the owner of what was applied with it, so that it goes when the Job goes.

`launch` makes the Job first and has it own the rest. What `kij-train render` prints knows no uid
yet: `kubectl apply` makes objects that nobody owns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kij_train import names
from kij_train.cluster.apierrors import GoneError
from kij_train.errors import KijError

if TYPE_CHECKING:
    from kij_train.cluster.client import Cluster

Object = Mapping[str, Any]


def owner_reference(job: Object) -> Object:
    """A reference to the Job as owner, which does not block the Job's deletion."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }


def adopt_applied(cluster: Cluster, job: Object) -> None:
    """Before a Job is deleted: make it the owner of what was applied with it.

    Code is named by its content, and other jobs may use the same. They become owners as well, so
    that the code is removed with the last of them. Where something cannot be adopted, a warning
    names what is left behind.
    """
    left: list[tuple[str, KijError]] = []
    if is_applied(job):
        for kind, name in _own_objects(job):
            try:
                if _is_of(cluster.get(kind, name), job):
                    _own(cluster, kind, name, [job])
            except GoneError:
                continue
            except KijError as error:
                left.append((f"{kind.lower()}/{name}", error))
    try:
        share_code(cluster, code_of(job), job)
    except KijError as error:
        left += [(f"configmap/{name}", error) for name in code_of(job)]
    if left and is_applied(job):
        remove = cluster.address.kubectl("delete", *(each for each, _ in left))
        cluster.warnings.append(
            f"what was applied with {job['metadata']['name']} is left ({left[0][1]}); remove it: "
            f"{remove}"
        )


def share_code(cluster: Cluster, config_maps: list[str], job: Object) -> None:
    """Let all jobs with this code own it, where one of them was applied: nobody owns its code."""
    selector = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
    others = cluster.list("Job", labelSelector=selector)
    users = [job, *(each for each in others if each["metadata"]["uid"] != job["metadata"]["uid"])]
    for name in config_maps:
        owners = [each for each in users if name in code_of(each)]
        if any(map(is_applied, owners)):
            with contextlib.suppress(GoneError):
                _own(cluster, "ConfigMap", name, owners)


def _own(cluster: Cluster, kind: str, name: str, jobs: list[Object]) -> None:
    owners = [owner_reference(job) for job in jobs]
    cluster.patch(kind, name, {"metadata": {"ownerReferences": owners}})


def is_applied(job: Object) -> bool:
    """Whether the Job was applied from rendered objects, and not launched."""
    return names.SUBMISSION not in (job["metadata"].get("annotations") or {})


def code_of(job: Object) -> list[str]:
    """Names of the ConfigMaps with the code of a Job."""
    for volume in job["spec"]["template"]["spec"].get("volumes") or []:
        if volume["name"] == names.CODE_VOLUME:
            sources = (volume.get("projected") or {}).get("sources") or []
            return [str(each["configMap"]["name"]) for each in sources if each.get("configMap")]
    return []


def _own_objects(job: Object) -> list[tuple[str, str]]:
    """Kinds and names of what goes with this job alone."""
    pod = job["spec"]["template"]["spec"]
    found = [("Service", str(pod.get("subdomain") or job["metadata"]["name"]))]
    claims = (each.get("resourceClaimTemplateName") for each in pod.get("resourceClaims") or [])
    found += [("ResourceClaimTemplate", str(each)) for each in claims if each]
    name = str(job["metadata"]["name"])
    found.append(("NetworkPolicy", name))
    if pod.get("schedulingGroup"):
        found.append((names.NATIVE_KIND, name))
    labels = job["spec"]["template"]["metadata"].get("labels") or {}
    if names.COSCHEDULING_GROUP in labels:
        found.append((names.COSCHEDULING_KIND, name))
    return found


def _is_of(body: Object, job: Object) -> bool:
    labels = body["metadata"].get("labels") or {}
    instance = labels.get(names.LABEL_INSTANCE)
    return (
        labels.get(names.LABEL_MANAGED_BY) == names.MANAGER and instance == job["metadata"]["name"]
    )
