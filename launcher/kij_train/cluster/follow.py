"""Stay with a job that was just submitted until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train.cluster.apierrors import pod_security_refusal, quota_refusal
from kij_train.cluster.logs import LogLine
from kij_train.cluster.observe import Change, Note, Observation
from kij_train.errors import RefusedError

if TYPE_CHECKING:
    from kij_train.cluster.submit import Submission

NO_PODS_AFTER_S = 3.0
"""A Job without any pod after this time is asked for its events."""


@dataclass(frozen=True)
class End:
    """What was last seen of a job that has ended."""

    job: dict[str, Any]
    pods: list[dict[str, Any]]
    """Oldest first, with those that were deleted meanwhile, as they were last."""
    seconds: float
    """Since this began to watch."""


def follow(
    submission: Submission,
    *,
    on_line: Callable[[LogLine], None],
    on_change: Callable[[Observation], None],
    on_note: Callable[[str], None],
) -> End:
    """Block until the job ends. Raises RefusedError when no pod of it can be created."""
    started = time.monotonic()
    asked_at = started
    with Observation(
        submission.cluster, submission.name, uid=submission.uid, log_indexes={0}
    ) as observed:
        for event in observed.events():
            if isinstance(event, LogLine):
                on_line(event)
            elif isinstance(event, Note):
                on_note(event.text)
            else:
                assert isinstance(event, Change)
                on_change(observed)
                now = time.monotonic()
                if not observed.pods and now - asked_at > NO_PODS_AFTER_S:
                    asked_at = now
                    _raise_if_refused(submission)
        assert observed.job is not None
        return End(observed.job, list(observed.pods.values()), time.monotonic() - started)


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
