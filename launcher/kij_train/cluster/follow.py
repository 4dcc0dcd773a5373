"""Stay with a job that was just submitted: until its pods are created, or until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train.cluster.apierrors import (
    GoneError,
    NotAcceptedError,
    NotPermittedError,
    admission_refusal,
)
from kij_train.cluster.logs import LogChoice, LogLine
from kij_train.cluster.observe import Change, Note, Observation
from kij_train.diagnosis import (
    HELD_S,
    JobState,
    JobView,
    epoch,
    failures_of_pods,
    index_of,
    own_end,
)
from kij_train.errors import KijError, RefusedError, UnreachableError
from kij_train.pod import status

if TYPE_CHECKING:
    from kij_train.cluster.client import Cluster
    from kij_train.cluster.submit import Submission

LOOK_S = 1.0
"""Between two looks at what holds up a job: not at every event of thousands of pods."""
FRESH_S = 60.0
"""What a log said longer ago, by the clocks of here and there, is not acted upon any more."""
NO_PODS_AFTER_S = 3.0
"""A Job without any pod after this time is asked for its events."""


@dataclass(frozen=True)
class End:
    """What was last seen of a job that has ended."""

    job: JobView
    pods: list[dict[str, Any]]
    """Oldest first, with those that were deleted meanwhile, as they were last."""
    seconds: float
    """Since this began to watch; of a job that was there before, since its start."""
    own: JobState | None = None
    """What our containers decided, where others have kept the Job from ending for a while."""


def follow(
    submission: Submission,
    *,
    on_line: Callable[[LogLine], None],
    on_change: Callable[[Observation], None],
    on_note: Callable[[str], None],
    log_indexes: Set[int] | None = frozenset({0}),
    log_choice: LogChoice | None = None,
    submitted_now: bool = True,
) -> End:
    """Block until the job ends.

    `log_indexes`: whose logs are passed on; None: all. A job that was `submitted_now` and of which
    no pod can be created is removed, with a RefusedError. Containers that a policy has added may
    keep it from ending: after HELD_S it counts as ended.
    """
    started = time.monotonic()
    asked_at = started
    decided = False
    unheard = _Unheard(submission.cluster)
    looked_at, held_since = started, None
    with Observation(
        submission.cluster,
        submission.name,
        uid=submission.uid,
        log_indexes=log_indexes,
        log_choice=log_choice,
    ) as observed:
        for event in observed.events():
            if isinstance(event, LogLine):
                on_line(event)
                for note in unheard.take(event, observed):
                    on_note(note)
            elif isinstance(event, Note):
                on_note(event.text)
            else:
                assert isinstance(event, Change)
                on_change(observed)
                if observed.job is not None and not decided:
                    decided = end_if_decided(
                        submission.cluster, observed.job, observed.pods.values()
                    )
                now = time.monotonic()
                if observed.job is not None and now - looked_at > LOOK_S:
                    looked_at = now
                    own = own_end(observed.job, observed.nodes, observed.pods.values())
                    held_since = None if own is None else held_since or now
                    if held_since is not None and now - held_since > HELD_S:
                        pods = list(observed.pods.values())
                        return End(observed.job, pods, now - started, own)
                if submitted_now and not observed.pods and now - asked_at > NO_PODS_AFTER_S:
                    asked_at = now
                    _raise_if_refused(submission)
        assert observed.job is not None
        watched_s = time.monotonic() - started
        known = None if submitted_now else observed.job.lasted_s
        seconds = watched_s if known is None else known
        return End(observed.job, list(observed.pods.values()), seconds)


class _Unheard:
    """Deletes pods of which the leader of their job does not hear any more, and waits to replace.

    A machine that dies without a word is noticed by Kubernetes after most of a minute; a pod whose
    link is cut, only when it ends itself. The leader says so only while it has a network itself.
    A pod that was deleted so is not listened to: what it says of others comes from the far side.
    Where a network is cut in two, the smaller side names pods of the side that trains: those are
    not deleted as long as their machine answers.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._deleted: set[str] = set()

    def take(self, line: LogLine, observed: Observation) -> Iterable[str]:
        """Act upon a line of a log, if it says so; what was done, for the user."""
        said, job = status.Unheard.read(line.text), observed.job
        if said is None or job is None or not job.restarts_by_itself:
            return
        said_at = epoch(line.time) or 0.0
        if abs(time.time() - said_at) > FRESH_S or line.pod in self._deleted:
            return
        pod = next((each for each in observed.pods.values() if _is_of(each, said)), None)
        if pod is None:
            return
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp") or name in (line.pod, *self._deleted):
            return
        if said.may_train and self._machine_answers(name):
            return
        self._deleted.add(name)
        which = f"index {said.index} (pod {name}{f' on {said.machine}' if said.machine else ''})"
        try:
            self._cluster.delete("Pod", name, uid=uid, grace_s=0)
        except GoneError:
            return
        except KijError as error:
            yield f"nothing is heard of {which}, and it cannot be deleted: {error.message}"
        else:
            yield f"deleted {which}, of which the others hear nothing, for the Job to make another"

    def _machine_answers(self, pod: str) -> bool:
        """Whether the log of a pod can be read, which takes the kubelet of its machine."""
        try:
            self._cluster.stream_log(pod, tailLines="1").close()
        except KijError:
            return False
        return True


def _is_of(pod: Mapping[str, Any], said: status.Unheard) -> bool:
    return index_of(pod) == said.index and (pod.get("status") or {}).get("podIP") == said.ip


def end_if_decided(cluster: Cluster, job: JobView, pods: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the nodes have given up; if so, make the Job fail now.

    To the Job, pods whose nodes have given up look like lost ones: by itself it would replace them
    until its backoff limit is reached.
    """
    if not job.restarts_by_itself or not any(each.final for each in failures_of_pods(pods)):
        return False
    body = {"metadata": {"uid": job.uid}, "spec": {"backoffLimit": 0}}
    try:
        cluster.patch("Job", job.name, body)
    except (NotPermittedError, GoneError):
        pass  # without the right to, it takes as long as the Job's own counting
    except (UnreachableError, NotAcceptedError):
        return False  # to be tried again
    return True


def await_a_pod(submission: Submission) -> None:
    """Return once the job has a pod, or waits in a queue; after NO_PODS_AFTER_S at the latest.

    One request, a watch of the Job, whose status counts its pods; without a pod another one, for
    the reason. Raises RefusedError when no pod can be created; then the job is removed. A server
    that does not answer, or refuses to, is no error here: the job is submitted.
    """
    query = {
        "fieldSelector": f"metadata.name={submission.name}",
        "timeoutSeconds": f"{NO_PODS_AFTER_S:.0f}",
    }
    try:
        for event in submission.cluster.watch("Job", **query):
            job = JobView(event["object"])
            if event["type"] not in ("ADDED", "MODIFIED") or job.suspended:
                return
            if any(map(job.count, ("active", "succeeded", "failed"))):
                return
        _raise_if_refused(submission)
    except (NotPermittedError, UnreachableError):
        return


def _raise_if_refused(submission: Submission) -> None:
    """Quota and Pod Security judge pods, not Jobs: their refusal is an event of the Job."""
    events = submission.cluster.list(
        "Event", fieldSelector=f"involvedObject.uid={submission.uid},reason=FailedCreate"
    )
    if not events:
        return
    message = str(events[-1].get("message", ""))
    namespace = submission.cluster.namespace
    error = admission_refusal(message, f"the pods of {submission.name}", submission.cluster.address)
    submission.delete()
    raise error or RefusedError(
        f"namespace {namespace} refuses the pods of {submission.name}: {message}"
    )
