"""A Job, read: what it asks of its pods, how far it is, how it ended.

Where something stands in a Job is known here alone. What is said holds for any Indexed Job; what
only kij-train writes has the value of a Job without it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from kij_train import names
from kij_train.pod import contract, gang

Object = Mapping[str, Any]
SUCCEEDED = ("SuccessCriteriaMet", "Complete")
FAILED = ("FailureTarget", "Failed")


class JobState(str, enum.Enum):
    """What a job as a whole does. The values are what users and scripts read."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing of the job runs any more. A cancelled one can be resumed."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, eq=False)
class JobView:
    """A Job as the API server gave it, which is not changed afterwards."""

    raw: Object

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.raw["metadata"]["uid"])

    @property
    def created(self) -> str:
        """RFC 3339, as Kubernetes writes it."""
        return str(self.raw["metadata"]["creationTimestamp"])

    @property
    def labels(self) -> Mapping[str, str]:
        return self.raw["metadata"].get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.raw["metadata"].get("annotations") or {}

    @property
    def is_ours(self) -> bool:
        """Whether kij-train made it."""
        return self.labels.get(names.LABEL_MANAGED_BY) == names.MANAGER

    @property
    def queue(self) -> str | None:
        """The queue whose controller decides when it runs."""
        return self.labels.get(names.QUEUE)

    @property
    def array(self) -> str | None:
        """The array that it is an attempt of."""
        return self.labels.get(names.ARRAY)

    # --- what it asks for -------------------------------------------------------------------------

    @property
    def completions(self) -> int:
        return int(self.raw["spec"].get("completions") or 1)

    @cached_property
    def reserve(self) -> int:
        """Of its completions, those that have no pod before another one is lost, at the start."""
        said = self.environment.get(gang.ENV_GANG)
        return 0 if said is None else int(json.loads(said).get("reserve", 0))

    @property
    def parallelism(self) -> int:
        """Indexes that may run at once."""
        return int(self.raw["spec"].get("parallelism") or 0)

    @property
    def size(self) -> int:
        """Nodes that there are when all is well: its completions, without the reserve."""
        if not self.reserve:
            return self.completions
        return min(self.parallelism or 1, self.completions)

    @cached_property
    def at_once(self) -> int:
        """Nodes that may train at once: without the spares."""
        said = json.loads(self.environment.get(gang.ENV_GANG, "{}"))
        return int(said.get("high", self.size))

    @property
    def needed(self) -> int:
        """How many indexes have to complete for it to succeed."""
        rules = (self.raw["spec"].get("successPolicy") or {}).get("rules") or [{}]
        return int(rules[0].get("succeededCount") or self.completions)

    @property
    def suspended(self) -> bool:
        return bool(self.raw["spec"].get("suspend"))

    @property
    def deadline_s(self) -> float:
        """How long it may take; 0 for ever."""
        return float(self.raw["spec"].get("activeDeadlineSeconds") or 0)

    @property
    def pod(self) -> Object:
        """The `spec` of its pods."""
        found: Object = self.raw["spec"]["template"]["spec"]
        return found

    @property
    def grace_s(self) -> int:
        """The grace period of its pods."""
        return int(self.pod.get("terminationGracePeriodSeconds") or contract.GRACE_S)

    @property
    def container(self) -> Object:
        """Ours in its pods."""
        return own(self.pod["containers"])

    @property
    def arguments(self) -> list[str]:
        return list(self.container.get("args") or [])

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables that have their value in the Job itself."""
        variables = self.container.get("env") or []
        return {each["name"]: str(each["value"] or "") for each in variables if "value" in each}

    @property
    def limits(self) -> Mapping[str, Any]:
        """What its container may use, by resource."""
        return (self.container.get("resources") or {}).get("limits") or {}

    @property
    def requests(self) -> Mapping[str, Any]:
        """What its container asks for; without a request of its own, a limit is one."""
        return {**self.limits, **((self.container.get("resources") or {}).get("requests") or {})}

    @property
    def claims(self) -> list[str]:
        """Names of the resource claims of its container."""
        found = (self.container.get("resources") or {}).get("claims") or []
        return [str(claim.get("name")) for claim in found]

    @property
    def ranks_per_node(self) -> int:
        """Processes a node; 1 for a Job that is not ours."""
        return int(self.environment.get(contract.ENV_NPROC_PER_NODE) or 1)

    @property
    def restarts_by_itself(self) -> bool:
        """Whether supervisors in the pods start ranks again: a failed pod is no failed job then."""
        return gang.ENV_GANG in self.environment

    @property
    def gang_settings(self) -> gang.Settings | None:
        """What the supervisors in the pods were told; None for a job that has none."""
        said = self.environment.get(gang.ENV_GANG)
        if said is None:
            return None
        known = gang.Settings._fields  # another version may say more
        return gang.Settings(**{k: v for k, v in json.loads(said).items() if k in known})

    @property
    def awaits_rank0(self) -> bool:
        """Whether the other indexes wait for rank 0 before they start: not all commands do."""
        if self.restarts_by_itself or self.array is not None:
            return False
        first, second = [*self.arguments, "", ""][:2]
        return first != contract.NO_TORCHRUN or second == contract.AWAIT_RANK0

    # --- how far it is ----------------------------------------------------------------------------

    def count(self, kind: str) -> int:
        """Of its pods, those that the Job counts as `active`, `ready`, `succeeded` or `failed`."""
        return int(self.raw.get("status", {}).get(kind) or 0)

    @property
    def completed(self) -> set[int]:
        """The indexes that have completed."""
        return _indexes(self.raw.get("status", {}).get("completedIndexes"))

    @property
    def lost(self) -> set[int]:
        """The indexes of a job with a reserve that have had their pod, and get no other."""
        return self.failed if self.reserve else set()

    @property
    def failed(self) -> set[int]:
        """The indexes that have failed for good."""
        return _indexes(self.raw.get("status", {}).get("failedIndexes"))

    @property
    def reserve_left(self) -> int:
        """How many more pods may be lost."""
        return max(self.reserve - len(self.lost), 0)

    @property
    def started(self) -> str | None:
        """RFC 3339; None before, and while it is suspended."""
        found: str | None = self.raw.get("status", {}).get("startTime")
        return found

    @cached_property
    def end(self) -> Object | None:
        """The verdict: FailureTarget and SuccessCriteriaMet come before every pod has ended."""
        conditions = (condition(self.raw, kind) for kind in (*SUCCEEDED, *FAILED))
        return next((found for found in conditions if found), None)

    @property
    def ended(self) -> str | None:
        """When it ended, RFC 3339."""
        return None if self.end is None else self.end.get("lastTransitionTime")

    @property
    def is_at_deadline(self) -> bool:
        """Whether it was ended because its --timeout was over."""
        return self.end is not None and self.end.get("reason") == names.DEADLINE_EXCEEDED

    @property
    def lasted_s(self) -> float | None:
        """Seconds from its start to its end, where both are known."""
        start, end = epoch(self.started), epoch(self.ended)
        return end - start if start is not None and end is not None else None

    @property
    def state(self) -> JobState:
        """What the Job alone says; see `own_end` for what it cannot know."""
        if self.end is not None:
            return JobState.SUCCEEDED if self.end["type"] in SUCCEEDED else JobState.FAILED
        if self.suspended:
            cancelled = names.CANCELLED in self.annotations
            return JobState.CANCELLED if cancelled else JobState.SUSPENDED
        runs = self.count("ready") or self.count("succeeded")
        return JobState.RUNNING if runs else JobState.PENDING


def _indexes(said: str | None) -> set[int]:
    """`1,3-5,7`, as a Job writes them."""
    found: set[int] = set()
    for part in (said or "").split(","):
        low, _, high = part.partition("-")
        if low:
            found.update(range(int(low), int(high or low) + 1))
    return found


def own(containers: Iterable[Object] | None) -> Object:
    """Our container among others, or its status: policies add containers before and behind it.

    The first one of a pod that is not ours; {} where there is none.
    """
    there = list(containers or [])
    named = (each for each in there if each.get("name") == names.CONTAINER)
    return next(named, there[0] if there else {})


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of this type that is True."""
    for each in obj.get("status", {}).get("conditions") or []:
        if each["type"] == kind and each["status"] == "True":
            return dict(each)
    return None


def epoch(timestamp: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time in UTC, as Kubernetes writes it."""
    if not timestamp:
        return None
    # Python 3.10 reads neither Z nor nine digits.
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(seconds + "+00:00").timestamp()
    return whole + (float(f"0.{fraction}") if fraction else 0.0)
