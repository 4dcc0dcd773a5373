"""Values with their origins, by source, and how sources of different rank become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kij_train.spec import JobSpec, Model
from kij_train.spec.settings import Fact, Merge, fields_with, settings_of

Location = tuple[str | int, ...]
"""Where in a spec: ("mounts", 0, "path")."""


@dataclass(frozen=True)
class Origin:
    """Where a value came from, as users know it: "--nodes", "KIJ_NODES", "job.yaml:3"."""

    where: str
    names_value: bool = False
    """`where` is the name of the option itself, so that messages need not repeat the key."""
    in_command: bool = False
    """Said by this very command, or call: its paths begin where that runs."""


@dataclass
class Layer:
    """Values of one source, by field name, with the origin of each location."""

    values: dict[str, Any]
    origins: dict[Location, Origin] = field(default_factory=dict)


def nearest(origins: Mapping[Location, Origin], location: Location) -> Origin | None:
    """The origin of a location, or of what it is part of."""
    for end in range(len(location), 0, -1):
        found = origins.get(location[:end])
        if found is not None:
            return found
    return None


def merge(layers: Iterable[Layer], model: type[Model] = JobSpec) -> Layer:
    """Layers, lowest rank first, as one; each field as its setting in the model says."""
    result = Layer({})
    for layer in layers:
        for name, value in layer.values.items():
            _merge_field(result, layer, model, name, value)
    return result


def _merge_field(result: Layer, layer: Layer, model: type[Model], name: str, value: Any) -> None:
    setting = settings_of(model).get(name)  # None: the model will refuse it
    rule = setting.merge if setting else Merge.REPLACE
    below = result.values.get(name)
    origins = {at: origin for at, origin in layer.origins.items() if at[0] == name}
    if rule is Merge.BY_KEY and isinstance(below, dict) and isinstance(value, dict):
        if (name,) in origins:
            origins = {(name, key): origins[(name,)] for key in value} | origins
        value = {**below, **value}
    elif rule is Merge.JOIN and isinstance(below, list) and isinstance(value, list):
        origins = {
            (name, int(at[1]) + len(below), *at[2:]): origin
            for at, origin in origins.items()
            if len(at) > 1
        }
        value = [*below, *value]
    else:
        _forget(result, name)
    commands = fields_with(model, Fact.COMMAND)
    if name in commands:
        # Naming a module on top of a file's script replaces the script, and its arguments.
        for other in (*commands, "args"):
            if other not in layer.values:
                _forget(result, other)
    result.values[name] = value
    result.origins |= origins


def _forget(layer: Layer, name: str) -> None:
    layer.values.pop(name, None)
    for location in [at for at in layer.origins if at[0] == name]:
        del layer.origins[location]
