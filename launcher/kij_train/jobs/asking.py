"""What is asked of a cluster about a job: one request for the Job, one for 500 pods or events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, names
from kij_train.diagnosis import JobView
from kij_train.errors import RefusedError, RequestError

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

ABOUT_LOCAL = (
    "a run with --local is in no cluster: its output and verdict are where it was started (of an "
    "array, `report` has them there), and Ctrl-C or kill ends it"
)


def check_name(name: str) -> str:
    """The name of a job that somebody asks about, of whoever made it. Raises RequestError."""
    try:
        return names.check_object_name(name)
    except ValueError:
        unset = () if name else ("is a variable empty or not set?",)
        raise RequestError(
            f"{name!r} is no job name", hints=(*unset, "see what there is: kij-train list")
        ) from None


def get(cluster: Cluster, name: str, *, about_local: str = ABOUT_LOCAL) -> JobView:
    """The Job. Raises UnreachableError when there is none, with what to do about a local run."""
    from kij_train.cluster.apierrors import GoneError

    try:
        return JobView(cluster.get("Job", name))
    except GoneError:
        raise GoneError(
            f"namespace {cluster.namespace} has no job {name}",
            hints=(
                f"see what there is: {cluster.address.command('list')}, or -A for all namespaces",
                about_local,
            ),
        ) from None


def pods_of(
    cluster: Cluster,
    name: str,
    index: int | None = None,
    *,
    fields: str = "",
    most_pages: int | None = None,
) -> list[dict[str, Any]]:
    """The pods of a job, or of one index, oldest first, cut to what diagnosis reads.

    `fields` is a field selector; with `most_pages`, no more than these many times 500.
    """
    query = {"labelSelector": f"{names.LABEL_JOB_NAME}={name}"}
    if index is not None:
        query["labelSelector"] += f",{names.COMPLETION_INDEX}={index}"
    if fields:
        query["fieldSelector"] = fields
    pages = islice(cluster.pages("Pod", everywhere=False, **query), most_pages)
    pods = [diagnosis.trimmed(pod) for page in pages for pod in page.get("items") or []]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def events_of(cluster: Cluster, name: str) -> list[Mapping[str, Any]]:
    """The events of a job and its pods, those that are gone included, oldest first."""
    ours = re.compile(rf"{re.escape(name)}(-\d+-[a-z0-9]{{5}})?")
    found = [
        event
        for event in cluster.list("Event")
        if event["involvedObject"].get("kind") in ("Job", "Pod")
        and ours.fullmatch(str(event["involvedObject"].get("name")))
    ]
    return diagnosis.sorted_events(found)


def queue_of(cluster: Cluster, job: JobView) -> diagnosis.Queue:
    """What Kueue has of a job that waits in one of its queues, as far as the user may know."""
    from kij_train.cluster.queueing import workload_of

    in_queue = f"{names.QUEUE}={job.queue}"
    # One page is enough to name some of those that hold what it waits for.
    jobs = next(cluster.pages("Job", labelSelector=in_queue)).get("items") or []
    queue = diagnosis.Queue(jobs=jobs)
    try:
        local = cluster.custom(names.KUEUE_GROUP, "localqueues")
        queue = replace(queue, local_queues=local, installed=local is not None)
        queue = replace(queue, workload=workload_of(cluster, job.uid))
        if (queue.workload or {}).get("status", {}).get("admissionChecks"):
            group, resource = diagnosis.PROVISIONING_REQUESTS
            queue = replace(queue, requests=cluster.custom(group, resource) or ())
        return queue
    except RefusedError:
        return queue
