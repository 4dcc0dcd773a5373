"""kij-train launch"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import render, runs, units
from kij_train.cli import output
from kij_train.cli.options import (
    job_options,
    resolve_options,
    warn_about_plan,
    warn_of_what_is_left_out,
    warn_of_what_nobody_has,
    warn_without_gang,
)
from kij_train.cli.render import print_objects, print_offline
from kij_train.errors import InterruptedByUserError, JobFailedError, RequestError
from kij_train.specfile import Resolved

if TYPE_CHECKING:
    from kij_train import local
    from kij_train.cluster import Cluster, LogLine, Submission
    from kij_train.spec import JobSpec


@click.command("launch")
@click.option("--local", "is_local", is_flag=True, help="As processes of this machine.")
@click.option(
    "--as-shipped",
    is_flag=True,
    help="With --local: run a copy of the code that pods would get, and nothing else.",
)
@click.option(
    "--detach",
    "-d",
    is_flag=True,
    help="Submit and return, once a pod exists or is refused (3 s at most).",
)
@click.option(
    "--replace", is_flag=True, help="Delete a job of this name first, with its pods and logs."
)
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="Create nothing: print the objects, or what the API server makes of them.",
)
@click.option(
    "--output",
    "-o",
    "form",
    type=click.Choice(["text", "yaml", "json"]),
    default="text",
    help="Format of what --dry-run and --detach print.",
)
def command(
    is_local: bool,
    as_shipped: bool,
    detach: bool,
    replace: bool,
    dry_run: str | None,
    form: str,
    **params: Any,
) -> None:
    """Run SCRIPT with ARGS on N nodes that train as one, and stay attached until it ends.

    Everything after SCRIPT belongs to the script.
    """
    if is_local:
        for flag, given in (("--detach", detach), ("--replace", replace), ("--dry-run", dry_run)):
            if given:
                raise RequestError(f"{flag} does not go with --local")
        _launch_local(resolve_options(params), as_shipped)
        return
    if as_shipped:
        raise RequestError("--as-shipped goes with --local: pods always run what ships")
    resolved = resolve_options(params)
    plan = runs.plan(resolved, cwd=Path.cwd(), random_name=not dry_run)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if dry_run == "client":
        print_offline(plan, form)
        return
    warn_without_gang(plan.spec)
    cluster = runs.connect(plan.spec)
    warn_of_what_nobody_has(plan.spec, cluster)
    if dry_run == "server":
        _dry_run_server(plan, cluster, form)
        return
    output.status(
        runs.summary(plan, where=f"namespace {cluster.namespace} · image {plan.spec.image}")
    )
    submission = _submit(plan, cluster, replace)
    if detach:
        _detach(submission, form)
    else:
        _attach(submission, plan.spec)


job_options(command)


# --- this machine ---------------------------------------------------------------------------------


def _launch_local(resolved: Resolved, as_shipped: bool) -> None:
    from kij_train import local

    if as_shipped and not resolved.spec.code:
        raise RequestError("--as-shipped conflicts with --no-code, which ships nothing")
    plan = runs.plan(
        resolved, cwd=Path.cwd(), for_cluster=False, as_shipped=as_shipped, random_name=True
    )
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    output.status(runs.summary(plan, where="this machine"))
    ignored = [name for name in local.LOCAL_IGNORES if resolved.given(name)]
    if ignored:
        output.status(f"not used with --local: {', '.join(ignored)}")
    several = plan.spec.nodes > 1

    def emit(index: int, stream: str, line: str) -> None:
        text = f"node {index} | {line}" if several else line
        output.workload(text, to_stderr=stream == "stderr")

    stop = local.Stop()
    with signals_to(stop), runs.unpacked(plan) as unpacked:
        try:
            seconds = runs.run_local(unpacked, environ=os.environ, emit=emit, stop=stop)
        except JobFailedError as error:
            output.verdict(error.message, error.hints)
            raise click.exceptions.Exit(error.exit_code) from None
    output.status(f"{plan.name} succeeded in {units.format_seconds(seconds)}")


@contextmanager
def signals_to(stop: local.Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP ask for the end; the second one for the end at once."""

    def handle(signum: int, frame: object) -> None:
        del frame
        stop(signum)
        if stop.calls == 1:
            output.status("ending all nodes; once more to kill them")

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.signal(signum, handle) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


# --- a cluster ------------------------------------------------------------------------------------


def _dry_run_server(plan: runs.Plan, cluster: Cluster, form: str) -> None:
    objects = runs.dry_run(plan, cluster)
    _print_warnings(cluster)
    if form == "text":
        for body in objects:
            output.data(f"{body['kind'].lower()}/{body['metadata']['name']} (server dry run)")
        output.status(f"{cluster.host} takes all of it; nothing was created")
    else:
        print_objects(objects, form)


def _submit(plan: runs.Plan, cluster: Cluster, replace: bool) -> Submission:
    try:
        with sigterm_as_interrupt():
            submission = runs.submit(plan, cluster, replace=replace)
    except KeyboardInterrupt as interrupt:
        _print_warnings(cluster)
        raise InterruptedByUserError(
            "interrupted while submitting; what was made is removed", signum=_signum(interrupt)
        ) from None
    except BaseException:
        _print_warnings(cluster)
        raise
    _print_warnings(cluster)
    chunks = sum(body["kind"] == "ConfigMap" for body in plan.objects())
    plural = "s" if chunks > 1 else ""
    output.status(f"created Job, Service, {chunks} ConfigMap{plural} for {submission.name}")
    return submission


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends what is going on as Ctrl-C does, with its number."""

    def handle(signum: int, frame: object) -> None:
        del frame
        raise KeyboardInterrupt(signum)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _signum(interrupt: KeyboardInterrupt) -> int:
    return int(interrupt.args[0]) if interrupt.args else signal.SIGINT


def _print_warnings(cluster: Cluster) -> None:
    for text in cluster.warnings:
        output.warning(text)
    cluster.warnings.clear()


def _next_commands(submission: Submission) -> dict[str, str]:
    of_job = f"{submission.name} -n {submission.cluster.namespace}"
    return {
        "attach": f"kij-train logs -f {of_job}",
        "state": f"kij-train status {of_job}",
        "cancel": f"kij-train cancel {of_job}",
        "remove": f"kij-train delete {of_job}",
    }


def _detach(submission: Submission, form: str) -> None:
    try:
        with sigterm_as_interrupt():
            runs.await_a_pod(submission)
    except KeyboardInterrupt as interrupt:
        _interrupted(submission, _signum(interrupt))
    _print_detached(submission, form)


def _print_detached(submission: Submission, form: str) -> None:
    made = {
        "name": submission.name,
        "namespace": submission.cluster.namespace,
        "uid": submission.uid,
    }
    if form == "json":
        output.json_data(made)
        return
    if form == "yaml":
        output.data(render.to_yaml([made]))
        return
    output.data(submission.name)
    for what, line in _next_commands(submission).items():
        output.status(f"  {what + ':':<12}{line}")


def _attach(submission: Submission, spec: JobSpec) -> None:
    try:
        with sigterm_as_interrupt():
            seconds = _follow(submission, spec.pods if spec.supervised else 1)
    except KeyboardInterrupt as interrupt:
        _interrupted(submission, _signum(interrupt))
    except JobFailedError as error:
        output.verdict(error.message, error.hints)
        raise click.exceptions.Exit(error.exit_code) from None
    else:
        output.status(f"{submission.name} succeeded in {units.format_seconds(seconds)}")


def _follow(submission: Submission, pods: int) -> float:
    """With the log of index 0, or of several: where a job restarts, rank 0 may be anywhere."""
    from kij_train.cli.view import view

    with view(submission.name) as shown:

        def labelled(line: LogLine) -> None:
            shown.line(replace(line, text=f"{line.index} | {line.text}"))

        return runs.follow(
            submission,
            pods=pods,
            on_line=labelled if pods > 1 else shown.line,
            on_change=shown.change,
            on_note=shown.note,
        )


def _interrupted(submission: Submission, signum: int) -> None:
    """After Ctrl-C on a terminal, ask whether to detach or to cancel; else detach."""
    answer = "d"
    if signum == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty():
        output.status("")
        try:
            answer = click.prompt(
                f"{submission.name} is running. [d]etach and let it run, or [c]ancel it",
                type=click.Choice(["d", "c"]),
                default="d",
                show_choices=False,
                err=True,
            )
        except click.Abort:
            answer = "d"
    if answer == "c":
        submission.cancel()
        raise InterruptedByUserError(
            f"{submission.name} is cancelled: its pods end, the Job stays, suspended",
            signum=signum,
            hints=(
                f"start it again: kij-train resume {submission.name} "
                f"-n {submission.cluster.namespace}",
                f"remove it: {_next_commands(submission)['remove']}",
            ),
        )
    lines = (f"{what}: {line}" for what, line in _next_commands(submission).items())
    raise InterruptedByUserError(
        f"{submission.name} goes on without us", signum=signum, hints=tuple(lines)
    )
