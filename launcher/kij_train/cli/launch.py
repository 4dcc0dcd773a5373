"""kij-train launch"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import runs, units
from kij_train.cli import completers, grouped, output
from kij_train.cli.again import layer_of, with_its_packages
from kij_train.cli.attach import stay
from kij_train.cli.onjob import job_name
from kij_train.cli.options import (
    job_options,
    resolve_options,
    warn_about_plan,
    warn_of_doubts,
    warn_of_what_is_left_out,
)
from kij_train.cli.render import print_offline
from kij_train.cli.submitting import (
    check_whose_help,
    detach_from,
    dry_run_server,
    signals_to,
    submit,
)
from kij_train.errors import JobFailedError, RequestError
from kij_train.spec.settings import Group
from kij_train.specfile import Resolved

if TYPE_CHECKING:
    from kij_train import local
    from kij_train.spec import JobSpec


@click.command("launch", cls=grouped.Command)
@grouped.option(
    Group.COMMAND,
    "--again",
    metavar="JOB",
    callback=job_name,
    shell_complete=completers.jobs,
    help="As this job was launched; flags go on top. The code is that of now. With --replace, in "
    "its place.",
)
@grouped.option(
    Group.WHERE, "--local", "is_local", is_flag=True, help="As processes of this machine."
)
@grouped.option(
    Group.COMMAND,
    "--as-shipped",
    is_flag=True,
    help="With --local: run a copy of the code that pods would get, and nothing else.",
)
@grouped.option(
    Group.LIFE,
    "--detach",
    "-d",
    is_flag=True,
    help="Submit and return, once a pod exists or is refused (3 s at most).",
)
@grouped.option(
    Group.LIFE,
    "--replace",
    is_flag=True,
    help="Delete a job of this name first, with its pods and logs.",
)
@grouped.option(
    Group.OUTPUT,
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="Create nothing: print the objects, or what the API server makes of them.",
)
@grouped.form_of("--dry-run and --detach")
def command(
    again: str | None,
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

    \b
      kij-train launch --local --nodes 2 train.py
      kij-train launch --nodes 8 --gpus 4 train.py --lr 3e-4
      kij-train launch --restart gang --spares 1 --nodes 8 --gpus 4 train.py
    """
    request = None if again is None else layer_of(again, params, replace=replace)
    if is_local:
        if detach:
            raise RequestError(
                "--detach does not go with --local: a local run ends with its command",
                hints=(
                    "in the background: nohup kij-train launch --local … > run.log 2>&1 &",
                    "its log: tail -f run.log; its end, with the verdict: kill %1; or use tmux",
                ),
            )
        for flag, given in (("--replace", replace), ("--dry-run", dry_run)):
            if given:
                raise RequestError(f"{flag} does not go with --local")
        _launch_local(resolve_options(params, request), as_shipped)
        return
    if as_shipped:
        raise RequestError("--as-shipped goes with --local: pods always run what ships")
    check_whose_help("launch", params)
    resolved = resolve_options(params, request)
    backend = runs.OnCluster(replace=replace)
    plan = runs.plan(resolved, cwd=Path.cwd(), place=backend, random_name=not dry_run)
    if again is not None:
        plan = with_its_packages(plan, again, params)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    if dry_run == "client":
        print_offline(plan, form)
        return
    warn_of_doubts(backend, plan.spec)
    if dry_run == "server":
        dry_run_server(plan, backend, form)
        return
    output.status(runs.summary(plan, where=backend.where(plan.spec)))
    run = submit(plan, backend)
    if detach:
        detach_from(run, form)
    else:
        spec = plan.spec
        stay(run, indexes=runs.followed(spec.pods, spec.indexes) if spec.supervised else {0})


job_options(command)


# --- this machine ---------------------------------------------------------------------------------


def _launch_local(resolved: Resolved, as_shipped: bool) -> None:
    from kij_train import local

    if as_shipped and not resolved.spec.code:
        raise RequestError("--as-shipped conflicts with --no-code, which ships nothing")
    stop = local.Stop()

    def streams(spec: JobSpec) -> local.Streams:
        return _local_streams(spec, stop)

    backend = runs.OnMachine(stop=stop, streams=streams, as_shipped=as_shipped)
    plan = runs.plan(resolved, cwd=Path.cwd(), place=backend, random_name=True)
    warn_of_what_is_left_out(plan.archive)
    warn_about_plan(plan)
    output.status(runs.summary(plan, where=backend.where(plan.spec)))
    ignored = [name for name in local.ignores(resolved.spec) if resolved.given(name)]
    if ignored:
        output.status(f"not used with --local: {', '.join(ignored)}")
    try:
        with signals_to(stop, "nodes"):
            seconds = backend.start(plan).follow()
    except JobFailedError as error:
        output.verdict(error.message, error.hints)
        raise click.exceptions.Exit(error.exit_code) from None
    output.status(f"{plan.name} succeeded in {units.format_seconds(seconds)}")


def _local_streams(spec: JobSpec, stop: local.Stop) -> local.Streams:
    """A single node has the terminal, where there is one; a single rank reads stdin, too."""
    from kij_train import local

    def emit(index: int, stream: str, line: str) -> None:
        text = f"node {index} | {line}" if spec.pods > 1 else line
        try:
            output.workload(text, to_stderr=stream == "stderr")
        except BrokenPipeError:
            if not stop.calls:
                stop(signal.SIGPIPE)

    on_terminal = spec.pods == 1 and sys.stdout.isatty() and sys.stderr.isatty()
    return local.Streams(
        emit=None if on_terminal else emit,
        merged=output.one_file(),
        stdin=spec.pods == spec.ranks_per_node == 1 and _may_read(),
    )


def _may_read() -> bool:
    """Whether stdin is ours: a terminal is not that of a job in the background."""
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # of another session, where there is no background
        return True
