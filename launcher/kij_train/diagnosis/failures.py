"""Why a job failed, from dicts alone: failure records and pods in, one verdict out.

Pure functions. pod/records.py writes the records, one for each node, of its rank that
failed first. When a rank dies, the others lose their connections to it within milliseconds;
those failures are secondary, and are told apart by their text.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kij_train.diagnosis.jobview import epoch, own
from kij_train.diagnosis.phases import foreign, index_of
from kij_train.pod.gang.cause import SECONDARY

TRACEBACK_LINES = 12
MESSAGE_LINES = 6
LINE_CHARS = 300
_KILLED = re.compile(r"\bkilled\b", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """How one node failed."""

    index: int
    """Completion index of the node."""
    rank: int | None
    """None where the node failed before its ranks started."""
    message: str
    """The exception, or what ended the process."""
    callstack: str
    """Python traceback, may be empty or cut at the start."""
    exit_code: int | None
    """Of the rank; negative for a signal."""
    time: float
    """Seconds since the epoch."""
    pod: str | None = None
    """Pod, None on this machine."""
    oom_killed: bool = False
    """Whether the kernel killed a process of the pod at its memory limit."""
    final: bool = False
    """Whether it ended a job that restarts: what came before was survived."""
    hung: bool = False
    """Whether it did not fail, but gave no sign of life."""
    container: str | None = None
    """The container that failed, where it is not ours."""

    @property
    def secondary(self) -> bool:
        """Whether it only says that another rank was gone, or that the node was told to end."""
        if self.oom_killed or self.container is not None:
            return False
        told_to_end = self.rank is None and self.exit_code == 128 + signal.SIGTERM
        return told_to_end or SECONDARY.search(self.message) is not None


def parse_record(text: str, *, index: int, pod: str | None = None) -> Failure | None:
    """A failure from the text of a termination message; None where it holds no record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    details = record.get("message")
    if not isinstance(details, dict):
        return None
    who = record.get("kij")
    who = who if isinstance(who, dict) else {}
    extra = details.get("extraInfo")
    extra = extra if isinstance(extra, dict) else {}
    try:
        return Failure(
            index=index,
            rank=None if who.get("rank") is None else int(who["rank"]),
            message=str(details.get("message", "")),
            callstack=str(extra.get("py_callstack", "")),
            exit_code=None if who.get("exit_code") is None else int(who["exit_code"]),
            time=float(who.get("time") or extra.get("timestamp") or 0),
            pod=pod,
            final=who.get("final") is True,
            hung=who.get("hung") is True,
        )
    except (TypeError, ValueError):
        return None


def first_failure(failures: Iterable[Failure]) -> Failure | None:
    """The cause: the earliest failure that is not secondary, else the earliest of all.

    Where the nodes of a job that restarts have given their verdict, theirs alone count.
    """
    there = list(failures)
    there = [failure for failure in there if failure.final] or there
    return min(there, key=lambda f: (f.secondary, f.time, f.index), default=None)


def failures_of_pods(pods: Iterable[Mapping[str, Any]]) -> list[Failure]:
    """The failures among pods as the API server gives them."""
    return [found for pod in pods if (found := failure_of_pod(pod)) is not None]


def last_words(pod: Mapping[str, Any]) -> str | None:
    """How a pod ended, in one line; None where it has not failed, or does not tell."""
    failure = failure_of_pod(pod)
    lines = failure.message.strip().splitlines() if failure is not None else []
    return _short_line(lines[0]) if lines else None


def failure_of_pod(pod: Mapping[str, Any]) -> Failure | None:
    """How a pod failed, from its termination message; None for one that has not.

    A container that ended without a record (OOM kill, a missing python3) is reported by its reason
    and exit code, a pod that the kubelet ended by the kubelet's words.
    """
    status = pod.get("status", {})
    index, name = index_of(pod), str(pod["metadata"]["name"])
    ended = _failed_end(own(status.get("containerStatuses")))
    if ended is not None:
        text = str(ended.get("message") or "")
        failure = parse_record(text, index=index, pod=name) or _unrecorded(pod, ended)
        # The container of a job that restarts may have survived it, rounds ago.
        killed = not failure.final or _KILLED.search(failure.message) is not None
        return replace(failure, oom_killed=killed and ended.get("reason") == "OOMKilled")
    if status.get("phase") != "Failed":
        return None
    for container in (*(status.get("initContainerStatuses") or []), *foreign(pod)):
        ended = _failed_end(container)
        if ended is not None:
            return replace(_unrecorded(pod, ended), container=str(container["name"]))
    return Failure(
        index=index,
        rank=None,
        message=str(status.get("message") or status.get("reason") or "failed without a word"),
        callstack="",
        exit_code=None,
        time=epoch(status.get("startTime")) or float("inf"),
        pod=name,
    )


def _failed_end(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How a container has failed; None for one that has not."""
    ended = (container.get("state") or {}).get("terminated")
    return ended if ended and ended.get("exitCode") != 0 else None


def _unrecorded(pod: Mapping[str, Any], ended: Mapping[str, Any]) -> Failure:
    return Failure(
        index=index_of(pod),
        rank=None,
        message=_container_message(ended, str(ended.get("message") or "")),
        callstack="",
        exit_code=ended.get("exitCode"),
        time=epoch(ended.get("finishedAt")) or float("inf"),
        pod=str(pod["metadata"]["name"]),
    )


def _container_message(ended: Mapping[str, Any], text: str) -> str:
    head = f"{ended.get('reason', 'Error')}, exit code {ended.get('exitCode')}"
    tail = "\n".join(text.strip().splitlines()[-TRACEBACK_LINES:])
    return f"{head}\n{tail}" if tail else head


def verdict(name: str, after: str, failures: list[Failure]) -> str:
    """What happened, for a user: who was first, the exception, the traceback's last lines."""
    cause = first_failure(failures)
    if cause is None:
        return f"{name} failed after {after}, and no node left a word about why"
    where = f"index {cause.index}" + (f", pod {cause.pod}" if cause.pod else "")
    lines = [headline(f"{name} failed after {after}", cause, where), ""]
    output = "the output above" if cause.rank is None else f"the output of rank {cause.rank}"
    lines += [f"  {line}" for line in shortened(cause.message, f"all of it is in {output}")]
    stack = traceback_tail(cause.callstack, cause.message)
    if stack:
        lines += ["", *(f"    {line}" for line in stack)]
    followed = followers(cause, failures)
    return "\n".join([*lines, "", f"  {followed}"] if followed else lines)


def headline(head: str, cause: Failure, where: str) -> str:
    """`head`, and who it was; `where` says where that rank, or node, is."""
    if cause.rank is None:
        return f"{head} · its ranks hung" if cause.hung else f"{head} · {where}"
    return f"{head} · rank {cause.rank} ({where}) {'hung' if cause.hung else 'was first'}"


def followers(cause: Failure, failures: Iterable[Failure]) -> str:
    """How many other nodes failed after it; empty for none, and where they were told to end."""
    others = 0 if cause.final else len({failure.index for failure in failures} - {cause.index})
    return f"{others} other node{'s' if others > 1 else ''} failed after it" if others else ""


def shortened(message: str, where: str) -> list[str]:
    """The first lines of a message; if there are more, a last line says `where` to read them."""
    lines = message.strip().splitlines()
    found = [_short_line(line) for line in lines[:MESSAGE_LINES]]
    return lines if found == lines else [*found, f"… {where}"]


def _short_line(line: str) -> str:
    half = LINE_CHARS // 2
    return line if len(line) <= LINE_CHARS else f"{line[:half]} … {line[-half:]}"


def traceback_tail(callstack: str, message: str) -> list[str]:
    """The last frames of a Python traceback, without the exception that `message` repeats."""
    text = callstack.rstrip()
    if message and text.endswith(message):
        text = text[: -len(message)].rstrip()
    return [_short_line(line) for line in text.splitlines()[-TRACEBACK_LINES:]]
