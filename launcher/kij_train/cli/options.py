"""The options that describe a job, shared by launch, render and config; and what they resolve to.

Values stay text here: the spec checks them, so that a flag, a variable and a file are refused in
the same words.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from kij_train import names
from kij_train.cli import output
from kij_train.errors import RequestError
from kij_train.runs import DEFAULT_FROM_FLAGS, bundle
from kij_train.spec import JobSpec
from kij_train.specfile import Layer, Origin, Resolved, resolve, split_pair, unknown_variables

Kind = Literal["value", "list", "pairs", "choice"]


@dataclass(frozen=True)
class SpecOption:
    """A flag that sets a field of the spec. Its help is the field's docstring."""

    flags: tuple[str, ...]
    field: str
    metavar: str
    """What stands for the value in the help; the value itself for the kind "choice"."""
    kind: Kind = "value"

    @property
    def parameter(self) -> str:
        """Name of click's parameter."""
        choice = f"_{self.metavar}" if self.kind == "choice" else ""
        return f"spec_{self.field}{choice}"

    def option(self, *, short_flags: bool = True) -> click.Option:
        """As click's option."""
        flags = [flag for flag in self.flags if short_flags or flag.startswith("--")]
        text = JobSpec.model_fields[self.field].description or ""
        if self.kind == "choice":
            (text,) = (part for part in text.split("; ") if part.startswith(self.metavar))
            text = text.partition(": ")[2].rstrip(".").capitalize() + "."
            return click.Option([*flags, self.parameter], is_flag=True, help=text)
        if self.kind != "value":
            text += " Repeatable."
        return click.Option(
            [*flags, self.parameter],
            metavar=self.metavar,
            multiple=self.kind != "value",
            help=text,
        )


SPEC_OPTIONS = (
    SpecOption(("--nodes",), "nodes", "N|MIN:MAX"),
    SpecOption(("--gpus",), "gpus", "N"),
    SpecOption(("--gpu-kind",), "gpu_kind", "KIND"),
    SpecOption(("--nproc-per-node",), "nproc_per_node", "N"),
    SpecOption(("--name",), "name", "NAME"),
    SpecOption(("--code-dir",), "code_dir", "DIR"),
    SpecOption(("--image",), "image", "IMAGE"),
    SpecOption(("--image-pull-policy",), "image_pull_policy", "Always|IfNotPresent|Never"),
    SpecOption(("--image-pull-secret",), "image_pull_secrets", "NAME", "list"),
    SpecOption(("--namespace", "-n"), "namespace", "NAME"),
    SpecOption(("--context",), "context", "NAME"),
    SpecOption(("--kubeconfig",), "kubeconfig", "FILE"),
    SpecOption(("--cpu",), "cpu", "CORES"),
    SpecOption(("--memory",), "memory", "SIZE"),
    SpecOption(("--shm",), "shm", "SIZE"),
    SpecOption(("--resource",), "resources", "NAME=N", "pairs"),
    SpecOption(("--env",), "env", "NAME=VALUE", "pairs"),
    SpecOption(("--env-from-secret",), "env_from_secrets", "NAME", "list"),
    SpecOption(("--mount",), "mounts", "TYPE:SOURCE:/PATH", "list"),
    SpecOption(("--node-selector",), "node_selector", "KEY=VALUE", "pairs"),
    SpecOption(("--toleration",), "tolerations", "KEY[=VALUE][:EFFECT]", "list"),
    SpecOption(("--queue",), "queue", "NAME"),
    SpecOption(("--scheduler",), "scheduler", "volcano|coscheduling|native"),
    SpecOption(("--topology",), "topology", "LABEL[:required]"),
    SpecOption(("--spread",), "placement", "spread", "choice"),
    SpecOption(("--pack",), "placement", "pack", "choice"),
    SpecOption(("--priority-class",), "priority_class", "NAME"),
    SpecOption(("--service-account",), "service_account", "NAME"),
    SpecOption(("--run-as-user",), "run_as_user", "UID"),
    SpecOption(("--label",), "labels", "KEY=VALUE", "pairs"),
    SpecOption(("--annotation",), "annotations", "KEY=VALUE", "pairs"),
    SpecOption(("--port",), "port", "PORT"),
    SpecOption(("--rendezvous-timeout",), "rendezvous_timeout", "DURATION"),
    SpecOption(("--timeout",), "timeout", "DURATION"),
    SpecOption(("--ttl",), "ttl", "DURATION"),
    SpecOption(("--backoff",), "backoff", "N"),
    SpecOption(("--restart",), "restart", "never|gang|elastic"),
    SpecOption(("--spares",), "spares", "N"),
    SpecOption(("--max-restarts",), "max_restarts", "N"),
    SpecOption(("--grace",), "grace", "DURATION"),
    SpecOption(("--hang-timeout",), "hang_timeout", "DURATION"),
    SpecOption(("--heartbeat",), "heartbeat", "file|output"),
)

OUR_FLAGS_AFTER_SCRIPT = frozenset(
    {"--nodes", "--gpus", "--nproc-per-node", "--local", "--namespace", "--detach", "--dry-run"}
)


def job_options(command: click.Command) -> click.Command:
    """Add the script, its arguments and every option that describes a job."""
    command.context_settings = {**command.context_settings, "allow_interspersed_args": False}
    command.params[:0] = [
        click.Argument(["script"], required=False),
        click.Argument(["args"], nargs=-1, type=click.UNPROCESSED),
        click.Option(
            ["-m", "as_module"], is_flag=True, help="SCRIPT is a module, as in python -m."
        ),
        click.Option(
            ["--no-python", "as_program"],
            is_flag=True,
            help="SCRIPT is a program that is run as it is, once a rank.",
        ),
        click.Option(
            ["--file", "-f", "spec_file"],
            metavar="FILE",
            help="Spec file (YAML); flags go on top of it.",
        ),
        click.Option(
            ["--profile"],
            metavar="NAME|FILE",
            help="Named settings: a built-in profile, one of the project file, or a .toml file.",
        ),
        *(option.option() for option in SPEC_OPTIONS),
        click.Option(
            ["--no-torchrun", "no_torchrun"],
            is_flag=True,
            help="SCRIPT is run once a node, without torchrun: it starts its ranks itself. With "
            "--port, nodes wait until rank 0 listens there.",
        ),
        click.Option(
            ["--no-code", "no_code"], is_flag=True, help="Ship no code: the image carries it."
        ),
        click.Option(
            ["--preflight"], is_flag=True, help=JobSpec.model_fields["preflight"].description
        ),
    ]
    return command


def resolve_options(params: dict[str, Any]) -> Resolved:
    """The spec that click's parameters, the environment and the files come to."""
    resolved = resolve(
        flags_layer(params),
        environ=os.environ,
        cwd=Path.cwd(),
        spec_file=params["spec_file"],
        profile=params["profile"],
    )
    for text in unknown_variables(os.environ):
        output.warning(text)
    warn_about(resolved)
    return resolved


def flags_layer(params: dict[str, Any]) -> Layer:
    """The flags as the highest layer."""
    layer = Layer({})
    for option in SPEC_OPTIONS:
        given = params[option.parameter]
        if given is None or given == () or given is False:
            continue
        origin = Origin(option.flags[0], names_value=True)
        if option.kind == "choice":
            if option.field in layer.values:
                raise RequestError(f"{option.flags[0]} conflicts with {_flag_of(layer, option)}")
            given = option.metavar
        if option.kind == "pairs":
            given = dict(split_pair(text, option.flags[0]) for text in given)
            layer.origins |= {(option.field, key): origin for key in given}
        elif option.kind == "list":
            given = list(given)
            layer.origins |= {(option.field, index): origin for index in range(len(given))}
        layer.values[option.field] = given
        layer.origins[(option.field,)] = origin
    for field, parameter, value in (
        ("torchrun", "no_torchrun", False),
        ("code", "no_code", False),
        ("preflight", "preflight", True),
    ):
        if params.get(parameter):  # bench has not all of them
            layer.values[field] = value
            flag = "--" + parameter.replace("_", "-")
            layer.origins[(field,)] = Origin(flag, names_value=True)
    _add_command(layer, params)
    return layer


def _flag_of(layer: Layer, option: SpecOption) -> str:
    return layer.origins[(option.field,)].where


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
    layer.origins[(kind,)] = Origin(DEFAULT_FROM_FLAGS, names_value=True)
    layer.origins[("args",)] = Origin("command line")


def warn_of_what_is_left_out(archive: bundle.Archive | None) -> None:
    """Say what the shipped code lacks and might be missed."""
    for note in archive.notes if archive is not None else ():
        output.warning(note)


def warn_without_gang(spec: JobSpec) -> None:
    """Say that nothing starts the pods of several nodes together."""
    if spec.nodes > 1 and spec.queue is None and spec.scheduler is None:
        output.warning(
            f"no gang scheduling: the {spec.nodes} pods start one by one, and those that run wait "
            "for the others with all they hold",
            ("where the cluster has it: --queue NAME, or --scheduler volcano|coscheduling|native",),
        )


def warn_about(resolved: Resolved) -> None:
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
    if spec.gpu_kind.startswith("mig-") and (spec.gpus or 0) > 1:
        output.warning(
            f"{spec.gpu_kind}: CUDA gives a process one MIG slice, and NCCL has no path between "
            "slices of one GPU",
            ("one slice a pod: --gpus 1, and more --nodes",),
        )
    if resolved.origin(("args",)) == "command line":
        for argument in spec.args:
            flag = argument.partition("=")[0]
            if flag in OUR_FLAGS_AFTER_SCRIPT:
                output.warning(
                    f"{flag} stands behind the script, so the script gets it",
                    ("for kij-train, put it in front of the script",),
                )
