"""Which of the failures of a round is the first cause.

If a pod or a rank is lost, ranks elsewhere fail because of it.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import re
import signal
from typing import Any, Dict, List, NamedTuple, Tuple

from kij_train.pod.gang.history import Who

SECONDARY = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Broken pipe|Connection refused"
    r"|DistNetworkError|DistStoreError|remote process exited|NCCL watchdog|ncclRemoteError"
    r"|Watchdog caught collective operation timeout"
    r"|Socket Timeout|Timed out waiting .* for (recv|send) operation",
    re.IGNORECASE,
)
"""Errors of gloo, NCCL and torch's stores which say that another rank is gone.

A rank that fails with one of these is not the first cause.
"""


class NodeFailure(NamedTuple):
    """The ranks of one node have failed."""

    who: Who
    code: int
    """The exit code of torchrun, negative for a signal."""
    record: Dict[str, Any]
    """The failure record (pod/records.py); empty if there is none."""

    def text(self) -> str:
        """What happened, in a line."""
        said = self.record.get("message", {}).get("message") or self._ended_by()
        return str(said).splitlines()[0]

    def _ended_by(self) -> str:
        if self.code < 0:
            return f"torchrun was ended by {signal.Signals(-self.code).name}"
        return f"exit code {self.code}"


def first_cause(failures: List[NodeFailure]) -> NodeFailure:
    """The earliest failure that is no lost connection, or else the earliest of all."""
    return min(failures, key=_when)


def _when(failure: NodeFailure) -> Tuple[bool, float]:
    text = str(failure.record.get("message", {}).get("message", ""))
    time = float(failure.record.get("kij", {}).get("time") or float("inf"))
    return SECONDARY.search(text) is not None, time
