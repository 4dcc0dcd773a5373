"""A sweep of a collective over numbers of nodes: one job after another, one document.

Every job is an ordinary launch of payloads/allreduce.py; its report comes back among its output.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import benchreport, runs
from kij_train.errors import InterruptedByUserError, JobFailedError, KijError
from kij_train.payloads import allreduce
from kij_train.specfile import Layer, Origin

if TYPE_CHECKING:
    from kij_train import local
    from kij_train.cluster import Submission

SCRIPT = "allreduce.py"


@dataclass(frozen=True)
class Sinks:
    """Where things are said."""

    output: Callable[[str], None]
    """The payload's tables."""
    status: Callable[[str], None]
    follow: Callable[[Submission, Callable[[str], bool]], float]
    """Stays with a job, shows it but for the lines that the function takes; its seconds."""
    saved: Callable[[benchreport.Document], None] = field(default=lambda _: None)
    """Called with the document after every run."""


@contextmanager
def shipped_payload() -> Iterator[Path]:
    """A folder with the payload alone, which is what the pods get."""
    with tempfile.TemporaryDirectory(prefix="kij-train-bench-") as folder:
        shutil.copyfile(allreduce.__file__, Path(folder, SCRIPT))
        yield Path(folder)


def command_layer(folder: Path, arguments: list[str], nodes: int, name: str | None) -> Layer:
    """What a benchmark fixes, whatever files and variables say."""
    values: dict[str, Any] = {
        "script": SCRIPT,
        "args": [*arguments, "-J", "-"],
        "code_dir": str(folder),
        "code": True,
        "nodes": nodes,
    }
    if name is not None:
        values["name"] = name
    layer = Layer(values)
    for key in values:
        layer.origins[(key,)] = Origin("kij-train bench")
    layer.origins[("nodes",)] = Origin("--nodes", names_value=True)
    return layer


def run_once(
    plan: runs.Plan,
    *,
    environ: Mapping[str, str] = os.environ,
    stop: local.Stop | None,
    sinks: Sinks,
) -> tuple[float, dict[str, Any]]:
    """Run one job, on this machine with `stop`, else on the cluster; its seconds and its report.

    A job that measured but found wrong results has a report, and is for the caller to judge. On
    the cluster the job is removed when it is done, and when the user interrupts it; a failed one
    stays.
    """
    lines = benchreport.ReportLines()

    def emit(line: str) -> None:
        if not lines.take(line):
            sinks.output(line)

    def emit_of_node(index: int, stream: str, line: str) -> None:
        if stream == "stdout":
            emit(line)
        else:
            sinks.status(f"node {index} | {line}")

    seconds = 0.0
    try:
        if stop is not None:
            seconds = runs.run_local(plan, environ=environ, emit=emit_of_node, stop=stop)
        else:
            seconds = _run_in_cluster(plan, lines, sinks)
    except JobFailedError:
        if lines.report() is None:
            raise
    report = lines.report()
    if report is None:
        raise JobFailedError(f"{plan.name} ended, but its report did not come whole")
    return seconds, report


def _run_in_cluster(plan: runs.Plan, lines: benchreport.ReportLines, sinks: Sinks) -> float:
    cluster = runs.connect(plan.spec)
    submission = runs.submit(plan, cluster)
    try:
        seconds = sinks.follow(submission, lines.take)
    except KeyboardInterrupt as interrupt:
        submission.delete()
        raise InterruptedByUserError(
            f"{plan.name} is stopped and removed",
            signum=int(interrupt.args[0]) if interrupt.args else 2,
        ) from None
    submission.delete()
    return seconds


def sweep(
    document: benchreport.Document,
    counts: list[int],
    plan_for: Callable[[int], runs.Plan],
    *,
    stop: local.Stop | None,
    sinks: Sinks,
) -> KijError | None:
    """Run what the document does not have yet; the error that ended the sweep early, if one did."""
    done = {int(run["nodes"]) for run in document["runs"]}
    for position, nodes in enumerate(counts, start=1):
        if nodes in done:
            sinks.status(f"{nodes} nodes: measured already")
            continue
        try:
            plan = plan_for(nodes)
            where = "this machine" if stop is not None else f"image {plan.spec.image}"
            sinks.status(f"[{position}/{len(counts)}] {runs.summary(plan, where=where)}")
            seconds, report = run_once(plan, stop=stop, sinks=sinks)
        except KijError as error:
            return error
        benchreport.add_run(document, nodes, seconds, report)
        sinks.saved(document)
    return None
