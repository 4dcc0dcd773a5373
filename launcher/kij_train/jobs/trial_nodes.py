"""The pods of an item that is a Job of its own: which of them failed first, and how."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from kij_train import diagnosis
from kij_train.diagnosis import Object
from kij_train.pod import itemrecords, results
from kij_train.pod.gang import SECONDARY

_OF_THE_END = {128 + signal.SIGTERM, 128 + signal.SIGKILL}


@dataclass(frozen=True)
class NodeFailure:
    """How the pod of a node failed."""

    number: int
    """Of the node; that of rank 0 is 0."""
    message: str
    exit_code: int
    machine: str
    time: float
    """Seconds since the epoch."""

    @property
    def is_secondary(self) -> bool:
        """Whether it only says that another one was gone, or that it was told to end."""
        told_to_end = self.exit_code in _OF_THE_END and "OOMKilled" not in self.message
        return told_to_end or re.search(SECONDARY, self.message) is not None

    def run(self, index: int, attempt: int) -> itemrecords.Run:
        """As the item's record has it."""
        said = self.message if not self.number else f"node {self.number}: {self.message}"
        return itemrecords.Run(index, attempt, 0.0, self.exit_code or 1, self.machine, said)


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
        number, machine = failure.index, str(node.node or "")
        self._failures[number] = NodeFailure(number, message, exit_code, machine, failure.time)
