"""A sweep of a collective over numbers of nodes: jobs in turn or all at once, one document.

Every job is an ordinary launch of pod/collectives; its report comes back among its output.
"""

from __future__ import annotations

import queue
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kij_train import runs
from kij_train.bench import documents, rows
from kij_train.errors import InterruptedByUserError, JobFailedError, KijError
from kij_train.pod import collectives
from kij_train.specfile import Layer, Origin

Follow = Callable[[Any, Callable[[str], bool]], float]
"""Stays with a Run of the backend's kind, shows it but for the lines that the function takes; its
seconds."""
MODULE = "allreduce"
"""The name that the payload has in its folder, and its jobs with it."""


@dataclass(frozen=True)
class Sinks:
    """Where things are said."""

    output: Callable[[str], None]
    """The payload's tables."""
    status: Callable[[str], None]
    follow: Follow
    saved: Callable[[rows.Document], None] = field(default=lambda _: None)
    """Called with the document after every run."""


@contextmanager
def shipped_payload() -> Iterator[Path]:
    """A folder with the payload alone, which is what the pods get."""
    with tempfile.TemporaryDirectory(prefix="kij-train-bench-") as folder:
        here = Path(collectives.__file__).parent
        shutil.copytree(here, Path(folder, MODULE), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)


def command_layer(folder: Path, arguments: list[str], nodes: int, name: str | None) -> Layer:
    """The values that a benchmark sets itself, above files and variables."""
    values: dict[str, Any] = {
        "module": MODULE,
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
    plan: runs.Plan, backend: runs.Backend, follow: Follow
) -> tuple[float, dict[str, Any]]:
    """Run one job; its seconds and its report.

    A job that measured but found wrong results has a report, and is for the caller to judge. The
    job is removed when it is done, and when the user interrupts it; a failed one stays.
    """
    lines = rows.ReportLines()
    seconds = 0.0
    run = backend.start(plan)
    try:
        seconds = follow(run, lines.take)
        run.delete()
    except KeyboardInterrupt as interrupt:
        raise _interrupted([run], interrupt) from None
    except BrokenPipeError:
        raise _interrupted([run], KeyboardInterrupt(int(signal.SIGPIPE))) from None
    except JobFailedError:
        if lines.report() is None:
            raise
    report = lines.report()
    if report is None:
        raise JobFailedError(f"{plan.name} ended, but its report did not come whole")
    return seconds, report


def _interrupted(going: Iterable[runs.Run], interrupt: KeyboardInterrupt) -> InterruptedByUserError:
    """Remove jobs that run; the error that says so."""
    going = list(going)
    names = ", ".join(run.name for run in going) or "the sweep"
    return InterruptedByUserError(
        f"{names} {'are' if len(going) > 1 else 'is'} stopped and removed",
        hints=_remove(going),
        signum=int(interrupt.args[0]) if interrupt.args else 2,
    )


def _remove(going: Iterable[runs.Run]) -> tuple[str, ...]:
    """Remove every job, even if another one cannot be removed; what to do about those."""
    from kij_train.cluster.apierrors import GoneError

    hints: tuple[str, ...] = ()
    for run in going:
        try:
            run.delete()
        except GoneError:
            continue
        except KijError as error:
            hints += error.hints
    return hints


def sweep(
    document: rows.Document,
    counts: list[int],
    plan_for: Callable[[int], runs.Plan],
    *,
    backend: runs.Backend,
    sinks: Sinks,
) -> list[KijError]:
    """Run what the document does not have yet, in turn; the error that ended it early, if any."""
    missing = _missing(document, counts, sinks)
    for position, nodes in enumerate(missing, start=1):
        try:
            plan = plan_for(nodes)
            about = runs.summary(plan, where=backend.where(plan.spec))
            sinks.status(f"[{position}/{len(missing)}] {about}")
            seconds, report = run_once(plan, backend, sinks.follow)
        except KijError as error:
            return [error]
        documents.add_run(document, nodes, seconds, report)
        sinks.saved(document)
    return []


def _missing(document: rows.Document, counts: list[int], sinks: Sinks) -> list[int]:
    """Numbers of nodes that the document does not have."""
    done = {int(run["nodes"]) for run in document["runs"]}
    for nodes in counts:
        if nodes in done:
            sinks.status(f"{nodes} nodes: measured already")
    return [nodes for nodes in counts if nodes not in done]


# --- all at once ----------------------------------------------------------------------------------


@dataclass
class _Going:
    """A job of a parallel sweep."""

    nodes: int
    run: runs.Run
    lines: rows.ReportLines = field(default_factory=rows.ReportLines)
    table: list[str] = field(default_factory=list)
    """Its output, kept until it ends: lines of several tables would make none."""
    seconds: float = 0.0
    error: Exception | None = None

    def take(self, line: str) -> bool:
        """Keep a line."""
        if not self.lines.take(line):
            self.table.append(line)
        return True

    def follow(self, sinks: Sinks, ended: queue.SimpleQueue[_Going]) -> None:
        """A thread's work: stay until the job ends."""
        try:
            self.seconds = sinks.follow(self.run, self.take)
        except Exception as error:
            self.error = error  # the main thread's to judge
        ended.put(self)


def sweep_at_once(
    document: rows.Document,
    counts: list[int],
    plan_for: Callable[[int], runs.Plan],
    *,
    backend: runs.Backend,
    sinks: Sinks,
) -> list[KijError]:
    """Submit a job for all that the document lacks, then follow them all; gives the errors.

    A job that fails, or is refused, leaves the others alone. An interruption removes all that run.
    `sinks.follow` is called in one thread for each job, the other sinks in the caller's.
    """
    going: dict[int, _Going] = {}
    errors: dict[int, KijError] = {}
    ended: queue.SimpleQueue[_Going] = queue.SimpleQueue()
    try:
        for nodes in _missing(document, counts, sinks):
            try:
                plan = plan_for(nodes)
                sinks.status(runs.summary(plan, where=backend.where(plan.spec)))
                going[nodes] = _Going(nodes, backend.start(plan))
            except KijError as error:
                errors[nodes] = error
        for one in going.values():
            # Not joined after an interruption: they end when they see that their jobs are gone.
            threading.Thread(target=one.follow, args=(sinks, ended), daemon=True).start()
        while going:
            one = ended.get()
            problem = _conclude(document, one, sinks)
            del going[one.nodes]
            if problem is not None:
                errors[one.nodes] = problem
    except KeyboardInterrupt as interrupt:
        return [_interrupted((one.run for one in going.values()), interrupt)]
    except BaseException:
        _remove(one.run for one in going.values())
        raise
    return [errors[nodes] for nodes in sorted(errors)]


def _conclude(document: rows.Document, one: _Going, sinks: Sinks) -> KijError | None:
    """Show and keep what a job measured; the error if it measured nothing."""
    for line in one.table:
        sinks.output(line)
    report = one.lines.report()
    if one.error is not None and not isinstance(one.error, KijError):
        raise one.error
    if one.error is not None and (report is None or not isinstance(one.error, JobFailedError)):
        return one.error
    if report is None:
        return JobFailedError(f"{one.run.name} ended, but its report did not come whole")
    documents.add_run(document, one.nodes, one.seconds, report)
    sinks.saved(document)
    if one.error is None:
        one.run.delete()
    return None
