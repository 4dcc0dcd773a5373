"""The pods of an item that is a Job of its own: which of them failed first, and how."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from kij_train import diagnosis
from kij_train.diagnosis import Object
from kij_train.pod import itemrecords, results
from kij_train.pod.gang.cause import SECONDARY


@dataclass(frozen=True)
class NodeFailure:
    """How the pod of a node failed."""

    number: int
    """Of the node; that of rank 0 is 0."""
    message: str
    exit_code: int
    machine: str
    told_to_end: bool
    """By the Job, since another one had failed."""
    time: float
    """Seconds since the epoch."""
    seconds: float
    """That the pod ran."""

    @property
    def is_secondary(self) -> bool:
        """Whether it only says that another one was gone, or that it was told to end."""
        return self.told_to_end or SECONDARY.search(self.message) is not None

    def run(self, index: int, attempt: int) -> itemrecords.Run:
        """As the item's record has it."""
        said = self.message if not self.number else f"node {self.number}: {self.message}"
        return itemrecords.Run(index, attempt, self.seconds, self.exit_code, self.machine, said)


class TrialNodes:
    """Takes the pods of a Job as they come."""

    def __init__(self) -> None:
        self._failures: dict[int, NodeFailure] = {}

    @property
    def first(self) -> NodeFailure | None:
        """The one that the others followed; None where no pod has failed."""
        found = self._failures.values()
        return min(found, key=lambda one: (one.is_secondary, one.time, one.number), default=None)

    def take(self, pod: Object) -> None:
        """One pod as it is now."""
        failure = next(iter(diagnosis.failures_of_pods([pod])), None)
        if failure is None:
            return
        status = diagnosis.own(pod.get("status", {}).get("containerStatuses"))
        end = (status.get("state") or {}).get("terminated") or {}
        account = results.decode_account(str(end.get("message") or ""))
        if account is not None and account.error is not None:
            message = str(account.error.get("message") or "")
            exit_code = int(account.error.get("exit_code") or 1)
        else:
            said = "OOMKilled: out of memory" if failure.oom_killed else failure.message
            message = f"its pod was ended: {said}" if said else "its pod was ended"
            exit_code = int(failure.exit_code or 1)
        node = diagnosis.node_of(pod)
        times = [diagnosis.epoch(end.get(name)) for name in ("startedAt", "finishedAt")]
        seconds = 0.0 if None in times else (times[1] or 0.0) - (times[0] or 0.0)
        self._failures[failure.index] = NodeFailure(
            failure.index,
            message,
            exit_code,
            str(node.node or ""),
            end.get("exitCode") == 128 + signal.SIGTERM,
            failure.time,
            seconds,
        )
