"""Flags, environment, spec file, project file and profile into one spec, each value traceable.

Precedence, highest first: flag > KIJ_* > spec file (-f) > kij-train.toml or [tool.kij-train] >
profile > default. Mappings (env, labels, …) merge key by key; lists that can only grow in meaning
(mounts, tolerations, …) are joined, the lower ranks first; everything else is replaced.

Every value keeps its `Origin`, and a value that the spec refuses is reported with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic

from pydantic import ValidationError
from typing_extensions import TypeVar

from kij_train.errors import RequestError
from kij_train.spec import JobSpec, Model, kinds
from kij_train.specfile.explain import explain
from kij_train.specfile.layers import Layer, Location, Origin, merge, nearest
from kij_train.specfile.sources import (
    ENV_PREFIX,
    STDIN,
    STDIN_SHOWN,
    Profile,
    SpecFile,
    all_profiles,
    environment_layer,
    profile_layer,
    read_project,
    read_spec_file,
    split_pair,
    unknown_variables,
    variable_of,
)

__all__ = [
    "Layer",
    "Location",
    "Origin",
    "Profile",
    "Resolved",
    "all_profiles",
    "resolve",
    "split_pair",
    "unknown_variables",
    "variable_of",
]

WHERE = ("namespace", "context", "kubeconfig")
"""Fields that say which cluster, and where on it."""

Spec = TypeVar("Spec", bound=Model, default=JobSpec)
SomeSpec = TypeVar("SomeSpec", bound=Model, default=JobSpec, covariant=True)


@dataclass(frozen=True)
class Resolved(Generic[SomeSpec]):
    """A checked spec, and where each of its values came from."""

    spec: SomeSpec
    origins: Mapping[Location, Origin]
    spec_file: str | None = None
    """What -f names, for messages."""
    typed: tuple[str, ...] = ("launch",)
    """The command's words in front of the script, for commands that are told to be written."""

    def origin(self, location: Location) -> str:
        """Where the value at `location` came from; "default" where nobody set it."""
        found = nearest(self.origins, location)
        return found.where if found else "default"

    def in_command(self, location: Location) -> bool:
        """Whether the command itself says the value at `location`, and no file or variable."""
        found = nearest(self.origins, location)
        return found is not None and found.in_command

    def given(self, name: str) -> bool:
        """Whether anybody set the field."""
        return any(location[0] == name for location in self.origins)


def resolve(
    flags: Layer,
    *,
    environ: Mapping[str, str],
    cwd: Path,
    spec_file: str | None = None,
    profile: str | None = None,
    model: type[Spec] = JobSpec,  # type: ignore[assignment] # as the default of Spec is
    again: Layer | None = None,
) -> Resolved[Spec]:
    """Merge all sources and check the result. Raises RequestError naming file and line, or flag.

    `again` is a request that was resolved before: variables, files and profiles are in it already,
    and say only where the cluster is.
    """
    project = read_project(cwd, model)
    file = read_spec_file(Path(spec_file), cwd, model) if spec_file else SpecFile({})
    variable = ENV_PREFIX + "PROFILE"
    profiles = (
        (profile, "--profile"),
        (environ.get(variable), variable),
        (file.profile, file.profile_from),
        (project.profile, project.profile_from),
    )
    named, where = next(((name, where) for name, where in profiles if name), (None, ""))
    chosen = Profile.find(named, cwd, project, where) if named else None
    layers = [
        _without_other_kinds(profile_layer(chosen), model) if chosen else Layer({}),
        _without_other_kinds(project, model),
        file,
        environment_layer(environ, model),
        flags,
    ]
    if again is not None:
        layers = [*map(_where, layers[:-1]), again, flags]
    shown = STDIN_SHOWN if spec_file == STDIN else spec_file
    resolved = replace(check(merge(layers, model), model), spec_file=shown)
    if chosen is not None and again is None:
        if isinstance(resolved.spec, JobSpec):
            _check_fits(resolved.spec.nodes, resolved.origin(("nodes",)), chosen)
        _check_gpu_kind(resolved, chosen)
    return resolved


def _without_other_kinds(layer: Layer, model: type[Model]) -> Layer:
    """What projects and profiles say for all jobs may be for jobs of another kind."""
    if layer.values.keys() <= model.model_fields.keys():
        return layer
    others = {name for kind in kinds() for name in kind.model_fields} - model.model_fields.keys()
    values = {name: value for name, value in layer.values.items() if name not in others}
    return Layer(values, {at: way for at, way in layer.origins.items() if at[0] not in others})


def _where(layer: Layer) -> Layer:
    """What a layer says of where the cluster is."""
    values = {name: value for name, value in layer.values.items() if name in WHERE}
    return Layer(values, {at: origin for at, origin in layer.origins.items() if at[0] in WHERE})


def _check_fits(nodes: int, origin: str, profile: Profile) -> None:
    """Settings that hold for few nodes would break, or silently slow down, a job of more."""
    most = profile.max_nodes
    if most is None or nodes <= most:
        return
    reason = profile.why.get("max_nodes", "")
    raise RequestError(
        f"profile {profile.name} is for {most} node{'' if most == 1 else 's'} at most, and "
        f"{origin} asks for {nodes}" + (f": {reason}" if reason else ""),
        hints=("one that fits the network between the nodes, or none: kij-train profiles",),
    )


def _check_gpu_kind(resolved: Resolved[Spec], profile: Profile) -> None:
    """A team's rule on which GPUs are for training, and which for evaluations."""
    spec = resolved.spec
    use = "training" if isinstance(spec, JobSpec) else "arrays"
    allowed = profile.gpu_kinds.get(use)
    gpus, kind = getattr(spec, "gpus", None), getattr(spec, "gpu_kind", "")
    if not gpus or allowed is None or any(fnmatchcase(kind, pattern) for pattern in allowed):
        return
    what = {"training": "training", "arrays": "evaluations and other arrays"}[use]
    reason = profile.why.get(f"gpu_kinds.{use}", "")
    raise RequestError(
        f"profile {profile.name} has {what} on GPUs of kind {', '.join(allowed)}, and "
        f"{_origin_of_kind(resolved)} {kind}" + (f": {reason}" if reason else ""),
        hints=(f"--gpu-kind {allowed[0]}", "what the machines have: kij-train doctor"),
    )


def _origin_of_kind(resolved: Resolved[Spec]) -> str:
    if not resolved.given("gpu_kind"):
        return "without --gpu-kind it is"
    return f"{resolved.origin(('gpu_kind',))} asks for"


def check(
    merged: Layer,
    model: type[Spec] = JobSpec,  # type: ignore[assignment] # as the default of Spec is
) -> Resolved[Spec]:
    """A layer as a spec. Raises RequestError for the first value that is wrong."""
    try:
        return Resolved(model.model_validate(merged.values), merged.origins)
    except ValidationError as error:
        raise explain(error, merged, model) from None
