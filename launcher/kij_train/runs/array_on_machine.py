"""An attempt of an array as processes of this machine, with its results in the array's folder."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import units
from kij_train.arrays.store import ArrayFolder
from kij_train.errors import InterruptedByUserError, JobFailedError, RequestError, TimedOutError
from kij_train.pod import itemplan
from kij_train.runs.arrays import ArrayPlan
from kij_train.runs.on_machine import LocalRun, unpacked

if TYPE_CHECKING:
    from kij_train import local

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
"""How an attempt ended, as its folder keeps it."""


def check_here(plan: ArrayPlan) -> None:
    """Raise RequestError unless this machine can run the plan."""
    from kij_train import local

    local.check_machine_for_array(plan.spec, os.environ, plan.code_dir)
    local.runners_here(plan.spec, plan.indexes, os.environ)


def at_once_here(plan: ArrayPlan) -> int:
    """How many indexes run at once on this machine."""
    from kij_train import local

    return local.runners_here(plan.spec, plan.indexes, os.environ)


def start_array(
    plan: ArrayPlan,
    folder: ArrayFolder,
    *,
    stop: local.Stop | None = None,
    streams: local.Streams | None = None,
    on_begin: Callable[[int], None] = lambda _: None,
    on_end: Callable[[local.Ended], None] = lambda _: None,
) -> LocalRun:
    """Start an attempt that the folder knows already.

    `on_begin` is told of each index of this attempt that begins, `on_end` how it ended. What items
    print is kept in the run, or goes to `streams`, with the index. Raises RequestError when the
    machine cannot run it.
    """
    from kij_train import local

    environ, asked = dict(os.environ), stop or local.Stop()
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(unpacked(plan))
        check_here(here)
        share = local.Share(_settings(here, folder), here.indexes)
        spec, data = local.fetched(here.spec, environ)
        here = replace(here, spec=spec)
        packages = {**local.offered(plan.packages, environ), **data}
        until_the_end = stack.pop_all()

    left: dict[int, dict[str, Any]] = {}

    def ended(how: local.Ended) -> None:
        if how.error:
            index = how.index if plan.selection is None else plan.selection[how.index][0]
            left[index] = {"error": how.error, "exit_code": how.exit_code}
        on_end(how)

    def work(streams: local.Streams) -> float:
        state = CANCELLED
        with until_the_end, folder.running(plan.number):
            try:
                outcome = local.run_array(
                    here.spec,
                    share,
                    cwd=here.code_dir,
                    environ=environ,
                    streams=streams,
                    stop=asked,
                    on_begin=on_begin,
                    on_end=ended,
                    packages=packages,
                )
                if outcome.stopped_by is None:
                    state = FAILED if _fault(here, outcome) else SUCCEEDED
            finally:
                if left:
                    folder.keep_left(plan.number, left)
                folder.end_attempt(plan.number, state)
        _raise_for(here, outcome)
        return outcome.seconds

    return LocalRun(plan.name, plan.indexes, work, stop=asked, streams=streams)


def _settings(plan: ArrayPlan, folder: ArrayFolder) -> itemplan.ArraySettings:
    path = folder.path.resolve()
    results_dir = path / folder.results_dir(plan.number).name
    selection_file = ""
    if plan.selection is not None:
        selection_file = str(results_dir / "selection.xz")
        _write(selection_file, plan.packed_selection)
    study_file = ""
    if plan.study:
        study_file = str(results_dir / "study.journal")
        _write(study_file, plan.study)
    return itemplan.ArraySettings(
        **plan.spec.runner_settings(),
        name=plan.array,
        plan_sha256=plan.pinned.sha256,
        attempt=plan.number,
        items_file=str(path / folder.about.items),
        selection=plan.selection is not None,
        selection_file=selection_file,
        study=bool(plan.study),
        study_file=study_file,
        results_dir=str(results_dir),
        run_dir=str(path / "run"),
    )


def _write(path: str, data: bytes) -> None:
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None


def _fault(plan: ArrayPlan, outcome: local.ArrayOutcome) -> str:
    """What of an attempt was not well; empty: nothing."""
    failed = [each for each in outcome.ended.values() if each.exit_code]
    missing = plan.indexes - len(outcome.ended)
    if not failed and not missing:
        return ""
    said = f"{len(failed):,} of {plan.indexes:,} indexes failed"
    errors = [each.error for each in failed if each.error]
    if errors:
        said += f": {errors[0]}"
    if outcome.too_many_failed:
        said += f", more than --max-failed {plan.spec.max_failed}"
    if missing:
        said += f"; {missing:,} were not run"
    return said


def _raise_for(plan: ArrayPlan, outcome: local.ArrayOutcome) -> None:
    """Raise the error of an attempt that did not end well."""
    after = units.format_seconds(outcome.seconds)
    rest = f"run the rest: kij-train rerun {plan.array} --failed"
    if outcome.stopped_by is not None:
        why = ": nobody reads its output any more" if outcome.stopped_by == signal.SIGPIPE else ""
        raise InterruptedByUserError(
            f"{plan.name} was stopped after {after}{why}; nothing of it is left running, and what "
            "was done is kept",
            signum=outcome.stopped_by,
            hints=(f"what there is: kij-train report {plan.array}", rest),
        )
    if outcome.deadline_exceeded:
        limit = units.format_seconds(float(plan.spec.timeout or 0))
        raise TimedOutError(
            f"{plan.name} did not end within its --timeout of {limit}; what was done is kept",
            hints=(rest,),
        )
    fault = _fault(plan, outcome)
    if fault:
        raise JobFailedError(f"{plan.name} failed after {after}: {fault}")
