"""A file with steps as objects for Argo: each step is planned by its own command, as a dry run."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kij_train import runs
from kij_train.cli import output
from kij_train.cli.render import planned
from kij_train.code import bundle
from kij_train.code.bundle import Archive
from kij_train.errors import KijError, RequestError
from kij_train.pod import contract
from kij_train.pod.unpack import unpack_code
from kij_train.render.formats import Objects, argo
from kij_train.runs.arrays import room_of
from kij_train.spec import ArraySpec, JobSpec
from kij_train.spec.settings import Fact, fields_with, settings_of
from kij_train.spec.workflow import PARAMETERS, Workflow

NOT_IN_STEPS = {
    "is_local": "--local",
    "detach": "--detach",
    "replace": "--replace",
    "dry_run": "--dry-run",
    "self_check": "--self-check",
    "again": "--again",
    "spec_file": "--file",
    "spec_name": "--name",
    "spec_namespace": "--namespace",
    "spec_context": "--context",
    "spec_kubeconfig": "--kubeconfig",
    "spec_owner": "--owner",
    "spec_code_dir": "--code-dir",
}
"""Options of click that say what a workflow says for its steps, or what a step cannot do."""
MOST_ITEMS_BYTES = 4 * 1024
"""Of a list that is the default of a parameter: it is in every workflow."""
FILES = ("data", "params")
"""Options of eval and sweep that name a file."""

Plan = runs.Plan | runs.ArrayPlan


@dataclass(frozen=True)
class _Planned:
    """A step whose command line is right."""

    words: list[str]
    """Its command line, with the file of defaults."""
    at: int
    """Where in it flags may be added: in front of the script."""
    plan: Plan


def objects_of(workflow: Workflow, namespace: str | None, file: str) -> Objects:
    """All objects of a workflow. Raises RequestError naming the step."""
    folder = Path(file).resolve().parent
    _check_defaults(workflow, file)
    with _inside(folder):
        archive = bundle.pack(folder)
        plans = {
            name: _plan(workflow, name, archive)
            for name, step in workflow.steps.items()
            if step.run is not None
        }
        if any(workflow.form_of(name) == argo.CONTAINER for name in workflow.steps):
            _check_ships_again(archive)
    takes = {name: _takes(workflow, name, plans.get(name)) for name in workflow.steps}
    parameters = _parameters(workflow, takes, plans, folder)
    tasks = [_task(workflow, name, plans.get(name), takes[name]) for name in workflow.steps]
    steps = None
    if workflow.step_image is not None:
        told = {task.name: _told(workflow, task.name, plans) for task in tasks if not task.job}
        if told:
            steps = argo.Steps(workflow.step_image, archive.packed, archive.sha256, told)
    where = namespace or workflow.defaults.get("namespace")
    return argo.template(workflow.name, where, tasks, parameters, steps)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Steps run in the folder of their file."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _check_defaults(workflow: Workflow, file: str) -> None:
    """That what holds for all steps says neither what is run, nor where files are here."""
    for name in workflow.defaults:
        field = name.replace("-", "_")
        for model in (JobSpec, ArraySpec):
            refused = fields_with(model, Fact.COMMAND) + fields_with(model, Fact.PATH)
            if field in (*refused, "args", "name", "owner", "context"):
                raise RequestError(
                    f"{file}: defaults: {name} cannot hold for all steps: write it into the "
                    "command lines of those that it is for"
                )


def _model(kind: str) -> type[JobSpec] | type[ArraySpec]:
    return JobSpec if kind == "launch" else ArraySpec


# --- planning a step ------------------------------------------------------------------------------


def _plan(workflow: Workflow, name: str, archive: Archive) -> _Planned:
    """Have the command of a step look at its command line. Raises RequestError."""
    words = list(workflow.steps[name].words)
    with _told_of(name, words):
        command = importlib.import_module(f"kij_train.cli.{words[0]}").command
        context = command.make_context(words[0], list(words[1:]), obj=words)
        params = context.params
        for parameter, flag in NOT_IN_STEPS.items():
            if params.get(parameter):
                raise RequestError(f"{flag} does not go with a step of a workflow")
        plan = _dry_run(workflow, name, words)
        _check_files(plan, params, archive)
        count = 0 if params["script"] is None else 1 + len(params["args"])
        at = len(words) - count
        if words[at - 1] == "--":
            at -= 1
        indexes = plan.objects()[-1]["spec"]["completions"]
        room = room_of(plan.spec, indexes) if isinstance(plan, runs.ArrayPlan) else 0
        argo.check_names(workflow.name, name, indexes, room)
        return _Planned(words, at, plan)


@contextlib.contextmanager
def _told_of(name: str, words: list[str]) -> Iterator[None]:
    """Have errors name the step."""
    try:
        yield
    except click.exceptions.Exit:  # --help
        raise RequestError(f"step {name}: {words[0]} … --help runs nothing") from None
    except click.ClickException as error:
        hints = (f"see: kij-train {words[0]} --help",)
        raise RequestError(f"step {name}: {error.format_message()}", hints=hints) from None
    except KijError as error:
        message = error.message.removeprefix(f"step {name}: ")
        raise RequestError(f"step {name}: {message}", hints=error.hints) from None


def _dry_run(workflow: Workflow, name: str, words: list[str]) -> Plan:
    with tempfile.TemporaryDirectory() as scratch:
        defaults = Path(scratch, "defaults.json")
        given = {**workflow.defaults, "name": f"{workflow.name}-{name}"}
        given = {key: value for key, value in given.items() if _is_of(words[0], key)}
        defaults.write_text(json.dumps(given), encoding="utf-8")
        line = [words[0], "--dry-run", "client", "--file", str(defaults), *words[1:]]
        command = importlib.import_module(f"kij_train.cli.{words[0]}").command
        with (
            planned() as plans,
            contextlib.suppress(click.exceptions.Exit),
            command.make_context(words[0], line[1:], obj=line) as context,
        ):
            command.invoke(context)
    if not plans:
        raise RequestError("its jobs depend on the results of others, and cannot be planned")
    plan = plans[0]
    assert isinstance(plan, runs.Plan | runs.ArrayPlan)
    return plan


def _is_of(kind: str, key: str) -> bool:
    """Whether a default is for this kind of job, or for none that there is."""
    field = key.replace("-", "_")
    other = ArraySpec if kind == "launch" else JobSpec
    return field in _model(kind).model_fields or field not in other.model_fields


def _check_files(plan: Plan, params: dict[str, Any], archive: Archive) -> None:
    """That files which a step reads are in the code that it gets. Raises RequestError."""
    model = type(plan.spec)
    named = [
        (settings_of(model)[field].flags[0], getattr(plan.spec, field))
        for field in fields_with(model, Fact.PATH)
        if settings_of(model)[field].flags and field not in ("code_dir", "kubeconfig")
    ]
    named += [(f"--{name}", params.get(name)) for name in FILES]
    for flag, path in named:
        if path is None or not isinstance(path, str) or "://" in path:
            continue
        if path == "-" or os.path.normpath(path) not in archive.files:
            raise RequestError(
                f"{flag} {path}: is not in the code that the step gets, the folder of the file",
                hints=("put it there, and see that it ships: kij-train render --list-code",),
            )


def _check_ships_again(archive: Archive) -> None:
    """Say what a step's pod would not ship: it has no git to ask. Raises nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle_dir, target = Path(scratch, "bundle"), Path(scratch, "code")
        bundle_dir.mkdir()
        Path(bundle_dir, f"{contract.CODE_PREFIX}000").write_bytes(archive.packed)
        unpack_code(str(bundle_dir), str(target), archive.sha256)
        again = bundle.pack(target)
    lost = sorted(set(archive.files) - set(again.files))
    if lost:
        output.warning(
            f"the jobs of container steps are without {lost[0]}"
            + (f" and {len(lost) - 1:,} others" if len(lost) > 1 else "")
            + ": an ignore file names it, and only git knows that it is tracked nevertheless",
            (f"bring it back: echo '!{lost[0]}' >> .kijignore",),
        )


# --- parameters -----------------------------------------------------------------------------------


def _takes(workflow: Workflow, name: str, plan: _Planned | None) -> dict[str, str]:
    """The parameters that a step takes, and the field that each is of. Raises RequestError."""
    found: dict[str, str] = {}
    for parameter in workflow.parameters:
        step, _, field = parameter.rpartition(".")
        if step not in ("", name):
            continue
        has = plan is not None and _has(plan, field)
        if has and workflow.form_of(name) == argo.RESOURCE and field != "image":
            if step:
                raise RequestError(
                    f"step {name}: {field} cannot be a parameter where Argo holds the Job itself, "
                    "which is planned when it is rendered",
                    hints=("let kij-train make the Job in a pod of the step: step_image: IMAGE",),
                )
            has = False
        if has:
            found[parameter.replace(".", "-")] = field
    return found


def _has(plan: _Planned, field: str) -> bool:
    """Whether a step's command line has a value for it."""
    kind, spec = plan.words[0], plan.plan.spec
    if field == "nodes":
        return kind in ("launch", "sweep")
    if field == "items":
        return isinstance(spec, ArraySpec) and spec.items is not None
    return True


def _parameters(
    workflow: Workflow,
    takes: dict[str, dict[str, str]],
    plans: dict[str, _Planned],
    folder: Path,
) -> dict[str, str]:
    """Parameters of the workflow, with the values of now. Raises RequestError."""
    found: dict[str, str] = {}
    for parameter in workflow.parameters:
        key = parameter.replace(".", "-")
        values = {
            name: _value(plans[name], fields[key], folder)
            for name, fields in takes.items()
            if key in fields
        }
        if not values:
            raise RequestError(
                f"parameter {parameter}: no step takes it",
                hints=(f"leave it out; parameters may be {', '.join(PARAMETERS)}",),
            )
        if len(set(values.values())) > 1:
            one, other = list(values)[:2]
            raise RequestError(
                f"parameter {parameter}: steps have different values for it, {one} and {other}",
                hints=(f"one for each: parameters: [{one}.{parameter}, {other}.{parameter}]",),
            )
        found[key] = next(iter(values.values()))
    return found


def _value(plan: _Planned, field: str, folder: Path) -> str:
    spec = plan.plan.spec
    if field == "image":
        return spec.image
    if field == "nodes":
        return str(spec.nodes if isinstance(spec, JobSpec) else getattr(spec, "trial_nodes", 1))
    items = getattr(spec, "items", None)
    content = (folder / str(items)).read_bytes()
    if len(content) > MOST_ITEMS_BYTES:
        raise RequestError(
            f"parameter items: {items} has {len(content):,} bytes, and a parameter is in every "
            f"workflow, {MOST_ITEMS_BYTES:,} bytes at most",
            hints=("leave it out of parameters: the step has the list with its code",),
        )
    return content.decode("utf-8")


# --- steps ----------------------------------------------------------------------------------------


def _task(workflow: Workflow, name: str, plan: _Planned | None, takes: dict[str, str]) -> argo.Task:
    form, needs = workflow.form_of(name), workflow.needs_of(name)
    step = workflow.steps[name]
    if form == argo.CONTAINER or plan is None:
        return argo.Task(name, step, argo.CONTAINER, needs, takes)
    if isinstance(plan.plan, runs.ArrayPlan) and plan.plan.study:
        raise RequestError(
            f"step {name}: a search makes one Job after the other, and Argo would hold the first",
            hints=("let kij-train make them: step_image: IMAGE",),
        )
    objects = plan.plan.objects()
    return argo.Task(name, step, form, needs, takes, tuple(objects), plan.plan.rendered)


def _told(workflow: Workflow, name: str, plans: dict[str, _Planned]) -> dict[str, Any]:
    """What a container step is told to run."""
    step = workflow.steps[name]
    if step.program is not None:
        return {"program": list(step.program)}
    plan = plans[name]
    defaults = {
        key: value for key, value in workflow.defaults.items() if _is_of(plan.words[0], key)
    }
    return {"run": plan.words, "at": plan.at, "defaults": defaults}
