"""The verdict on a job: what it does, why, the evidence quoted, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kij_train import names, units
from kij_train.diagnosis import causes, pending
from kij_train.diagnosis.accounts import accounts_as_json
from kij_train.diagnosis.failures import (
    Failure,
    failure_of_pod,
    first_failure,
    followers,
    headline,
    shortened,
    traceback_tail,
)
from kij_train.diagnosis.held import of_held, own_end
from kij_train.diagnosis.missing import missing_file
from kij_train.diagnosis.pending import Finding
from kij_train.diagnosis.phases import (
    JobState,
    Object,
    Phase,
    condition,
    epoch,
    gang_settings,
    job_state,
    node_of,
    nodes_of_job,
    own_container,
    terminal_condition,
)
from kij_train.diagnosis.progress import going_on
from kij_train.errors import JobFailedError, KijError, TimedOutError
from kij_train.pod import programs
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
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object],
    *,
    now: float,
    machines: Sequence[Object] = (),
    last_lines: Mapping[int, tuple[float, str]] | None = None,
    end: JobState | None = None,
) -> Verdict:
    """The verdict, from a Job, its pods (oldest first), the events about them, and the time.

    `machines` are Node objects, for what they have in all; `last_lines` are time and text of the
    newest log line of some indexes. Both may be left out, and then nothing is said of them. `end`
    is what `own_end` has made of a Job that other containers hold up.
    """
    state = end or job_state(job)
    name = str(job["metadata"]["name"])
    nodes = nodes_of_job(job, map(node_of, pods))
    held = of_held(job, nodes, now=now) if not job_state(job).ended else []
    if state is JobState.FAILED:
        failed = _failed(name, job, pods, events)
        return replace(failed, findings=(*failed.findings, *held))
    if state is JobState.SUCCEEDED:
        ended = terminal_condition(job) or {}
        took = _duration(job, epoch(ended.get("lastTransitionTime")))
        return Verdict(state, f"{name} succeeded" + (f" in {took}" if took else ""), tuple(held))
    if state is JobState.CANCELLED:
        finding = Finding(
            "cancelled",
            "it can start again; indexes that have completed do not run again",
            (),
            f"start it again: kij-train resume {name} -n {job['metadata'].get('namespace')}",
        )
        going = any(node.phase is Phase.ENDING for node in nodes)
        pods_now = "its pods are ending" if going else "its pods have ended"
        headline = f"{name} was cancelled: {pods_now}, the Job stays, suspended"
        return Verdict(state, headline, (finding,))
    if state is JobState.SUSPENDED:
        return _suspended(name, job, events)
    if held and own_end(job, nodes, pods) is JobState.FAILED:
        failed = _failed(name, job, pods, events)
        headline = f"{failed.headline} · its pods go on"
        return Verdict(JobState.RUNNING, headline, (*failed.findings, *held))
    headline, findings = going_on(
        job, nodes, pods, events, now=now, machines=machines, last_lines=last_lines or {}
    )
    if held:
        state = JobState.RUNNING  # to the Job its pods are not ready, as those that never ran
    return Verdict(state, headline, (*held, *findings))


def _duration(job: Object, end: float | None) -> str | None:
    start = epoch(job.get("status", {}).get("startTime"))
    return units.format_seconds(end - start) if start is not None and end is not None else None


# --- failed ---------------------------------------------------------------------------------------


def _failed(name: str, job: Object, pods: Sequence[Object], events: Sequence[Object]) -> Verdict:
    ended = terminal_condition(job) or {}
    took = _duration(job, epoch(ended.get("lastTransitionTime")))
    head = f"{name} failed" + (f" after {took}" if took else "")
    if ended.get("reason") == "DeadlineExceeded":
        return _deadline(f"{name} failed at its deadline", job, events)
    failures = [found for pod in pods if (found := failure_of_pod(pod)) is not None]
    settings = gang_settings(job)
    exhausted = settings is not None and ended.get("reason") == "BackoffLimitExceeded"
    if settings is not None and exhausted and not any(failure.final for failure in failures):
        limit = f"more pods were lost than --max-restarts {settings.max_restarts} allows"
        losses = _losses(job, pods) or _without_pods(ended, events)
        return Verdict(JobState.FAILED, f"{head} · {limit}", tuple(losses))
    cause = first_failure(failures)
    if cause is None:
        return Verdict(JobState.FAILED, head, tuple(_without_pods(ended, events)))
    pod = next(pod for pod in pods if pod["metadata"]["name"] == cause.pod)
    where = _where(cause, pod)
    finding = _finding(cause, pod, job, failures)
    return Verdict(JobState.FAILED, headline(head, cause, where), (finding,))


def _losses(job: Object, pods: Sequence[Object]) -> list[Finding]:
    """What ended the pods of a job that restarts, the newest first; not what its end took along."""
    failed = [(found, pod) for pod in pods if (found := failure_of_pod(pod)) is not None]
    lost = [(one, pod) for one, pod in failed if not one.secondary or _disruption(pod) is not None]
    findings = []
    for failure, pod in sorted(lost, key=lambda each: -each[0].time)[:MOST_LOSSES]:
        finding = _finding(failure, pod, job, [failure])
        findings.append(replace(finding, summary=f"{_where(failure, pod)}: {finding.summary}"))
    return findings


def _where(failure: Failure, pod: Object) -> str:
    machine = pod.get("spec", {}).get("nodeName")
    return f"index {failure.index}, pod {failure.pod}" + (f", node {machine}" if machine else "")


def _finding(cause: Failure, pod: Object, job: Object, failures: Sequence[Failure]) -> Finding:
    name = str(job["metadata"]["name"])
    disruption = _disruption(pod)
    if disruption is not None:
        finding = disruption
    elif cause.container is not None:
        finding = _foreign(cause, pod)
    else:
        limit = _memory_limit(job)
        known = causes.of_message(cause.message)
        by_exit = causes.of_exit(
            cause.exit_code,
            memory_limit=limit,
            own=programs.OWN_EXIT.search(cause.message) is not None,
        )
        if cause.oom_killed:
            of_limit = f" of {limit}" if limit else ""
            known = causes.Cause(
                "oom-killed",
                "more memory: --memory, or less of it a rank (batch size, DataLoader workers)",
                f"out of memory: the kernel killed it at the pod's limit{of_limit}",
            )
        elif (known is None and cause.rank is None and by_exit is not None) or (
            known is None and cause.exit_code is not None and cause.exit_code < 0
        ):
            known = by_exit
        known = known or causes.Cause("exception" if cause.callstack else "exit-code")
        message = "\n".join(shortened(cause.message, f"all of it: {_logs(cause, job)}"))
        summary = f"{known.summary}" if known.summary else message
        evidence = [message] if known.summary and cause.message else []
        stack = traceback_tail(cause.callstack, cause.message)
        if stack:
            evidence.append("\n".join(stack))
        hint = (
            known.hint.replace("NAME", name, 1)
            if known.hint and "logs NAME" in known.hint
            else known.hint
        )
        annotations = job["metadata"].get("annotations") or {}
        left_out = missing_file(cause.message, annotations.get(names.LEFT_OUT))
        if left_out is not None:
            finding = Finding("left-out", summary, tuple(evidence), left_out)
        else:
            finding = Finding(known.kind, summary, tuple(evidence), hint)
    followed = followers(cause, failures)
    return replace(finding, evidence=(*finding.evidence, followed)) if followed else finding


def _logs(cause: Failure, job: Object) -> str:
    """The command that shows what a node printed."""
    about = job["metadata"]
    flags = f"-n {about.get('namespace')} --index {cause.index} --tail 100"
    return f"kij-train logs {about['name']} {flags}"


def _foreign(cause: Failure, pod: Object) -> Finding:
    """A container that a policy has added has failed, and with it the pod."""
    about = pod["metadata"]
    everything = f"kubectl logs {about['name']} -n {about.get('namespace')} -c {cause.container}"
    trained = "ended well" if node_of(pod).phase is Phase.DONE else "did not begin"
    return Finding(
        "foreign-container",
        f"the training {trained}; container {cause.container}, which is not kij-train's, failed, "
        "and a pod fails with any of its containers",
        ("\n".join(shortened(cause.message, f"all of it: {everything}")),),
        "ask whoever has it injected; to keep it out of the pods (Istio): "
        "--label sidecar.istio.io/inject=false",
    )


def _memory_limit(job: Object) -> str | None:
    resources = own_container(job).get("resources") or {}
    limit = (resources.get("limits") or {}).get("memory")
    return None if limit is None else str(limit)


_DISRUPTIONS = {
    "PreemptionByScheduler": (
        "preempted",
        "a job of higher priority took its place",
        "--priority-class",
    ),
    "DeletionByTaintManager": ("node-lost", "its node was lost or tainted", None),
    "EvictionByEvictionAPI": ("evicted", "it was evicted, as by a drain of its node", None),
    "DeletionByPodGC": ("node-lost", "its node is gone from the cluster", None),
}


def _disruption(pod: Object) -> Finding | None:
    """What the cluster did to a pod, which the pod could not help."""
    status = pod.get("status", {})
    said = str(status.get("message") or "")
    if status.get("reason") == "Evicted":
        hint = None
        if any(word in said.lower() for word in ("ephemeral", "emptydir", "disk")):
            hint = "write to a mount: --mount pvc:NAME:/path"
        elif "memory" in said:
            hint = "ask for the memory it takes: --memory"
        return Finding("evicted", "its node evicted it", (said,) if said else (), hint)
    if status.get("reason") in ("Terminated", "NodeShutdown", "Shutdown"):
        return Finding(
            "node-shutdown", "its node was shut down, as spot machines are", (said,) if said else ()
        )
    if status.get("reason") in (
        "NodeLost",
        "NodeAffinity",
        "UnexpectedAdmissionError",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
    ):
        return Finding(
            "node-refused", f"its node did not take it: {status['reason']}", (said,) if said else ()
        )
    disrupted = condition(pod, "DisruptionTarget")
    if disrupted is None:
        return None
    words = str(disrupted.get("message") or "")
    if disrupted.get("reason") == "TerminationByKubelet":
        shutdown = "shutdown" in words.lower()
        kind, summary = (
            ("node-shutdown", "its node was shut down")
            if shutdown
            else ("evicted", "its node ended it")
        )
        return Finding(kind, summary, (words,) if words else ())
    known = _DISRUPTIONS.get(str(disrupted.get("reason")))
    if known is None:
        return Finding(
            "disrupted",
            f"the cluster ended it: {disrupted.get('reason')}",
            (words,) if words else (),
        )
    return Finding(known[0], known[1], (words,) if words else (), known[2])


_EVENTS = {
    "Preempted": ("preempted", "a pod of higher priority took its place"),
    "TaintManagerEviction": ("node-lost", "its node was lost or tainted"),
    "NodeNotReady": ("node-lost", "its node was lost"),
    "Evicted": ("evicted", "its node evicted it"),
}


def _without_pods(ended: Object, events: Sequence[Object]) -> list[Finding]:
    """No pod is there to speak: the events that are still known, else the Job's own words."""
    said = str(ended.get("message") or "")
    for event in events:
        if event.get("reason") in _EVENTS:
            kind, summary = _EVENTS[str(event["reason"])]
            about = event.get("involvedObject", {}).get("name")
            return [Finding(kind, f"pod {about}: {summary}", (str(event.get("message", "")),))]
    if ended.get("reason") == "BackoffLimitExceeded":
        return [
            Finding(
                "pods-gone",
                "a pod failed, and it is gone: deleted, or its node was",
                (said,) if said else (),
            )
        ]
    return [Finding("unknown", f"{ended.get('reason')}: {said}")]


def _deadline(headline: str, job: Object, events: Sequence[Object]) -> Verdict:
    limit = units.format_seconds(float(job["spec"].get("activeDeadlineSeconds") or 0))
    finding = Finding(
        "deadline", f"it did not end within its --timeout of {limit}", (), "a longer --timeout"
    )
    waited = [str(e.get("message", "")) for e in events if e.get("reason") == "FailedScheduling"]
    more = [pending.unschedulable(waited[-1], job, ())] if waited else []
    more += pending.of_creation(events)
    return Verdict(JobState.FAILED, headline, (finding, *more))


# --- not ended ------------------------------------------------------------------------------------


def _suspended(name: str, job: Object, events: Sequence[Object]) -> Verdict:
    said = [
        str(event.get("message", ""))
        for event in pending.sorted_events(events)
        if "kueue" in str(event.get("reportingComponent") or event.get("source")).lower()
    ]
    queue = (job["metadata"].get("labels") or {}).get(names.QUEUE)
    if queue:
        finding = Finding(
            "queued",
            f"queue {queue} has not admitted it yet",
            tuple(said[-1:]),
            f"what it waits for: kubectl get workloads -n {job['metadata'].get('namespace')}",
        )
        return Verdict(JobState.SUSPENDED, f"{name} is suspended: it waits in a queue", (finding,))
    resume = f"kij-train resume {name} -n {job['metadata'].get('namespace')}"
    finding = Finding(
        "suspended",
        "somebody suspended it, or its submission did not end",
        (),
        f"resume it: {resume}",
    )
    return Verdict(JobState.SUSPENDED, f"{name} is suspended", (finding,))


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
