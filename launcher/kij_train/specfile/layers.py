"""Values with their origins, by source, and how sources of different rank become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

JOINED = frozenset(
    {"mounts", "tolerations", "env_from_secrets", "image_pull_secrets", "capabilities"}
)
"""Lists to which every source adds."""
MAPPINGS = frozenset({"env", "resources", "node_selector", "labels", "annotations"})
"""Merged key by key."""
COMMAND_FIELDS = ("script", "module", "program")

Location = tuple[str | int, ...]
"""Where in a spec: ("mounts", 0, "path")."""


@dataclass(frozen=True)
class Origin:
    """Where a value came from, as users know it: "--nodes", "KIJ_NODES", "job.yaml:3"."""

    where: str
    names_value: bool = False
    """`where` is the name of the option itself, so that messages need not repeat the key."""


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


def merge(layers: Iterable[Layer]) -> Layer:
    """Layers, lowest rank first, as one."""
    result = Layer({})
    for layer in layers:
        for name, value in layer.values.items():
            _merge_field(result, layer, name, value)
    return result


def _merge_field(result: Layer, layer: Layer, name: str, value: Any) -> None:
    below = result.values.get(name)
    origins = {at: origin for at, origin in layer.origins.items() if at[0] == name}
    if name in MAPPINGS and isinstance(below, dict) and isinstance(value, dict):
        if (name,) in origins:
            origins = {(name, key): origins[(name,)] for key in value} | origins
        value = {**below, **value}
    elif name in JOINED and isinstance(below, list) and isinstance(value, list):
        origins = {
            (name, int(at[1]) + len(below), *at[2:]): origin
            for at, origin in origins.items()
            if len(at) > 1
        }
        value = [*below, *value]
    else:
        _forget(result, name)
    if name in COMMAND_FIELDS:
        # Naming a module on top of a file's script replaces the script, and its arguments.
        for other in (*COMMAND_FIELDS, "args"):
            if other not in layer.values:
                _forget(result, other)
    result.values[name] = value
    result.origins |= origins


def _forget(layer: Layer, name: str) -> None:
    layer.values.pop(name, None)
    for location in [at for at in layer.origins if at[0] == name]:
        del layer.origins[location]
