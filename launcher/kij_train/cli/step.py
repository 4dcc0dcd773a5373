"""kij-train step"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import runs
from kij_train.cli import output
from kij_train.errors import KijError, RequestError, TimedOutError, UnreachableError
from kij_train.pod import contract, itemplan
from kij_train.pod.unpack import unpack_code
from kij_train.render.formats import argo, argo_job
from kij_train.runs import SUFFIX_CHARS
from kij_train.spec import JobSpec
from kij_train.specfile import split_pair

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

VALUE_FILE = "STEP_VALUE_FILE"
"""Variable with the file in which a program leaves its value."""
MOST_VALUE_BYTES = 8 * 1024
MOST_NUMBERS = 1000
"""Characters of numbers of failed indexes: they are in the status of a workflow."""
VERDICTS = {0: "passed", 1: "failed", 6: "undecided", TimedOutError.exit_code: "timed out"}
LOOK_S = 0.2
"""How soon a signal is answered."""
FLAGS = {"image": "--image", "nodes": "--nodes", "items": "--items"}
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""As names that the API server makes end."""


@click.command("step")
@click.argument("name", metavar="STEP")
@click.option("--workflow", required=True, metavar="NAME/UID", help="The workflow that it is of.")
@click.option(
    "--set", "given", multiple=True, metavar="FIELD=VALUE", help="A parameter of the workflow."
)
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="What a step before has left."
)
@click.option("--item", metavar="TEXT", help="Of a step with several jobs, which one this is.")
def command(
    name: str, workflow: str, given: tuple[str, ...], inputs: tuple[str, ...], item: str | None
) -> None:
    """Run a step of a workflow, as the pods of `render --format argo` do, and wait for it.

    It leaves the job's name, the verdict, the failed indexes and a program's value in files, which
    are output parameters of the step. SIGTERM cancels the job. Exit codes: those of the step's
    command.
    """
    told, sha256 = _told(name)
    outputs = Path(argo.OUTPUTS_DIR)
    outputs.mkdir(parents=True, exist_ok=True)
    code_dir = Path(contract.WORK_DIR, "code")
    try:
        unpack_code(contract.BUNDLE_DIR, str(code_dir), sha256)
    except contract.Failure as failure:
        raise RequestError(str(failure)) from None
    os.chdir(code_dir)
    # The user of the pod has no home, and what a program prints is wanted at once.
    os.environ |= {"HOME": tempfile.gettempdir(), "PYTHONUNBUFFERED": "1"}
    known = {_variable(key): value for key, value in (split_pair(one, "--input") for one in inputs)}
    if item is not None:
        known[argo_job.ITEM] = item
    if "program" in told:
        code = _run_program(told["program"], known, outputs)
    else:
        values = dict(split_pair(one, "--set") for one in given)
        code = _run_job(told, name, workflow, values, known, outputs)
    raise click.exceptions.Exit(code)


def _told(name: str) -> tuple[dict[str, Any], str]:
    """What the step runs, and the hash of the code. Raises RequestError."""
    path = Path(contract.BUNDLE_DIR, argo.STEPS_KEY)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read ({error}): this command is for the pods of a workflow",
            hints=("make one: kij-train render --format argo -f FILE",),
        ) from None
    if name not in document["steps"]:
        raise RequestError(f"{name} is no step: there are {', '.join(document['steps'])}")
    return document["steps"][name], str(document["code_sha256"])


def _variable(key: str) -> str:
    """shards-job → STEP_SHARDS_JOB"""
    return "STEP_" + key.upper().replace("-", "_")


def _leave(outputs: Path, name: str, text: str) -> None:
    (outputs / name).write_text(text, encoding="utf-8")


def _run(
    argv: Sequence[str], more: Mapping[str, str], on_end: Callable[[], None]
) -> tuple[int, bool]:
    """Run a command in a session of its own; its exit code, and whether this was told to end.

    Then `on_end` is called before anything else: whoever told it may not wait for long.
    """
    asked: list[int] = []
    ours = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda signum, _: asked.append(signum)) for one in ours}
    try:
        child = subprocess.Popen(argv, env={**os.environ, **more}, start_new_session=True)
        while child.poll() is None and not asked:
            time.sleep(LOOK_S)
        if asked:
            on_end()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, asked[0])
        code = child.wait()
    except OSError as error:
        raise RequestError(
            f"{argv[0]} cannot be run: {error.strerror}",
            hints=("a program of a step must be in the step_image, or in the code: ./PROGRAM",),
        ) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    return (128 - code if code < 0 else code), bool(asked)


def _run_program(words: Sequence[str], known: Mapping[str, str], outputs: Path) -> int:
    value = outputs / "value"
    code, told_to_end = _run(words, {**known, VALUE_FILE: str(value)}, lambda: None)
    if told_to_end:
        return code
    _leave(outputs, "verdict", VERDICTS.get(code, "failed"))
    if value.exists() and value.stat().st_size > MOST_VALUE_BYTES:
        size = value.stat().st_size
        value.unlink()
        raise RequestError(
            f"the value of the step has {size:,} bytes, {MOST_VALUE_BYTES:,} at most: it is in the "
            "status of the workflow",
            hints=("leave what is large on a volume, and its path as the value",),
        )
    return code


def _run_job(
    told: Mapping[str, Any],
    step: str,
    workflow: str,
    values: Mapping[str, str],
    known: Mapping[str, str],
    outputs: Path,
) -> int:
    owner, _, uid = workflow.rpartition("/")
    suffix = "".join(secrets.choice(ALPHABET) for _ in range(SUFFIX_CHARS))
    name = f"{owner}-{step}-{suffix}"
    scratch = Path(contract.WORK_DIR, "step")
    scratch.mkdir(exist_ok=True)
    defaults = scratch / "defaults.json"
    defaults.write_text(json.dumps({**told["defaults"], "name": name}), encoding="utf-8")
    flags = ["--owner", f"argoproj.io/v1alpha1/Workflow/{owner}/{uid}"]
    flags += ["--label", f"{argo_job.WORKFLOW_LABEL}={owner}"]
    for field, value in values.items():
        if field == "items":
            listed = scratch / "items"
            listed.write_text(value, encoding="utf-8")
            value = str(listed)
        flags += [FLAGS[field], value]
    for variable, value in known.items():
        flags += ["--env", f"{variable}={value}"]
    kind, at = told["run"][0], told["at"]
    words = [kind, "--file", str(defaults), *told["run"][1:at], *flags, *told["run"][at:]]
    cluster = runs.connect(JobSpec())
    _check_rights(cluster, owner)
    _leave(outputs, "job", name)

    # Of a step that is told to end, Argo takes no outputs: it does not wait for them.
    argv = [sys.executable, "-m", "kij_train", *words]
    code, told_to_end = _run(argv, {}, lambda: _cancel(cluster, name))
    if not told_to_end:
        _leave(outputs, "verdict", VERDICTS.get(code, "error"))
        _leave(outputs, "failed-indexes", _failed_indexes(cluster, kind, name))
    return code


def _check_rights(cluster: Cluster, workflow: str) -> None:
    """Raise RequestError where the step's service account may not do what the step does."""
    from kij_train import doctor

    asked = [
        (rule["apiGroups"][0], rule["resources"][0], tuple(rule["verbs"]))
        for rule in argo.RULES[argo.CONTAINER]
    ]
    missing = doctor.missing_rights(cluster, asked)
    if missing:
        raise RequestError(
            f"the service account of {workflow} may not: {', '.join(missing)}",
            hints=(
                "apply all that was rendered, Role and RoleBinding too: kij-train render "
                "--format argo -f FILE | kubectl apply --server-side -f -",
            ),
        )


def _cancel(cluster: Cluster, name: str) -> None:
    """End the pods of a job, if it was made."""
    from kij_train.jobs import change

    try:
        change.cancel(cluster, name)
        output.status(f"{name} is cancelled: its pods end, the Job stays, suspended")
    except UnreachableError:
        output.status(f"{name} was not made, or is gone")


def _failed_indexes(cluster: Cluster, kind: str, name: str) -> str:
    """Numbers of the indexes that failed or left nothing, as 3,7-9; empty where none is known."""
    try:
        numbers = _of_training(cluster, name) if kind == "launch" else _of_array(name)
    except KijError as error:
        output.status(f"which indexes of {name} failed is not known: {error.message}")
        return ""
    text = itemplan.compress_numbers(sorted(numbers))
    return text if len(text) <= MOST_NUMBERS else text[:MOST_NUMBERS].rpartition(",")[0] + ",…"


def _of_training(cluster: Cluster, name: str) -> set[int]:
    from kij_train import jobs
    from kij_train.diagnosis import Phase

    return {node.index for node in jobs.status(cluster, name).nodes if node.phase is Phase.FAILED}


def _of_array(name: str) -> set[int]:
    from kij_train.arrays.store import ArrayFolder
    from kij_train.arrays.summary import summary_of
    from kij_train.arrays.view import outcomes_of

    try:
        folder = ArrayFolder.open(Path.cwd(), name)
    except UnreachableError:
        return set()  # it was not made
    found = summary_of(outcomes_of(folder, {}))
    return found.failed_indexes | found.missing_indexes
