"""What the commands share that start a job: on a cluster, or as processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kij_train import render, runs
from kij_train.cli import output
from kij_train.cli.attach import next_commands, signum_of, sigterm_as_interrupt
from kij_train.cli.render import print_objects
from kij_train.errors import InterruptedByUserError, RequestError
from kij_train.pod import signals
from kij_train.runs.on_cluster import Submittable

if TYPE_CHECKING:
    from kij_train import local


def check_whose_help(command: str, params: dict[str, Any]) -> None:
    """Nobody starts pods to read a script's help, as `launch train.py --help` would."""
    if params["args"] not in (("--help",), ("-h",)):
        return
    script, word = params["script"], params["args"][0]
    unit = "node of the job" if command == "launch" else "pod of the array"
    how = "python -m " if params["as_module"] else "" if params["as_program"] else "python "
    raise RequestError(
        f"{word} stands behind {script}, so it would be the script's, on every {unit}",
        hints=(
            f"kij-train's: kij-train {command} --help",
            f"the script's, on this machine: {how}{script} {word}",
        ),
    )


# --- a cluster ------------------------------------------------------------------------------------


def dry_run_server(plan: Submittable, backend: runs.OnCluster, form: str) -> None:
    """Print what the API server makes of a job; nothing is created."""
    cluster = backend.cluster(plan.spec)
    objects = runs.dry_run(plan, cluster)
    _print_warnings(backend)
    if form == "text":
        for body in objects:
            output.data(f"{body['kind'].lower()}/{body['metadata']['name']} (server dry run)")
        output.status(f"{cluster.host} takes all of it; nothing was created")
    else:
        print_objects(objects, form)


def submit(plan: Submittable, backend: runs.OnCluster) -> runs.ClusterRun:
    """Create a job, all or nothing, and say what was made."""
    try:
        with sigterm_as_interrupt():
            run = backend.start(plan)
    except KeyboardInterrupt as interrupt:
        raise InterruptedByUserError(
            "interrupted while submitting; what was made is removed", signum=signum_of(interrupt)
        ) from None
    finally:
        _print_warnings(backend)
    counts = run.created or {}
    kinds = (kind if count == 1 else f"{count} {kind}s" for kind, count in counts.items())
    output.status(f"created {', '.join(kinds)} for {run.name}")
    return run


def _print_warnings(backend: runs.OnCluster) -> None:
    for text in backend.warnings:
        output.warning(text)
    backend.warnings.clear()


def detach_from(run: runs.ClusterRun, form: str) -> None:
    """Leave a job, once a pod exists or is refused, and print how to come back to it."""
    try:
        with sigterm_as_interrupt():
            run.await_a_pod()
    except KeyboardInterrupt as interrupt:
        _print_detached(run, form)
        raise click.exceptions.Exit(128 + signum_of(interrupt)) from None
    _print_detached(run, form)


def _print_detached(run: runs.ClusterRun, form: str) -> None:
    made = {"name": run.name, "namespace": run.cluster.namespace, "uid": run.uid}
    if form == "json":
        output.json_data(made)
        return
    if form == "yaml":
        output.yaml_data(render.to_yaml([made]))
        return
    output.data(run.name)
    for what, line in next_commands(run).items():
        output.status(f"  {what + ':':<12}{line}")


# --- this machine ---------------------------------------------------------------------------------


@contextmanager
def signals_to(stop: local.Stop, what: str) -> Iterator[None]:
    """What asks a process to end asks for the end; the second time for the end at once.

    What nohup, or a shell for its background, has ignored stays ignored.
    """
    asked, ask = os.pipe()

    def handle(signum: int, frame: object) -> None:
        del frame
        stop(signum)
        os.write(ask, b".")

    def tell() -> None:
        if os.read(asked, 1):
            output.status(f"ending all {what}; once more to kill them")

    # Not in the handler: it may have broken into a write to stderr, and whoever reads that may
    # stand still.
    teller = threading.Thread(target=tell, name="teller", daemon=True)
    teller.start()
    before = {signum: signal.signal(signum, handle) for signum in signals.heard_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(ask)
        teller.join(output.LAST_WORDS_S)
        if not teller.is_alive():
            os.close(asked)
