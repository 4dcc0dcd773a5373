"""kij-train replay"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kij_train import diagnosis, local, runs
from kij_train.arrays import formats
from kij_train.arrays.facts import ITEMS, Where
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.plan import Pinned
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, live_here, outcomes_of
from kij_train.cli import output
from kij_train.cli.onarray import array_argument, opened, unknown_key, up_to_date
from kij_train.cli.options import resolve_options
from kij_train.cli.rerun import NO_COMMAND, request_layer
from kij_train.cli.submitting import signals_to
from kij_train.code import bundle, known
from kij_train.code.listing import list_files
from kij_train.errors import JobFailedError
from kij_train.paths import shown
from kij_train.spec import ArraySpec
from kij_train.specfile import Layer

MOST_FILES = 5
ONLY_THERE = (
    "mounts",
    "results",
    "items_on",
    "env_from_secret",
    "start_jitter",
    "retries",
    "max_failed",
)
"""What a replay does without: of the pods, and of many items."""


@click.command("replay")
@array_argument
@click.option("--key", "-k", required=True, metavar="KEY", help="The item.")
def command(name: str, key: str, **params: Any) -> None:
    """Run one item of an array on this machine: same item, seed and arguments.

    As in its newest attempt, and with the code of this folder; where that is not what ran, it is
    said. What the item writes to $KIJ_RESULT_FILE is printed in the end, and does not become a
    result of the array. The exit code is 0 when the item is well, else 1.
    """
    folder, cluster = opened(name, params)
    one = _outcome(folder, up_to_date(folder, cluster), key)
    if one is None:
        raise unknown_key(folder, key)
    resolved = resolve_options(
        {**NO_COMMAND, **params}, _request(folder, one.attempt or 0), ArraySpec
    )
    plan = runs.plan_rerun(
        resolved,
        Pinned(folder.plan_text()),
        array=name,
        number=one.attempt or 0,
        selection=[(one.index, [one.position])],
        cwd=Path.cwd(),
        place=runs.OnMachine(),
    )
    for text in _differences(folder, one, plan):
        output.warning(text)
    with tempfile.TemporaryDirectory(prefix="kij-train-") as scratch:
        about = replace(folder.about, where=Where(), items=ITEMS)
        packed = (folder.path / folder.about.items).read_bytes()
        here = ArrayFolder.create(Path(scratch), about, packed)
        _run(plan, here)
        found = _outcome(here, live_here(here), key)
        assert found is not None
    for line in formats.jsonl([found]):
        output.data(line)
    if found.state is not State.DONE:
        output.verdict(f"{shown(key)} {found.state.value}: {shown(found.error)}")
        raise click.exceptions.Exit(JobFailedError.exit_code)
    output.verdict(f"{shown(key)} done in {found.seconds or 0:.3g} s")


def _outcome(folder: ArrayFolder, live: Live, key: str) -> Outcome | None:
    return next((one for one in outcomes_of(folder, live) if one.key == key), None)


def _request(folder: ArrayFolder, attempt: int) -> Layer:
    layer = request_layer(folder, attempt)
    for field in ONLY_THERE:
        layer.values.pop(field, None)
    return layer


def _run(plan: runs.ArrayPlan, folder: ArrayFolder) -> None:
    """Run it, with its output on ours. Raises RequestError, InterruptedByUserError."""
    stop = local.Stop()

    def emit(number: int, stream: str, line: str) -> None:
        del number
        try:
            output.workload(line, to_stderr=stream == "stderr")
        except BrokenPipeError:
            if not stop.calls:
                stop(signal.SIGPIPE)

    runs.check_here(plan)
    folder.begin_attempt(runs.attempt_of(plan))
    streams = local.Streams(emit, merged=output.one_file())
    with suppress(JobFailedError), signals_to(stop, "runners"):
        runs.start_array(plan, folder, stop=stop, streams=streams).follow()


def _differences(folder: ArrayFolder, one: Outcome, plan: runs.ArrayPlan) -> Iterator[str]:
    """In what this run is not like the one that counts, as far as is known."""
    about = folder.about
    ran = next((each for each in folder.attempts() if each.number == one.attempt), None)
    sha256 = ran.code_sha256 if ran is not None else about.code_sha256
    since = diagnosis.epoch((ran.created if ran is not None else "") or about.created) or 0.0
    code = None if ran is None else folder.code(ran.number)
    if plan.spec.code and not (sha256 and bundle.pack(plan.code_dir).sha256 == sha256):
        changed = (
            _newer(plan.code_dir, since) if code is None else known.changed(plan.code_dir, code)
        )
        if changed:
            yield f"the code of this folder is not what ran; changed since then: {_some(changed)}"
        elif sha256 and code is None:
            yield "the code of this folder is not what ran"
    if not about.where.is_local:
        missing = [flag for flag in ONLY_THERE if about.request.get(flag)]
        if missing:
            yield f"here it goes without what its pods had: {', '.join(missing)}"


def _changed(code_dir: Path, code: known.Known) -> list[str]:
    """Which files of the code are not as they were."""
    ships = set(list_files(code_dir).names)
    changed = known.changed(code_dir, code)
    return [name for name in changed if name in ships or not (code_dir / name).exists()]


def _newer(code_dir: Path, since: float) -> list[str]:
    """Which files have changed since, by their times."""
    found = []
    for name in list_files(code_dir).files:
        with suppress(OSError):
            if (code_dir / name).stat().st_mtime > since:
                found.append(name)
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_FILES} more" if len(names) > MOST_FILES else ""
    return f"{', '.join(map(shown, names[:MOST_FILES]))}{more}"
