"""The options that describe a job, shared by launch, render and config; and what they resolve to.

Values stay text here: the spec checks them, so that a flag, a variable and a file are refused in
the same words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from typing_extensions import TypeVar

from kij_train import gpus, names, runs
from kij_train.cli import completers, grouped, output
from kij_train.code import bundle, leftout
from kij_train.errors import RequestError
from kij_train.scripts import launcher_of
from kij_train.spec import Common, JobSpec, Model
from kij_train.spec.settings import Group, Merge, Setting, Switch, settings_of
from kij_train.specfile import Layer, Origin, Resolved, resolve, split_pair, unknown_variables

Kind = TypeVar("Kind", bound=Common, default=JobSpec)


@dataclass(frozen=True)
class SpecOption:
    """A flag that sets a field of a spec."""

    field: str
    flags: tuple[str, ...]
    setting: Setting
    help: str
    switch: Switch | None = None
    """What it sets, where it takes no value."""

    @property
    def parameter(self) -> str:
        """Name of click's parameter."""
        name = f"spec_{self.field}"
        return name if self.switch is None else name + self.flags[0].replace("-", "_")[1:]

    @property
    def option(self) -> click.Option:
        """As click's option."""
        declarations, group = [*self.flags, self.parameter], self.setting.group
        if self.switch is not None:
            return grouped.Option(declarations, is_flag=True, help=self.help, group=group)
        repeatable = self.setting.merge is not Merge.REPLACE
        return grouped.Option(
            declarations,
            metavar=self.setting.metavar,
            multiple=repeatable,
            help=self.help + " Repeatable." * repeatable,
            group=group,
            shell_complete=completers.OF_FIELDS.get(self.field),
        )

    def value(self, given: Any, layer: Layer) -> Any:
        """The field's value; origins of what it holds go into the layer."""
        flag = self.flags[0]
        origin = Origin(flag, names_value=True, in_command=True)
        if self.switch is not None:
            if self.field in layer.values:
                other = layer.origins[(self.field,)].where
                raise RequestError(f"{flag} conflicts with {other}")
            return self.switch.value
        if self.setting.merge is Merge.BY_KEY:
            given = dict(split_pair(text, flag) for text in given)
            layer.origins |= {(self.field, key): origin for key in given}
        elif self.setting.merge is Merge.JOIN:
            given = list(given)
            layer.origins |= {(self.field, index): origin for index in range(len(given))}
        return given


def spec_options(model: type[Model] = JobSpec) -> Iterator[SpecOption]:
    """The flags of every field of a model."""
    for field, setting in settings_of(model).items():
        text = model.model_fields[field].description or ""
        if setting.flag:
            yield SpecOption(field, setting.flags, setting, text)
        for flag, switch in (setting.switches or {}).items():
            yield SpecOption(field, (flag,), setting, switch.help or text, switch)


OUR_FLAGS_AFTER_SCRIPT = frozenset(
    {
        *("--nodes", "--gpus", "--nproc-per-node", "--local", "--namespace", "--detach"),
        *("--dry-run", "--help"),
    }
)


def job_options(command: click.Command, model: type[Common] = JobSpec) -> click.Command:
    """Add the script, its arguments and every option that describes a job of a kind."""
    command.context_settings = {**command.context_settings, "allow_interspersed_args": False}
    command.params[:0] = [
        click.Argument(["script"], required=False),
        click.Argument(["args"], nargs=-1, type=click.UNPROCESSED),
        grouped.Option(
            ["-m", "as_module"],
            group=Group.COMMAND,
            is_flag=True,
            help="SCRIPT is a module, as in python -m.",
        ),
        grouped.Option(
            ["--no-python", "as_program"],
            group=Group.COMMAND,
            is_flag=True,
            help="SCRIPT is a program that is run as it is, once "
            f"{'a rank' if model is JobSpec else 'an item'}.",
        ),
        grouped.Option(
            ["--file", "-f", "spec_file"],
            group=Group.COMMAND,
            metavar="FILE",
            help="Spec file (YAML), - for standard input; flags go on top of it.",
        ),
        grouped.Option(
            ["--profile"],
            group=Group.COMMAND,
            metavar="NAME|FILE",
            shell_complete=completers.profiles,
            help="Named settings: a built-in profile, one of the project file, or a .toml file.",
        ),
        *(option.option for option in spec_options(model)),
    ]
    return command


def resolve_options(
    params: dict[str, Any],
    again: Layer | None = None,
    model: type[Kind] = JobSpec,  # type: ignore[assignment] # as the default of Kind is
) -> Resolved[Kind]:
    """The spec that click's parameters, the environment and the files come to.

    `again` is the request of a job, instead of all but the flags.
    """
    _refuse_empty("--file", params["spec_file"])
    _refuse_empty("--profile", params["profile"])
    resolved = resolve(
        flags_layer(params, model),
        environ=os.environ,
        cwd=Path.cwd(),
        spec_file=params["spec_file"],
        profile=params["profile"],
        model=model,
        again=again,
    )
    for text in unknown_variables(os.environ):
        output.warning(text)
    warn_about(resolved)
    return replace(resolved, typed=_typed(params))


def _typed(params: dict[str, Any]) -> tuple[str, ...]:
    """The words in front of the script, without what says that it is none."""
    words = click.get_current_context().find_root().obj or ["launch"]
    if params["script"] is not None:
        words = words[: len(words) - 1 - len(params["args"])]
    return tuple(word for word in words if word not in ("-m", "--no-python", "--"))


def flags_layer(params: dict[str, Any], model: type[Common] = JobSpec) -> Layer:
    """The flags as the highest layer."""
    layer = Layer({})
    for option in spec_options(model):
        given = params.get(option.parameter)  # bench has not all of them
        if given is None or given == () or given is False:
            continue
        _refuse_empty(option.flags[0], given)
        layer.values[option.field] = option.value(given, layer)
        layer.origins[(option.field,)] = Origin(option.flags[0], names_value=True, in_command=True)
    _add_command(layer, params)
    return layer


def _refuse_empty(flag: str, given: object) -> None:
    """Refuse an option with an empty value: without it, another job would be launched."""
    if given == "":
        raise RequestError(
            f"{flag} is empty: is a variable unset?", hints=("leave it out for the default",)
        )


def _add_command(layer: Layer, params: dict[str, Any]) -> None:
    if params["as_module"] and params["as_program"]:
        raise RequestError("-m and --no-python conflict: give one of them")
    script = params["script"]
    if script is None:
        for flag, given in (("-m", params["as_module"]), ("--no-python", params["as_program"])):
            if given:
                raise RequestError(f"{flag} needs a name behind it")
        return
    kind = "module" if params["as_module"] else "program" if params["as_program"] else "script"
    layer.values |= {kind: script, "args": list(params["args"])}
    layer.origins[(kind,)] = Origin("script", names_value=True, in_command=True)
    layer.origins[("args",)] = Origin("command line", in_command=True)


def warn_of_what_is_left_out(archive: bundle.Archive | None) -> None:
    """Say what the shipped code lacks and might be missed."""
    kept_back = None if archive is None else leftout.kept_back(archive.left_out)
    if kept_back is not None:
        output.status(kept_back)
    for note in archive.notes if archive is not None else ():
        output.warning(note)


def warn_about_plan(plan: runs.Plan | runs.ArrayPlan) -> None:
    """Say what is allowed and probably not meant, as far as the code tells."""
    for note in plan.notes:
        output.warning(note.text, note.hints)


def warn_of_doubts(backend: runs.Backend, spec: Common) -> None:
    """Say what may keep the job from running, as far as the cluster tells."""
    for note in backend.doubts(spec):
        output.warning(note.text, note.hints)


def _public_secrets(resolved: Resolved[Common]) -> Iterator[str]:
    """Where credentials stand in what describes the job, but for the environment."""
    for name in names.secret_arguments(resolved.spec.args).values():
        yield f"{resolved.origin(('args',))}: {name}"
    for field in ("labels", "annotations"):
        for name, value in getattr(resolved.spec, field).items():
            if names.looks_secret_beside(name, value):
                yield f"{resolved.origin((field, name))} {name}"


def warn_about(resolved: Resolved[Common]) -> None:
    """Say what is allowed and probably not meant."""
    spec = resolved.spec
    for name, value in spec.env.items():
        if names.looks_secret(name, value):
            output.warning(
                f"{resolved.origin(('env', name))} {name}: its value looks like a secret, and env "
                "is readable to everybody who may read the Job",
                (
                    f"make a Secret: kubectl create secret generic NAME --from-literal={name}=…",
                    "and use it: --env-from-secret NAME",
                ),
            )
    for where in _public_secrets(resolved):
        output.warning(
            f"{where}: its value looks like a secret, and everybody can read it who may read the "
            "Job",
            (
                "make a Secret: kubectl create secret generic NAME --from-literal=KEY=…",
                "and let the script read it from the environment: --env-from-secret NAME",
            ),
        )
    if (spec.gpus or 0) > 1 and gpus.kind(spec.gpu_kind).is_slice:
        output.warning(
            f"{spec.gpu_kind}: CUDA gives a process one MIG slice, the first that it may see, and "
            "NCCL, before 2.32 at least, has no path between slices of one GPU",
            ("one slice a pod: --gpus 1, and more --nodes; to train on more than one: whole GPUs",),
        )
    if resolved.in_command(("args",)) and launcher_of(spec) is None:
        for argument in spec.args:
            flag = argument.partition("=")[0]
            if flag in OUR_FLAGS_AFTER_SCRIPT:
                output.warning(
                    f"{flag} stands behind the script, so the script gets it",
                    ("for kij-train, put it in front of the script",),
                )
