"""A plan as processes of this machine, or as a job on a cluster.

What only one of the two needs is imported where it begins, so that rendering starts fast.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import names, units
from kij_train.code import leftout
from kij_train.errors import (
    InterruptedByUserError,
    JobFailedError,
    RefusedError,
    RequestError,
    TimedOutError,
    UnreachableError,
)
from kij_train.pod import contract, unpack
from kij_train.runs.plan import Plan
from kij_train.spec import JobSpec

if TYPE_CHECKING:
    from kij_train import diagnosis, local
    from kij_train.cluster import Cluster, LogChoice, LogLine, Observation, Submission


# --- this machine ---------------------------------------------------------------------------------


@contextlib.contextmanager
def unpacked(plan: Plan) -> Iterator[Plan]:
    """The plan with the code that ships as its folder, unpacked as in pods; removed at the end.

    What the script writes into its folder goes with it, as in pods.
    """
    if plan.archive is None:
        yield plan
        return
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kij-train-"))
            Path(scratch, f"{contract.CODE_PREFIX}000").write_bytes(plan.archive.packed)
            code_dir = Path(scratch, "code")
            unpack.unpack_code(scratch, str(code_dir), plan.archive.sha256)
        except (OSError, contract.Failure) as error:
            raise _no_room(error) from None
        yield with_changes(plan, code_dir=code_dir)


def _no_room(error: OSError | contract.Failure) -> RequestError:
    """The error of temporary files that cannot be written."""
    cause = error if isinstance(error, OSError) else error.__cause__
    why = cause.strerror if isinstance(cause, OSError) else str(error)
    where = ""
    with contextlib.suppress(FileNotFoundError):  # none can be written, which `why` says of all
        where = f" below {tempfile.gettempdir()}, the folder for temporary files"
    return RequestError(
        f"cannot unpack the code{where}: {why}",
        hints=("make room there, or name another: TMPDIR=/PATH kij-train launch --local …",),
    )


def run_local(
    plan: Plan, *, environ: Mapping[str, str], streams: local.Streams, stop: local.Stop
) -> float:
    """Run the job on this machine; the seconds it took.

    Raises RequestError when the machine cannot, JobFailedError with the verdict, TimedOutError at
    spec.timeout, InterruptedByUserError after `stop`.
    """
    from kij_train import diagnosis, local

    local.check_machine(plan.spec, environ, plan.code_dir)
    named = plan.spec.model_copy(update={"name": plan.name})
    outcome = local.run_nodes(named, cwd=plan.code_dir, environ=environ, streams=streams, stop=stop)
    after = units.format_seconds(outcome.seconds)
    if outcome.succeeded:
        return outcome.seconds
    if outcome.stopped_by is not None:
        why = ": nobody reads its output any more" if outcome.stopped_by == signal.SIGPIPE else ""
        raise InterruptedByUserError(
            f"{plan.name} was stopped after {after}{why}; nothing of it is left running",
            signum=outcome.stopped_by,
        )
    if outcome.deadline_exceeded:
        limit = units.format_seconds(float(plan.spec.timeout or 0))
        raise TimedOutError(f"{plan.name} did not end within its --timeout of {limit}")
    failures = list(outcome.failures) or [
        _unrecorded(index, code) for index, code in enumerate(outcome.exit_codes) if code
    ]
    hints: tuple[str, ...] = ()
    cause = diagnosis.first_failure(failures)
    if cause is not None:
        recorded = None if plan.archive is None else leftout.record(plan.archive.left_out)
        hint = diagnosis.missing_file(cause.message, recorded, str(plan.code_dir))
        hint = hint or diagnosis.hint_here(cause.message, cause.exit_code)
        hints = () if hint is None else (f"try: {hint}",)
    raise JobFailedError(diagnosis.verdict(plan.name, after, failures), hints=hints)


def _unrecorded(index: int, exit_code: int) -> diagnosis.Failure:
    how = f"ended with exit code {exit_code}" if exit_code > 0 else f"killed by signal {-exit_code}"
    from kij_train import diagnosis

    return diagnosis.Failure(
        index=index,
        rank=None,
        message=f"the node's first process {how}",
        callstack="",
        exit_code=exit_code,
        time=0.0,
    )


# --- a cluster ------------------------------------------------------------------------------------


def connect(spec: JobSpec) -> Cluster:
    """The cluster and namespace that the spec, the kubeconfig or the pod around us names."""
    from kij_train.cluster import Cluster

    return Cluster.connect(
        kubeconfig=spec.kubeconfig, context=spec.context, namespace=spec.namespace
    )


MOST_LOOKED_AT = 4
"""Pages of machines, of 500 each, that a launch asks for: it must not wait for all of thousands."""


def which_nobody_has(spec: JobSpec, cluster: Cluster) -> dict[str, str]:
    """Resources of the pods that no machine of the cluster has, and what to do about each.

    Empty where there are none, and where the user may not know, or there are too many to look at.
    """
    from kij_train import diagnosis

    asked = extended_resources(spec)
    machines: list[dict[str, Any]] = []
    try:
        for number, page in enumerate(cluster.pages("Node") if asked else ()):
            machines += page.get("items") or []
            missing = diagnosis.which_nobody_has(asked, machines)
            if not missing or number + 1 == MOST_LOOKED_AT:
                return {}
    except (RefusedError, UnreachableError):
        return {}
    missing = diagnosis.which_nobody_has(asked, machines) if machines else []
    return {one: diagnosis.without(one, machines) for one in missing}


def extended_resources(spec: JobSpec) -> list[str]:
    """What a pod asks for beside CPU and memory."""
    return [*spec.resources, *([spec.gpu_resource] if spec.gpu_resource is not None else [])]


def dry_run(plan: Plan, cluster: Cluster) -> list[dict[str, Any]]:
    """What the API server makes of every object, and of one pod; nothing is created."""
    from kij_train.cluster.submit import dry_run

    return dry_run(cluster, plan.objects())


def submit(plan: Plan, cluster: Cluster, *, replace: bool = False) -> Submission:
    """Create the job, all or nothing. Raises RefusedError, UnreachableError."""
    from kij_train.cluster.submit import submit

    objects = plan.objects()
    left_out = None if plan.archive is None else leftout.record(plan.archive.left_out)
    if left_out is not None:
        # Here, not in what render prints: it is a fact of this machine, not of the request.
        (job,) = (body for body in objects if body["kind"] == "Job")
        job["metadata"].setdefault("annotations", {})[names.LEFT_OUT] = left_out
    return submit(cluster, objects, replace=replace, user=user_of(plan.spec))


def user_of(spec: JobSpec) -> str | None:
    """Who launches, as the value of a label: what the request says, else the name of the login."""
    if names.USER in spec.labels:
        return spec.labels[names.USER]
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many images
        return None
    return re.sub(r"[^A-Za-z0-9]+", "-", login)[: names.DNS_LABEL_MAX].strip("-") or None


def await_a_pod(submission: Submission) -> None:
    """Look, for some seconds, whether the cluster takes the pods of a job.

    Raises RefusedError when quota or policy refuse them; then the job is removed.
    """
    from kij_train import cluster

    cluster.await_a_pod(submission)


MOST_FOLLOWED = 32
"""Logs that are passed on at once, of a job whose rank 0 may be anywhere."""


def follow(
    submission: Submission,
    *,
    pods: int = 1,
    log_choice: LogChoice | None = None,
    submitted_now: bool = True,
    on_line: Callable[[LogLine], None],
    on_change: Callable[[Observation], None],
    on_note: Callable[[str], None],
) -> float:
    """Stay until the job ends, passing on the log of the first `pods` indexes; the seconds it took.

    Raises JobFailedError with the verdict, TimedOutError at the job's deadline, RefusedError when
    the cluster makes no pod at all of a job that was `submitted_now`, and removes it.
    """
    from kij_train import cluster, diagnosis, jobs

    end = cluster.follow(
        submission,
        on_line=on_line,
        on_change=on_change,
        on_note=on_note,
        log_indexes=frozenset(range(min(pods, MOST_FOLLOWED))),
        log_choice=log_choice,
        submitted_now=submitted_now,
    )
    verdict = diagnosis.why(end.job, end.pods, (), now=time.time(), end=end.own)
    if verdict.state is diagnosis.JobState.SUCCEEDED:
        if end.own is not None:
            on_note(verdict.text())
        return end.seconds
    if verdict.findings and verdict.findings[0].kind in ("deadline", "pods-gone", "unknown"):
        # The pods do not tell; events may.
        events = jobs.events_of(submission.cluster, submission.name)
        verdict = diagnosis.why(end.job, end.pods, events, now=time.time(), end=end.own)
    flags = f"{submission.name} -n {submission.cluster.namespace}"
    error = verdict.error((f"log: kij-train logs {flags} --all --tail 100",))
    assert error is not None, "following ends with the job"
    raise error
