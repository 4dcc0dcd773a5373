"""Kueue's side of a job: the Workload that it makes of a Job, which holds the job's quota.

Kueue starts a Job that is suspended while its Workload is admitted, and ignores one without the
label of a queue, whose Workload then keeps its quota. So a job is cancelled by deactivating its
Workload: Kueue suspends the Job, and gives the quota to the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kij_train import names
from kij_train.cluster.apierrors import GoneError, NotPermittedError

if TYPE_CHECKING:
    from kij_train.cluster.client import Cluster


def workload_of(cluster: Cluster, uid: str) -> dict[str, Any] | None:
    """The Workload of the Job with this uid; None before Kueue has made it, and without Kueue.

    Raises RefusedError for a user who may not read it.
    """
    own = f"{names.KUEUE_JOB_UID}={uid}"
    found = cluster.custom(names.KUEUE_GROUP, "workloads", selector=own)
    return found[0] if found else None


def set_active(cluster: Cluster, uid: str, active: bool) -> bool:
    """Have Kueue suspend a job and take its quota back, or queue it again.

    False where there is no Workload, or the user may not change it: then what Kueue still counts
    for the job is a warning of the cluster.
    """
    try:
        workload = workload_of(cluster, uid)
    except NotPermittedError as error:
        cluster.warnings.append(f"what Kueue counts for it cannot be read: {error.message}")
        return False
    if workload is None:
        return False
    name = str(workload["metadata"]["name"])
    change = {"metadata": {"uid": workload["metadata"]["uid"]}, "spec": {"active": active}}
    try:
        cluster.patch_custom(workload, "workloads", change)
    except GoneError:
        return False
    except NotPermittedError:
        patch = f'{{"spec":{{"active":{str(active).lower()}}}}}'
        line = cluster.address.kubectl(
            "patch", f"workloads.{names.KUEUE_GROUP}", name, "--type", "merge", "-p", patch
        )
        cluster.warnings.append(
            f"Kueue goes on counting it against the quota of its queue, since your user may not "
            f"change its Workload; who may: {line}"
        )
        return False
    return True
