"""The verdict on a job: what it does, why, the evidence quoted, and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kij_train import commands, names, units
from kij_train.commands import Address
from kij_train.diagnosis import arrays, causes, pending
from kij_train.diagnosis.accounts import accounts_as_json
from kij_train.diagnosis.disruptions import TOO_MANY_LOST, disruption, without_pods
from kij_train.diagnosis.failures import (
    Failure,
    failure_of_pod,
    first_failure,
    followers,
    headline,
    parse_record,
    shortened,
    traceback_tail,
)
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.held import of_held, own_end, state_with
from kij_train.diagnosis.jobview import JobState, JobView, Object
from kij_train.diagnosis.missing import missing_file
from kij_train.diagnosis.phases import Phase, node_of, nodes_of_job
from kij_train.diagnosis.progress import going_on
from kij_train.diagnosis.queues import Queue, waiting
from kij_train.diagnosis.unschedulable import unschedulable
from kij_train.errors import JobFailedError, KijError, TimedOutError
from kij_train.pod import status
from kij_train.pod.gang import History

MOST_LOSSES = 3


@dataclass(frozen=True)
class Verdict:
    """Why a job is as it is."""

    state: JobState
    headline: str
    """One line."""
    findings: tuple[Finding, ...] = ()
    """The most telling first; empty where all is well or nothing is known."""
    accounts: History | None = None
    """What a job that restarts has spent its time on, where it is known."""

    def error(self, hints: tuple[str, ...] = ()) -> KijError | None:
        """What whoever waits for the job raises; None where it succeeded, or goes on."""
        if self.state is JobState.SUCCEEDED or not self.state.ended:
            return None
        at_deadline = self.findings and self.findings[0].kind == "deadline"
        return (TimedOutError if at_deadline else JobFailedError)(self.text(), hints=hints)

    def text(self) -> str:
        """For people: headline, findings, what to try."""
        lines = [self.headline]
        for finding in self.findings:
            lines += ["", *(f"  {line}" for line in finding.summary.splitlines())]
            lines += [f"    {line}" for said in finding.evidence for line in said.splitlines()]
            if finding.hint:
                lines.append(f"  try: {finding.hint}")
        if self.accounts is not None:
            lines += ["", f"  {self.accounts}"]
        return "\n".join(lines)


def why(
    job: JobView,
    pods: Sequence[Object],
    events: Sequence[Object],
    *,
    now: float,
    machines: Sequence[Object] = (),
    last_lines: Mapping[int, tuple[float, str]] | None = None,
    end: JobState | None = None,
    queue: Queue | None = None,
    at: Address | None = None,
) -> Verdict:
    """The verdict, from a Job, its pods (oldest first), the events about them, and the time.

    `machines` are Node objects, for what they have in all; `last_lines` are time and text of the
    newest log line of some indexes. Both may be left out, and then nothing is said of them. `end`
    is what `own_end` has made of a Job that other containers hold up. `queue` is what Kueue has of
    a job in one of its queues. `at` is where the job is, for the commands in its hints.
    """
    verdict = _why(job, pods, events, now, machines, last_lines or {}, end, queue or Queue())
    findings = tuple(_with_commands(each, job, at) for each in verdict.findings)
    return replace(verdict, findings=findings)


def _with_commands(finding: Finding, job: JobView, at: Address | None) -> Finding:
    """With commands in place of their marks."""
    at = at or Address(job.namespace)

    def filled(text: str) -> str:
        return at.fill(text, job.name)

    return replace(
        finding,
        summary=filled(finding.summary),
        evidence=tuple(map(filled, finding.evidence)),
        hint=finding.hint and filled(finding.hint),
    )


def _why(
    job: JobView,
    pods: Sequence[Object],
    events: Sequence[Object],
    now: float,
    machines: Sequence[Object],
    last_lines: Mapping[int, tuple[float, str]],
    end: JobState | None,
    queue: Queue,
) -> Verdict:
    """The verdict, with marks in place of commands."""
    state, name = end or job.state, job.name
    nodes = nodes_of_job(job, map(node_of, pods))
    held = of_held(nodes, now=now) if not job.state.ended else []
    if state is JobState.FAILED:
        failed = _failed(job, pods, events)
        return replace(failed, findings=(*failed.findings, *held))
    if state is JobState.SUCCEEDED:
        took = "" if job.lasted_s is None else f" in {units.format_seconds(job.lasted_s)}"
        return Verdict(state, f"{name} succeeded{took}", tuple(held))
    if state is JobState.CANCELLED:
        finding = Finding(
            "cancelled",
            "it can start again; indexes that have completed do not run again",
            (),
            f"start it again: {commands.on_job('resume')}",
        )
        going = any(node.phase is Phase.ENDING for node in nodes)
        pods_now = "its pods are ending" if going else "its pods have ended"
        headline = f"{name} was cancelled: {pods_now}, the Job stays, suspended"
        return Verdict(state, headline, (finding,))
    if state is JobState.SUSPENDED:
        return _suspended(job, events, queue, now)
    if held and own_end(job, nodes, pods) is JobState.FAILED:
        failed = _failed(job, pods, events)
        headline = f"{failed.headline} · its pods go on"
        return Verdict(JobState.RUNNING, headline, (*failed.findings, *held))
    headline, findings = going_on(
        job, nodes, pods, events, now=now, machines=machines, last_lines=last_lines
    )
    if job.array is not None:
        findings += arrays.failed_indexes(job, pods)[1]
    return Verdict(state_with(job, nodes), headline, (*held, *findings))


# --- failed ---------------------------------------------------------------------------------------


def _failed(job: JobView, pods: Sequence[Object], events: Sequence[Object]) -> Verdict:
    ended = job.end or {}
    took = "" if job.lasted_s is None else f" after {units.format_seconds(job.lasted_s)}"
    head = f"{job.name} failed{took}"
    if job.is_at_deadline:
        return _deadline(job, events)
    if job.array is not None:
        return _failed_array(head, job, pods, events)
    failures = [found for pod in pods if (found := failure_of_pod(pod)) is not None]
    settings = job.gang_settings
    exhausted = settings is not None and ended.get("reason") in TOO_MANY_LOST
    if settings is not None and exhausted and not any(failure.final for failure in failures):
        limit = f"more pods were lost than --max-restarts {settings.max_restarts} allows"
        losses = _losses(job, pods) or without_pods(ended, events)
        return Verdict(JobState.FAILED, f"{head} · {limit}", tuple(losses))
    cause = first_failure(failures)
    if cause is None:
        return Verdict(JobState.FAILED, head, tuple(without_pods(ended, events)))
    pod = next(pod for pod in pods if pod["metadata"]["name"] == cause.pod)
    where = _where(cause, pod)
    finding = _finding(cause, pod, job, failures)
    return Verdict(JobState.FAILED, headline(head, cause, where), (finding,))


def _failed_array(
    head: str, job: JobView, pods: Sequence[Object], events: Sequence[Object]
) -> Verdict:
    indexes, findings = arrays.failed_indexes(job, pods)
    if not indexes:
        return Verdict(JobState.FAILED, head, tuple(without_pods(job.end or {}, events)))
    many = "es" if job.completions != 1 else ""
    said = f"{len(indexes):,} of {job.completions:,} index{many} failed: {arrays.named(indexes)}"
    return Verdict(JobState.FAILED, f"{head} · {said}", tuple(findings))


def _losses(job: JobView, pods: Sequence[Object]) -> list[Finding]:
    """What ended the pods of a job that restarts, the newest first; not what its end took along."""
    failed = [(found, pod) for pod in pods if (found := failure_of_pod(pod)) is not None]
    lost = [(one, pod) for one, pod in failed if not one.secondary or disruption(pod) is not None]
    findings = []
    for failure, pod in sorted(lost, key=lambda each: -each[0].time)[:MOST_LOSSES]:
        finding = _finding(failure, pod, job, [failure])
        findings.append(replace(finding, summary=f"{_where(failure, pod)}: {finding.summary}"))
    return findings


def _where(failure: Failure, pod: Object) -> str:
    machine = pod.get("spec", {}).get("nodeName")
    return f"index {failure.index}, pod {failure.pod}" + (f", machine {machine}" if machine else "")


def _finding(cause: Failure, pod: Object, job: JobView, failures: Sequence[Failure]) -> Finding:
    done_to_it = disruption(pod)
    if done_to_it is not None:
        finding = done_to_it
    elif cause.container is not None:
        finding = _foreign(cause, pod)
    else:
        finding = _of_ranks(cause, job)
    followed = followers(cause, failures)
    return replace(finding, evidence=(*finding.evidence, followed)) if followed else finding


def _of_ranks(cause: Failure, job: JobView) -> Finding:
    """How a node failed by itself, with what to try."""
    limit = job.limits.get("memory")
    known = causes.of_message(cause.message)
    by_exit = causes.of_exit(
        cause.exit_code,
        memory_limit=limit,
        own=status.Exited.find(cause.message) is not None,
    )
    if cause.oom_killed:
        of_limit = f" of {limit}" if limit else ""
        known = replace(causes.OOM_KILLED, summary=f"{causes.OOM_KILLED.summary}{of_limit}")
    elif (known is None and cause.rank is None and by_exit is not None) or (
        known is None and cause.exit_code is not None and cause.exit_code < 0
    ):
        known = by_exit
    known = known or causes.Cause("exception" if cause.callstack else "exit-code")
    message = "\n".join(shortened(cause.message, f"all of it: {_logs(cause)}"))
    summary = f"{known.summary}" if known.summary else message
    evidence = [message] if known.summary and cause.message else []
    stack = traceback_tail(cause.callstack, cause.message)
    if stack:
        evidence.append("\n".join(stack))
    left_out = missing_file(cause.message, job.annotations.get(names.LEFT_OUT))
    if left_out is not None:
        return Finding("left-out", summary, tuple(evidence), left_out)
    return Finding(known.kind, summary, tuple(evidence), known.hint)


def of_rounds(
    job: JobView, history: History, *, now: float, at: Address | None = None
) -> list[Finding]:
    """The newest failure of a job that restarts and goes on; none where no round has failed."""
    newest = history.newest_failure
    if not newest:
        return []
    index = -1 if newest["index"] is None else int(newest["index"])
    failure = parse_record(json.dumps(newest["record"]), index=index, pod=newest["pod"])
    if failure is None:
        return []
    finding = _of_ranks(failure, job)
    who = "" if index < 0 else f"index {index}, pod {failure.pod}"
    if failure.rank is not None:
        who = f"rank {failure.rank} ({who})" if who else f"rank {failure.rank}"
    ago = f" {units.format_seconds(max(0.0, now - failure.time))} ago" if failure.time else ""
    count = f"{history.failures} round{'' if history.failures == 1 else 's'} failed"
    summary = f"{count}, the newest{ago}{', ' if who else ''}{who}: {finding.summary}"
    finding = replace(finding, kind="round-failed", summary=summary)
    return [_with_commands(finding, job, at)]


def _logs(cause: Failure) -> str:
    """The command that shows what a node printed."""
    return commands.on_job("logs", "--index", str(cause.index), "--tail", "100")


def _foreign(cause: Failure, pod: Object) -> Finding:
    """A container that a policy has added has failed, and with it the pod."""
    everything = commands.kubectl("logs", str(pod["metadata"]["name"]), "-c", str(cause.container))
    trained = "ended well" if node_of(pod).phase is Phase.DONE else "did not begin"
    return Finding(
        "foreign-container",
        f"the training {trained}; container {cause.container}, which is not kij-train's, failed, "
        "and a pod fails with any of its containers",
        ("\n".join(shortened(cause.message, f"all of it: {everything}")),),
        "ask whoever has it injected; to keep it out of the pods (Istio): "
        "--label sidecar.istio.io/inject=false",
    )


def _deadline(job: JobView, events: Sequence[Object]) -> Verdict:
    limit = units.format_seconds(job.deadline_s)
    finding = Finding(
        "deadline", f"it did not end within its --timeout of {limit}", (), "a longer --timeout"
    )
    waited = pending.unfit(events)
    more = [unschedulable(waited, job, ())] if waited else []
    more += pending.of_creation(events)
    return Verdict(JobState.FAILED, f"{job.name} failed at its deadline", (finding, *more))


# --- not ended ------------------------------------------------------------------------------------


def _suspended(job: JobView, events: Sequence[Object], queue: Queue, now: float) -> Verdict:
    if job.queue:
        what, findings = waiting(job, events, queue, now)
        return Verdict(JobState.SUSPENDED, f"{job.name} is suspended: {what}", tuple(findings))
    finding = Finding(
        "suspended",
        "somebody suspended it, or its submission did not end",
        (),
        f"resume it: {commands.on_job('resume')}",
    )
    return Verdict(JobState.SUSPENDED, f"{job.name} is suspended", (finding,))


def as_json(verdict: Verdict) -> Mapping[str, object]:
    """For scripts: state, headline, findings with kind, summary, evidence and hint, accounts."""
    return {
        "state": verdict.state.value,
        "headline": verdict.headline,
        "findings": [
            {
                "kind": each.kind,
                "summary": each.summary,
                "evidence": list(each.evidence),
                "hint": each.hint,
            }
            for each in verdict.findings
        ],
        "accounts": verdict.accounts and accounts_as_json(verdict.accounts),
    }
