"""Stay with a job until it ends: its state, the log of index 0, and its pods at the end.

One request a second for the Job, none a pod, until it ends. The first terminal condition is the
verdict: FailureTarget and SuccessCriteriaMet come before Failed and Complete, which wait for every
pod to be gone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import names
from kij_train.cluster.apierrors import (
    GoneError,
    NotReadyError,
    pod_security_refusal,
    quota_refusal,
)
from kij_train.cluster.client import lines_of
from kij_train.errors import RefusedError, UnreachableError

if TYPE_CHECKING:
    from kij_train.cluster.submit import Submission

POLL_S = 1.0
NO_PODS_AFTER_S = 3.0
"""A Job without any pod after this time is asked for its events."""
OUTAGE_S = 300.0
"""How long the API server may be away before this gives up; the job goes on."""
LAST_LINES_S = 10.0
LAST_WORDS_S = 10.0
"""How long nodes may take to end, and to say why, after the Job has failed."""
SUCCEEDED = ("SuccessCriteriaMet", "Complete")
FAILED = ("FailureTarget", "Failed")


@dataclass(frozen=True)
class End:
    """How a job ended."""

    succeeded: bool
    reason: str
    """Of the Job's condition, such as BackoffLimitExceeded."""
    message: str
    seconds: float
    """Since this began to watch."""
    pods: list[dict[str, Any]]
    """All pods, when it failed; not all of them may have stopped."""


def follow(
    submission: Submission, *, emit: Callable[[str], None], say: Callable[[str], None]
) -> End:
    """Block until the job ends. Raises RefusedError when no pod of it can be created."""
    started = time.monotonic()
    log = _LogOfIndexZero(submission, emit)
    log.start()
    shown = ""
    try:
        while True:
            job = _job(submission, say)
            ended = _terminal_condition(job)
            if ended is not None:
                break
            state = _state(job)
            if state != shown:
                say(state)
                shown = state
            if not _has_pods(job) and time.monotonic() - started > NO_PODS_AFTER_S:
                _raise_if_refused(submission)
            time.sleep(POLL_S)
    finally:
        log.stop()
    log.join(timeout=LAST_LINES_S)
    pods = []
    if ended["type"] in FAILED:
        pods = _ended_pods(submission)
    return End(
        succeeded=ended["type"] in SUCCEEDED,
        reason=str(ended.get("reason", "")),
        message=str(ended.get("message", "")),
        seconds=time.monotonic() - started,
        pods=pods,
    )


def _job(submission: Submission, say: Callable[[str], None]) -> dict[str, Any]:
    """The Job, waiting out an API server that is away for a while."""
    lost_at: float | None = None
    while True:
        try:
            job = submission.cluster.get("Job", submission.name)
        except GoneError:
            raise GoneError(f"job {submission.name} was deleted while we watched") from None
        except UnreachableError:
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                say(f"{submission.name}  the API server does not answer; the job goes on")
            if now - lost_at > OUTAGE_S:
                raise
            time.sleep(POLL_S)
            continue
        if job["metadata"]["uid"] != submission.uid:
            raise GoneError(f"job {submission.name} was replaced by another of that name")
        return job


def _terminal_condition(job: Mapping[str, Any]) -> dict[str, Any] | None:
    for condition in job.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] in (*SUCCEEDED, *FAILED):
            return dict(condition)
    return None


def _state(job: Mapping[str, Any]) -> str:
    status, nodes = job.get("status", {}), job["spec"]["completions"]
    name = job["metadata"]["name"]
    if job["spec"].get("suspend"):
        return f"{name}  suspended"
    active, ready = status.get("active", 0), status.get("ready", 0)
    done, failed = status.get("succeeded", 0), status.get("failed", 0)
    parts = [f"pending {max(active - ready, 0)}", f"running {ready}"]
    parts += [f"done {done}"] * bool(done) + [f"failed {failed}"] * bool(failed)
    return f"{name}  {nodes} nodes: " + ", ".join(parts)


def _has_pods(job: Mapping[str, Any]) -> bool:
    status = job.get("status", {})
    counts = ("active", "succeeded", "failed", "terminating")
    return any(status.get(count) for count in counts) or bool(job["spec"].get("suspend"))


def _raise_if_refused(submission: Submission) -> None:
    """Quota and Pod Security judge pods, not Jobs: their refusal is an event of the Job."""
    events = submission.cluster.list(
        "Event", fieldSelector=f"involvedObject.uid={submission.uid},reason=FailedCreate"
    )
    if not events:
        return
    message = str(events[-1].get("message", ""))
    where = f"namespace {submission.cluster.namespace}"
    if "violates PodSecurity" in message:
        error = pod_security_refusal(message, where)
    elif "exceeded quota" in message or "must specify" in message:
        error = quota_refusal(message, where)
    else:
        error = RefusedError(f"{where} refuses the pods of {submission.name}: {message}")
    submission.delete()
    raise error


def _ended_pods(submission: Submission) -> list[dict[str, Any]]:
    """The last that was seen of every pod, once all have ended or LAST_WORDS_S are over.

    The Job controller deletes the pods that still run, and with a pod goes its termination message:
    a watch sees it go by.
    """
    deadline = time.monotonic() + LAST_WORDS_S
    listing = submission.cluster.list_raw("Pod", labelSelector=submission.selector)
    pods = {str(pod["metadata"]["uid"]): pod for pod in listing.get("items") or []}
    version = str(listing["metadata"]["resourceVersion"])
    while (rest_s := deadline - time.monotonic()) > 0 and not all(map(_ended, pods.values())):
        events = submission.cluster.watch(
            "Pod",
            labelSelector=submission.selector,
            resourceVersion=version,
            timeoutSeconds=str(max(1, int(rest_s))),
        )
        for event in events:
            if event["type"] == "ERROR":  # too old a version: what there is must do
                return list(pods.values())
            pod = event["object"]
            version = str(pod["metadata"]["resourceVersion"])
            pods[str(pod["metadata"]["uid"])] = pod
            if all(map(_ended, pods.values())):
                break
    return list(pods.values())


def _ended(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


class _LogOfIndexZero(threading.Thread):
    """Passes on the log of index 0, of each pod that has been it, every line once.

    Resumes at the timestamp of the last line after a broken connection, and drops what was shown.
    """

    def __init__(self, submission: Submission, emit: Callable[[str], None]) -> None:
        super().__init__(name="log-of-index-0", daemon=True)
        self._submission = submission
        self._emit = emit
        self._stopping = threading.Event()
        self._last: dict[str, tuple[str, int]] = {}
        """By pod: the newest timestamp shown (the kubelet writes all nine digits, so that text
        sorts as time does), and how many lines carried it."""

    def stop(self) -> None:
        """Show what is there already, then end."""
        self._stopping.set()

    def run(self) -> None:
        while True:
            last_round = self._stopping.is_set()
            try:
                pod = self._pod()
                if pod is not None:
                    self._stream(pod, follow=not last_round)
            except (GoneError, NotReadyError, UnreachableError):
                pass
            except RefusedError as error:
                self._emit(f"kij-train: no log: {error}")
                return
            if last_round:
                return
            self._stopping.wait(POLL_S)

    def _pod(self) -> str | None:
        selector = f"{self._submission.selector},{names.COMPLETION_INDEX}=0"
        pods = self._submission.cluster.list("Pod", labelSelector=selector)
        pods = [pod for pod in pods if pod.get("status", {}).get("phase") != "Pending"]
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        return None if newest is None else str(newest["metadata"]["name"])

    def _stream(self, pod: str, *, follow: bool) -> None:
        last, shown = self._last.get(pod, ("", 0))
        query = {"container": names.CONTAINER, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if last:
            # Whole seconds are all it takes.
            query["sinceTime"] = re.sub(r"\.\d+", "", last)
        response = self._submission.cluster.stream_log(pod, **query)
        repeated = 0
        try:
            for line in lines_of(response):
                stamp, _, text = line.partition(" ")
                repeated += stamp == last
                if stamp < last or (stamp == last and repeated <= shown):
                    continue
                newest, count = self._last.get(pod, ("", 0))
                self._last[pod] = (stamp, count + 1 if stamp == newest else 1)
                self._emit(text)
        finally:
            response.close()
