"""Create a job so that it exists as a whole or not at all, also if this process dies.

This takes five requests, however many nodes the job has. The first creates the Job, suspended.
Three more create its ConfigMap, its Service and its NetworkPolicy, which the Job owns. The last
resumes the Job, or puts it into its queue, whose controller resumes it when there is room. If this
process dies in between, the Job owns all that exists, and has no pods because it is suspended.

Some jobs take more requests: one for each further ConfigMap of large code, one for a pod group, and
one for a claim template. A job with a pod group of Kubernetes' own asks which version of it the
server has; a job that restarts asks for the server's version. If another job has brought the same
code already, one request makes this Job an owner of that code.
"""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kij_train import names
from kij_train.cluster.adopt import adopt_applied, owner_reference, share_code
from kij_train.cluster.apierrors import (
    ConflictError,
    GoneError,
    NotPermittedError,
    NotSentError,
    TakenError,
)
from kij_train.cluster.queueing import set_active
from kij_train.cluster.served import as_served
from kij_train.errors import KijError, RefusedError, TimedOutError

if TYPE_CHECKING:
    from kij_train.cluster.client import Cluster

OPTIONAL_KINDS = {
    "PodGroup": "install that scheduler, or leave --scheduler out",
    "ResourceClaimTemplate": "it takes Kubernetes 1.34 with a DRA driver; or leave --gpu-kind out",
}
"""Kinds that a cluster may lack, and what to do if it does."""
REPLACE_TIMEOUT_S = 120.0
SHARING_ATTEMPTS = 5
SUSPENDED_S = 20.0
"""How long the Job controller may take to begin to end the pods of a suspended Job."""
COLLECTOR_S = 10.0
"""How long the garbage collector may take to remove what a Job that is gone has owned."""


class Submission:
    """A job that was created."""

    def __init__(self, cluster: Cluster, job: Mapping[str, Any]) -> None:
        self.cluster = cluster
        self.name = str(job["metadata"]["name"])
        self.uid = str(job["metadata"]["uid"])

    def delete(self) -> None:
        """Remove the job with all that it owns."""
        self.cluster.delete("Job", self.name, uid=self.uid)


def cancel(cluster: Cluster, name: str, uid: str, queue: str | None = None) -> None:
    """End the pods of a job, with their grace period; the Job stays, suspended and marked.

    `queue` is the queue that the job is in.
    """
    annotations = {names.CANCELLED: "true"}
    marked: dict[str, Any] = {"uid": uid, "annotations": annotations}
    if queue is not None and not set_active(cluster, uid, False):
        # Without a Workload to deactivate, it leaves its queue, whose controller would resume it.
        annotations[names.CANCELLED_QUEUE] = queue
        marked["labels"] = {names.QUEUE: None}
    cluster.patch("Job", name, {"metadata": marked, "spec": {"suspend": True}})


def resume(cluster: Cluster, name: str, uid: str, queue: str | None = None) -> None:
    """Resume a suspended job, or put it back into its queue, whose controller resumes it."""
    unmarked = {names.CANCELLED: None, names.CANCELLED_QUEUE: None}
    body: dict[str, Any] = {"metadata": {"uid": uid, "annotations": unmarked}}
    if queue is None:
        body["spec"] = {"suspend": False}
    else:
        body["metadata"]["labels"] = {names.QUEUE: queue}
    cluster.patch("Job", name, body)
    if queue is not None:
        set_active(cluster, uid, True)


def hasten(cluster: Cluster, name: str, uid: str, grace_s: int) -> None:
    """Shorten the grace period of the pods of a job that is suspended.

    A pod is left alone until the Job controller has begun to delete it: to the Job, a pod that
    somebody else deletes has failed, and may fail the job. After that, Kubernetes lets a grace
    period only become shorter.
    """
    selector = f"{names.LABEL_JOB_NAME}={name},{names.CONTROLLER_UID}={uid}"
    deadline, hastened = time.monotonic() + SUSPENDED_S, set()
    while True:
        pods = [
            pod["metadata"] for pod in cluster.list("Pod", labelSelector=selector) if _goes_on(pod)
        ]
        for pod in pods:
            left = pod.get("deletionGracePeriodSeconds")
            if left is not None and left > grace_s and pod["uid"] not in hastened:
                hastened.add(pod["uid"])
                with contextlib.suppress(GoneError, ConflictError):
                    cluster.delete("Pod", pod["name"], uid=pod["uid"], grace_s=grace_s)
        waiting = [pod for pod in pods if pod.get("deletionTimestamp") is None]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise TimedOutError(
                f"{len(waiting)} pods of {name} are not being ended after {SUSPENDED_S:.0f} s",
                hints=(f"see: {cluster.address.kubectl('get', 'job,pods')}",),
            )
        time.sleep(0.2)


def _goes_on(pod: dict[str, Any]) -> bool:
    """Whether a pod has not ended."""
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def dry_run(
    cluster: Cluster, objects: list[dict[str, Any]], *, replace: bool = False
) -> list[dict[str, Any]]:
    """Ask the server about every object, and about one pod, which quota and Pod Security judge.

    With `replace`, names may be taken: the server says so last, once it has judged the object.
    """
    answers = []
    objects = as_served(cluster, objects)
    for body in objects:
        try:
            answers.append(_create(cluster, body, dry_run=True))
        except TakenError:
            if not (replace or body.get("immutable")):
                raise _taken(cluster, body) from None
            answers.append(body)
        except NotPermittedError as error:
            _go_on_without(cluster, body, error)
            answers.append(body)
    job = _job_of(objects)
    _check_kept(job, answers[-1])
    template = job["spec"]["template"]
    pod_metadata = {**template["metadata"], "name": f"{job['metadata']['name']}-0"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": template["spec"]}
    try:
        cluster.create(pod, dry_run=True)
    except NotPermittedError:
        cluster.warnings.append(
            "quota and Pod Security were not asked: that takes the right to create pods"
        )
    return answers


def submit(
    cluster: Cluster,
    objects: list[dict[str, Any]],
    *,
    replace: bool = False,
    user: str | None = None,
) -> Submission:
    """Create the objects. Raises RefusedError, UnreachableError; then nothing is left behind."""
    objects = as_served(cluster, objects)
    job = copy.deepcopy(_job_of(objects))
    job["spec"]["suspend"] = True
    token = uuid.uuid4().hex
    job["metadata"].setdefault("annotations", {})[names.SUBMISSION] = token
    if user is not None:
        job["metadata"].setdefault("labels", {}).setdefault(names.USER, user)
    # If the Job were in its queue now, the queue might start it before its code is there.
    queue = job["metadata"].get("labels", {}).pop(names.QUEUE, None)
    start: dict[str, Any] = {"metadata": {"uid": ""}, "spec": {"suspend": False}}
    if queue is not None:
        start = {"metadata": {"uid": "", "labels": {names.QUEUE: queue}}}
    name = str(job["metadata"]["name"])
    try:
        created = _create_job(cluster, job, replace)
        submission = Submission(cluster, created)
    except (RefusedError, GoneError, NotSentError):
        raise  # there is no Job
    except BaseException:
        _remove(cluster, name, token)
        raise
    try:
        _check_kept(job, created)
        retries = retries_of_all(job, created)
        if retries is not None:
            start["spec"] = start.get("spec", {}) | {"backoffLimit": retries}
            cluster.warnings.append(
                f"this server drops {names.PER_INDEX}: {retries} retries are counted for all "
                "indexes together, and then the whole array fails"
            )
        owner = owner_reference(created)
        for body in objects:
            if body["kind"] != "Job":
                try:
                    _create_owned(cluster, body, owner, created)
                except NotPermittedError as error:
                    _go_on_without(cluster, body, error)
        start["metadata"]["uid"] = submission.uid
        if queue is None and names.QUEUE in (created["metadata"].get("labels") or {}):
            start["spec"].pop(
                "suspend"
            )  # the namespace has a queue for all its jobs, which starts it
        cluster.patch("Job", name, start)
    except BaseException:
        _remove(cluster, name, token)
        raise
    return submission


def _job_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return next(body for body in objects if body["kind"] == "Job")


def _create(cluster: Cluster, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """Create an object of a type that not every cluster has. Raises RefusedError."""
    try:
        return cluster.create(body, dry_run=dry_run)
    except GoneError:
        if body["kind"] not in OPTIONAL_KINDS:
            raise
        raise RefusedError(
            f"the cluster has no {body['kind']} of {body['apiVersion']}",
            hints=(OPTIONAL_KINDS[body["kind"]],),
        ) from None


def _go_on_without(cluster: Cluster, body: Mapping[str, Any], error: NotPermittedError) -> None:
    """Warn that a job trains without its NetworkPolicy; re-raise the error of any other object.

    A user's Role from before there was one does not grant it.
    """
    if body["kind"] != "NetworkPolicy":
        raise error
    cluster.warnings.append(
        f"{error.message}; the job goes on without it, and who reaches its pods may connect to "
        "them. The Role lacks: {apiGroups: [networking.k8s.io], resources: [networkpolicies], "
        "verbs: [create, get, patch]} (manifests/role.yaml). Or do without: --no-network-policy"
    )


def _check_kept(job: dict[str, Any], created: dict[str, Any]) -> None:
    """Raise RefusedError if the server has silently dropped a field: its feature gate is off."""
    if "schedulingGroup" not in job["spec"]["template"]["spec"]:
        return
    if "schedulingGroup" not in created["spec"]["template"]["spec"]:
        raise RefusedError(
            "the cluster drops schedulingGroup: its gang scheduling (feature gate "
            "GenericWorkload) is off",
            hints=("another gang scheduler, or none: leave --scheduler native out",),
        )


def retries_of_all(job: dict[str, Any], created: dict[str, Any]) -> int | None:
    """The retries of an array if the server does not count them by index (before 1.33), else None.

    Such a server also drops the rules by which an index fails alone, and then has no limit at all.
    """
    retries = job["spec"].get(names.PER_INDEX)
    if retries is None or "backoffLimit" in job["spec"] or names.PER_INDEX in created["spec"]:
        return None
    return int(retries)


def _create_job(cluster: Cluster, job: dict[str, Any], replace: bool) -> dict[str, Any]:
    name = str(job["metadata"]["name"])
    try:
        return cluster.create(job)
    except TakenError:
        if not replace:
            raise _taken(cluster, job) from None
    _delete_and_wait(cluster, name)
    try:
        return cluster.create(job)
    except TakenError:
        raise RefusedError(
            f"somebody else created a job {name} in namespace {cluster.namespace} meanwhile",
            hints=(f"look at it: {cluster.address.kubectl('get', 'job', name)}",),
        ) from None


def _delete_and_wait(cluster: Cluster, name: str) -> None:
    """Delete a Job and its pods, and wait until they are gone.

    Its Service may be there a moment longer: the garbage collector removes it afterwards.
    """
    try:
        old = cluster.get("Job", name)
        if old["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) != names.MANAGER:
            raise RefusedError(
                f"--replace: job {name} in namespace {cluster.namespace} was not made by kij-train",
                hints=("take another name: --name NAME",),
            )
        adopt_applied(cluster, old)
        uid = old["metadata"]["uid"]
        cluster.delete("Job", name, uid=uid, foreground=True)
        deadline, pause_s = time.monotonic() + REPLACE_TIMEOUT_S, 0.1
        while cluster.get("Job", name)["metadata"]["uid"] == uid:
            if time.monotonic() > deadline:
                raise TimedOutError(
                    f"--replace: the old job {name} is still there after {REPLACE_TIMEOUT_S:.0f} s",
                    hints=(f"see why: {cluster.address.kubectl('get', 'job,pods')}",),
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 2.0)
    except GoneError:
        return


def _taken(cluster: Cluster, body: dict[str, Any]) -> RefusedError:
    """The error if another object has this name already."""
    kind, name = str(body["kind"]).lower(), body["metadata"]["name"]
    hints = ["take another name: --name NAME"]
    if kind != "job":
        hints.append(f"or remove it: {cluster.address.kubectl('delete', kind, name)}")
    elif (body["metadata"].get("labels") or {}).get(names.ATTEMPT, "0") == "0":
        hints.append("or replace it, with its pods and logs: --replace")
    else:  # the name of an attempt follows from the array's
        hints = [f"remove it: {cluster.address.on_job('delete', name)}"]
    return RefusedError(
        f"namespace {cluster.namespace} has a {kind} {name} already", hints=tuple(hints)
    )


def add(cluster: Cluster, job: Mapping[str, Any], body: dict[str, Any]) -> None:
    """Add an immutable ConfigMap to what a Job owns; one of this name may be there."""
    owned = copy.deepcopy(body)
    owned["metadata"]["ownerReferences"] = [owner_reference(job)]
    _create_shared(cluster, owned, dict(job))


def _create_owned(
    cluster: Cluster, body: dict[str, Any], owner: Mapping[str, Any], job: dict[str, Any]
) -> None:
    """Create a Service or ConfigMap that goes with the Job.

    A ConfigMap of code is named by its content. If one with this name exists, it has the same code,
    and this Job becomes one more of its owners. If its last owner is deleted at this moment, the
    ConfigMap may vanish before this Job owns it. Then it is created again, a few times if need be.

    Any other object with this name is the user's, or is left from a deleted Job of this name. In
    the second case, the garbage collector removes it soon. To wait for that needs no right to read
    the object.
    """
    owned = copy.deepcopy(body)
    owned["metadata"]["ownerReferences"] = [owner]
    if body.get("immutable"):
        _create_shared(cluster, owned, job)
        return
    deadline, pause_s = time.monotonic() + COLLECTOR_S, 0.1
    while True:
        try:
            _create(cluster, owned)
            return
        except TakenError:
            if time.monotonic() > deadline:
                raise _taken(cluster, body) from None
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)


def _create_shared(cluster: Cluster, owned: dict[str, Any], job: dict[str, Any]) -> None:
    kind, name = str(owned["kind"]), str(owned["metadata"]["name"])
    owners = {"metadata": {"ownerReferences": owned["metadata"]["ownerReferences"]}}
    for _ in range(SHARING_ATTEMPTS):
        try:
            _create(cluster, owned)
            return
        except TakenError:
            pass
        try:
            shared = cluster.patch(kind, name, owners)
            if len(shared["metadata"]["ownerReferences"]) == 1:  # it had no owner until now
                share_code(cluster, [name], job)
            return
        except GoneError:
            time.sleep(0.1)
    raise RefusedError(f"{kind} {name} comes and goes: try again")


def _remove(cluster: Cluster, name: str, token: str) -> None:
    """Remove what a failed submission made: the Job, if it has this submission's token."""
    try:
        job = cluster.get("Job", name)
        if job["metadata"].get("annotations", {}).get(names.SUBMISSION) == token:
            cluster.delete("Job", name, uid=job["metadata"]["uid"])
    except GoneError:
        return
    except KijError as error:
        # The caller reports the first error. This warning tells what is left of the job.
        cluster.warnings.append(
            f"job {name} may be left, suspended: {cluster.address.kubectl('delete', 'job', name)} "
            f"({error})"
        )
