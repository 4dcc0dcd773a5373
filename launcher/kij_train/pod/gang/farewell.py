"""The end of a pod: what it records, and how long it stays to tell others the verdict.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import signal
import time
from typing import Any, Callable, Dict, Set

from kij_train.pod import contract, records
from kij_train.pod.gang import messages
from kij_train.pod.gang.history import Who
from kij_train.pod.gang.settings import Settings

Json = Dict[str, Any]
TOMBSTONE_S = 1800.0
"""The longest time that a pod stays to tell others that the job has failed."""
LATE_S = 5.0
"""How long a pod still waits for others once the last index has asked."""


def write_verdict(verdict: messages.Verdict, me: Who) -> None:
    """Write what a pod leaves that has got the verdict: the accounts of the job or a record."""
    if isinstance(verdict, messages.Done):
        records.write_accounts(verdict.history.brief())
        return
    more = {"index": me.node, "accounts": verdict.history.brief(), "final": True}
    if verdict.uid in (me.uid, ""):
        _write(verdict.record, more, verdict.text)
    else:
        # This pod was only told to end: the record of another pod has the cause.
        more["exit_code"] = 128 + signal.SIGTERM
        records.write_record(contract.error_file(), verdict.text, "", **more)


def write_own_failure(record: Json, me: Who) -> None:
    """Write the failure record of a pod whose ranks failed and which ends before the verdict."""
    _write(record, {"index": me.node}, "")


def _write(record: Json, more: Json, otherwise: str) -> None:
    """Write a record and more fields; `otherwise` is the message if the record has none."""
    message = record.get("message", {})
    text = str(message.get("message") or otherwise)
    stack = str((message.get("extraInfo") or {}).get("py_callstack", ""))
    records.write_record(contract.error_file(), text, stack, **{**record.get("kij", {}), **more})


class Told:
    """The pods that have asked this one since the job ended, and got the verdict."""

    def __init__(self, settings: Settings, changed: asyncio.Event) -> None:
        """`changed` is set when something happens that may end the waiting."""
        self._settings, self._changed = settings, changed
        self._indexes: Set[int] = set()

    def add(self, index: int) -> None:
        """A pod has got the verdict."""
        self._indexes.add(index)
        self._changed.set()

    async def until_all(self, highest: int, is_told_to_end: Callable[[], bool]) -> None:
        """Stay until all pods that the Job still creates have got the verdict that it failed.

        The Job creates pods until it has counted enough failures. It takes the indexes of the
        reserve one after the other, starting above `highest`, the highest index so far. When all
        up to `backoff_limit` have heard the verdict, this pod can end too, and the Job is over. If
        there is no reserve, a lost index comes back with another pod, any number of times.
        """
        last = self._settings.backoff_limit
        coming = set(range(highest + 1, last + 1))
        give_up_at = time.monotonic() + TOMBSTONE_S
        while not is_told_to_end() and time.monotonic() < give_up_at:
            if self._settings.reserve and coming <= self._indexes:
                return
            if last in self._indexes:  # another pod may have ended before it could ask
                give_up_at = min(give_up_at, time.monotonic() + LATE_S)
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LATE_S)
