"""What the pods of an array say of its failed indexes: causes, each once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kij_train import commands
from kij_train.diagnosis import causes
from kij_train.diagnosis.failures import failure_of_pod, last_words
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import JobView, Object, own
from kij_train.diagnosis.phases import index_of
from kij_train.pod import results
from kij_train.pod.itemplan import compress_numbers

MOST_CAUSES = 5
NUMBERS_CHARS = 120
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")


@dataclass
class _Cause:
    error: str
    first: str
    """Which item, or pod."""
    hint: str | None
    indexes: set[int] = field(default_factory=set)


def failed_indexes(job: JobView, pods: Sequence[Object]) -> tuple[set[int], list[Finding]]:
    """The indexes of an array's Job that have failed, and why, the most frequent cause first."""
    newest: dict[int, tuple[Object, int]] = {}
    for pod in pods:
        failure = failure_of_pod(pod)
        if failure is not None:
            newest[failure.index] = (pod, failure.index)
    found: dict[str, _Cause] = {}
    for pod, index in newest.values():
        if index in job.completed:
            continue
        error, first, hint = _cause_of(pod)
        kind = _NUMBERS.sub("N", error)
        found.setdefault(kind, _Cause(error, first, hint)).indexes.add(index)
    ranked = sorted(found.values(), key=lambda one: (-len(one.indexes), min(one.indexes)))
    findings = [_finding(one) for one in ranked[:MOST_CAUSES]]
    if len(ranked) > MOST_CAUSES:
        findings.append(Finding("more", f"{len(ranked) - MOST_CAUSES} other causes", (), None))
    indexes = {index for one in found.values() for index in one.indexes} | job.failed
    if indexes:
        report = commands.command("report", str(job.array))
        findings.append(Finding("report", f"every item, with its cause: {report}", (), None))
    return indexes, findings


def _cause_of(pod: Object) -> tuple[str, str, str | None]:
    """Error, whose it is, and what to do."""
    account = account_of_pod(pod)
    failure = failure_of_pod(pod)
    assert failure is not None
    if account is not None and account.error is not None:
        error = str(account.error.get("message") or "failed")
        known = causes.of_message(error)
        key = account.error.get("key")
        hint = None if known is None else known.hint
        return error, f"first: key {key}" if key else "", hint
    if failure.oom_killed:
        return "out of memory: the kernel killed its pod at the limit", "", "more memory: --memory"
    return last_words(pod) or "failed without a word", f"pod {failure.pod}", None


def account_of_pod(pod: Object) -> results.Account | None:
    """The last word of the runner in a pod; None where it has left none."""
    state = own(pod.get("status", {}).get("containerStatuses")).get("state") or {}
    return results.decode_account(str((state.get("terminated") or {}).get("message") or ""))


def items_of(pods: Sequence[Object]) -> tuple[int, int]:
    """Items that are done, and that have failed, of the indexes whose pods have said so."""
    newest = {index_of(pod): account_of_pod(pod) for pod in pods}
    accounts = [account for account in newest.values() if account is not None]
    return sum(one.done for one in accounts), sum(one.failed for one in accounts)


def _finding(cause: _Cause) -> Finding:
    numbers = named(cause.indexes)
    return Finding(
        "items-failed",
        f"index {numbers}: {cause.error}",
        (cause.first,) if cause.first else (),
        cause.hint,
    )


def named(indexes: set[int]) -> str:
    """`3,7-9`, and how many where that is long."""
    text = compress_numbers(sorted(indexes))
    if len(text) <= NUMBERS_CHARS:
        return text
    return f"{text[:NUMBERS_CHARS].rpartition(',')[0]},… ({len(indexes):,} in all)"
