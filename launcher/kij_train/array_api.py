"""Arrays from Python: map a script or a function over items, and read results as they come.

    run = kij_train.map("convert.py", ["a.csv", "b.csv"], args=["{item}"], image="…")
    for record in run.results():
        print(record["key"], record.get("rows"))

Nothing here prints, or installs signal handlers. Everything that goes wrong is a KijError.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from kij_train import jobs, runs
from kij_train.arrays import items as sources
from kij_train.arrays import plan as plans
from kij_train.arrays.facts import Where
from kij_train.arrays.outcomes import State
from kij_train.arrays.report import counted
from kij_train.arrays.store import ArrayFolder, check_free, prepare
from kij_train.arrays.summary import summary_of
from kij_train.arrays.view import outcomes_of
from kij_train.errors import (
    InterruptedByUserError,
    JobFailedError,
    KijError,
    RequestError,
    TimedOutError,
)
from kij_train.pod import results as records
from kij_train.runs import Line, Run
from kij_train.spec import ArraySpec
from kij_train.spec.arraytypes import parse_range
from kij_train.specfile import Layer, Location, Origin, Resolved, check

if TYPE_CHECKING:
    from kij_train.arrays.facts import Attempt
    from kij_train.diagnosis import JobState

_log = logging.getLogger(__name__)


def map(  # noqa: A001 - kij_train.map, as the map of an executor
    target: ArraySpec | str | Callable[[Any], Any],
    items: Iterable[Any] | None = None,
    *,
    local: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    replace: bool = False,
    **fields: Any,
) -> ArrayRun:
    """Run a script, or a function, for every item, on a cluster or on this machine.

    `target` is the path of a script, a function that can be imported by its name, or an ArraySpec.
    `items` are what JSON can carry, each its own key, or dicts with a "key"; None: those that the
    spec names (`items`, `glob`, `range`). `fields` are those of ArraySpec, such as `args`, `chunk`,
    `retries` or `image`. `cwd` is where paths begin, and where results are kept, in .kij-train.
    A function gets the item, and what it returns is the item's result. Items import the module
    of the function: a script that maps its own calls this under `if __name__ == "__main__":`.
    Raises RequestError, RefusedError, UnreachableError.
    """
    runs.check_not_imported("map")
    here = Path.cwd() if cwd is None else Path(cwd)
    resolved = _resolved(target, fields, here)
    spec = resolved.spec
    found = _items_of(spec, items, here)
    place: runs.OnMachine | runs.OnCluster
    place = runs.OnMachine() if local else runs.OnCluster(replace=replace)
    plan = runs.plan_array(resolved, found, cwd=here, place=place, random_name=True)
    for note in plan.notes:
        _log.warning(note.text)
    if isinstance(place, runs.OnMachine):
        runs.check_here(plan)
        return _start_here(plan, here, replace)
    most = plan.spec.failed_indexes(plan.indexes)
    plans.check_limits(plan.pinned, parallelism=plan.spec.parallelism, max_failed=most)
    prepare(here)  # before there is a Job whose results nobody could keep
    check_free(here, plan.array, replace=replace)
    run = place.start(plan)
    for warning in place.warnings:
        _log.warning(warning)
    where = Where("cluster", plan.spec.kubeconfig, plan.spec.context, run.cluster.namespace)
    folder = runs.keep_array(plan, here, where, replace=replace)
    attempt = runs.attempt_of(plan, run.uid)
    folder.begin_attempt(attempt)
    return ArrayRun(run, folder, _Following(run, folder, attempt))


def _start_here(plan: runs.ArrayPlan, here: Path, replace: bool) -> ArrayRun:
    folder = runs.keep_array(plan, here, Where(), replace=replace)
    folder.begin_attempt(runs.attempt_of(plan))
    changed = threading.Event()
    run = runs.start_array(plan, folder, on_end=lambda _: changed.set())
    return ArrayRun(run, folder, _Waiting(run, changed))


def _resolved(
    target: ArraySpec | str | Callable[[Any], Any], fields: dict[str, Any], cwd: Path
) -> Resolved[ArraySpec]:
    if isinstance(target, ArraySpec):
        if fields:
            raise RequestError(f"{', '.join(fields)}: a spec has its fields already")
        return Resolved(target, {("script",): Origin("script", in_command=True)})
    values = dict(fields)
    if isinstance(target, str | os.PathLike):
        values["script"] = os.fspath(target)
    elif callable(target):
        values["function"] = _name_of(target, cwd / str(fields.get("code_dir", ".")))
    else:
        raise RequestError(f"map takes a script or a function, not {type(target).__name__}")
    origins: dict[Location, Origin] = {(name,): Origin(name, names_value=True) for name in values}
    found = check(Layer(values, origins), ArraySpec)
    return Resolved(found.spec, {**found.origins, ("script",): Origin("script", in_command=True)})


def _name_of(function: Callable[[Any], Any], code_dir: Path) -> str:
    """MODULE:NAME, by which pods can import a function. Raises RequestError."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or not name or "<" in name or inspect.ismethod(function):
        raise RequestError(
            f"{name or function!r} cannot be imported by its name, as pods have to",
            hints=("define it with def, at the top of a module of the code",),
        )
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        path = None if file is None else Path(file).resolve()
        root = code_dir.resolve()
        if path is None or path.suffix != ".py" or not path.is_relative_to(root):
            raise RequestError(
                f"{name} is defined where pods cannot import it: in no file of {root}",
                hints=("move it into a module of the code",),
            )
        module = ".".join(path.relative_to(root).with_suffix("").parts)
    return f"{module}:{name}"


def _items_of(spec: ArraySpec, items: Iterable[Any] | None, cwd: Path) -> sources.Items:
    if items is None:
        bounds = None if spec.range is None else parse_range(spec.range)
        root = cwd / spec.code_dir
        listed = spec.items
        if listed is not None and listed != sources.STDIN and not sources.is_url(listed):
            listed = str(cwd / listed)
        return sources.read(items=listed, glob=spec.glob, bounds=bounds, root=root)
    for field in ("items", "glob", "range"):
        if getattr(spec, field) is not None:
            raise RequestError(f"items are given, and {field} names others: give one of them")
    if isinstance(items, str | bytes):
        raise RequestError(f"items must be a list of items, not the text {items!r:.50}")
    return sources.from_values(items)


class ArrayRun(Run):
    """An array that was started. Its results are in `folder`, below .kij-train/arrays."""

    def __init__(self, run: Run, folder: ArrayFolder, end: _End) -> None:
        super().__init__(run.name)
        self._run, self._end = run, end
        self.folder = folder

    def results(self) -> Iterator[dict[str, Any]]:
        """The records of all items, index by index as they end, until the array ends.

        Each has `key`, `index`, `seconds`, `exit_code`, what the script has written to its result
        file or the function returned (`value`, or the fields of a dict), and `error` if it failed.
        """
        seen: set[int] = set()
        while True:
            over = self._end.await_change()
            parts = self.folder.parts(0)
            for index in sorted(parts.whole - seen):
                seen.add(index)
                yield from parts.records(index)
            if over:
                return

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until all items are done.

        Raises JobFailedError that names an item which failed, TimedOutError at the array's own
        deadline, or after `timeout_s`, which leaves it running.
        """
        self._end.wait(self.name, timeout_s)
        found = summary_of(outcomes_of(self.folder))
        if not found.lost:
            return
        first = next((one for one in found.lost if one.state is State.FAILED), found.lost[0])
        raise JobFailedError(
            f"{self.name}: {counted(found)}; item {first.key!r} (index {first.index}): "
            f"{first.error or 'it has no result'}",
            hints=(f"all of it: kij-train report {self.name}",),
        )

    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        lines = self._run.logs(index=index, follow=follow)
        return (line for line in lines if not records.is_record_line(line.text))

    def status(self) -> JobState:
        return self._run.status()

    def why(self) -> str:
        try:
            self.wait(0)
        except KijError as error:
            return error.message
        return f"{self.name}: all items are done"

    def cancel(self) -> None:
        """End it; of a Job, what its pods have done until then is kept in `folder`."""
        if not isinstance(self._run, runs.ClusterRun):
            self._run.cancel()
            return
        from kij_train.jobs.array_cancel import keeping

        with keeping(self._run.cluster, self.folder, self._run.uid, _log.warning):
            self._run.cancel()

    def delete(self) -> None:
        """Remove it from where it runs; its results here stay, in `folder`."""
        self._run.delete()


class _End:
    """How an array is seen to go on, and to end."""

    def await_change(self) -> bool:
        """Wait until more results may be there; whether the array has ended."""
        raise NotImplementedError

    def wait(self, name: str, timeout_s: float | None) -> None:
        """Wait for the end. Raises TimedOutError, and what has kept the array from it."""
        raise NotImplementedError


class _Waiting(_End):
    """Of a run on this machine."""

    LOOK_S = 0.1

    def __init__(self, run: runs.LocalRun, changed: threading.Event) -> None:
        self._run, self._changed = run, changed

    def await_change(self) -> bool:
        while not self._changed.wait(self.LOOK_S):
            if self._run.ended:
                return True
        self._changed.clear()
        return False

    def wait(self, name: str, timeout_s: float | None) -> None:
        del name
        try:
            self._run.wait(timeout_s)
        except TimedOutError:
            raise
        except JobFailedError as error:
            if isinstance(error.__cause__, InterruptedByUserError):
                raise


class _Following(_End):
    """Of a Job: a thread collects its results as its pods end."""

    def __init__(self, run: runs.ClusterRun, folder: ArrayFolder, attempt: Attempt) -> None:
        self._changed = threading.Condition()
        self._ended, self._count, self._seen = False, 0, 0
        self._error: BaseException | None = None
        args = (run, folder, attempt)
        self._thread = threading.Thread(target=self._follow, args=args, daemon=True)
        self._thread.start()

    def _follow(self, run: runs.ClusterRun, folder: ArrayFolder, attempt: Attempt) -> None:
        from kij_train.jobs.array_follow import follow_array

        try:
            follow_array(
                run.cluster,
                folder,
                attempt,
                most_logs=0,
                on_line=lambda *_: None,
                on_change=lambda _: self._tell(),
                on_note=_log.info,
            )
            if jobs.get(run.cluster, run.name).is_at_deadline:
                raise TimedOutError(f"{run.name} did not end within its timeout")
        except BaseException as error:  # whoever waits gets it
            self._error = error
        with self._changed:
            self._ended = True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def await_change(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._count > self._seen)
            self._seen = self._count
            if self._ended and not isinstance(self._error, TimedOutError | NoneType):
                raise self._error
            return self._ended

    def wait(self, name: str, timeout_s: float | None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout_s):
                raise TimedOutError(f"{name} has not ended within {timeout_s:g} s; it goes on")
        if self._error is not None:
            raise self._error
