"""Flags, environment, spec file, project file and profile into one spec, each value traceable.

Precedence, highest first: flag > KIJ_* > spec file (-f) > kij-train.toml or [tool.kij-train] >
profile > default. Mappings (env, labels, …) merge key by key; lists that can only grow in meaning
(mounts, tolerations, …) are joined, the lower ranks first; everything else is replaced.

Every value keeps its `Origin`, and a value that the spec refuses is reported with it.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kij_train import profiles
from kij_train.errors import RequestError
from kij_train.spec import JobSpec, Mount, SpecConflict, Toleration

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "KIJ_"
PROJECT_FILE = "kij-train.toml"
JOINED = frozenset({"mounts", "tolerations", "env_from_secrets", "image_pull_secrets"})
MAPPINGS = frozenset({"env", "resources", "node_selector", "labels", "annotations"})
LISTS = JOINED | {"args"}
COMMAND_FIELDS = ("script", "module", "program")
PATH_FIELDS = ("code_dir", "kubeconfig")

# What other launchers call the same thing.
SYNONYMS = {
    "nnodes": "nodes",
    "num_nodes": "nodes",
    "replicas": "nodes",
    "completions": "nodes",
    "parallelism": "nodes",
    "gpu": "gpus",
    "num_gpus": "gpus",
    "gpu_per_node": "gpus",
    "gpus_per_node": "gpus",
    "nproc": "nproc_per_node",
    "procs_per_node": "nproc_per_node",
    "ranks_per_node": "nproc_per_node",
    "entrypoint": "script",
    "command": "program",
    "arguments": "args",
    "workdir": "code_dir",
    "workspace": "code_dir",
    "environment": "env",
    "secrets": "env_from_secrets",
    "env_from": "env_from_secrets",
    "volumes": "mounts",
    "volume_mounts": "mounts",
    "shared_memory": "shm",
    "deadline": "timeout",
    "active_deadline_seconds": "timeout",
    "ttl_seconds_after_finished": "ttl",
    "backoff_limit": "backoff",
    "max_restarts": "backoff",
    "master_port": "port",
    "user": "run_as_user",
}

Location = tuple[str | int, ...]


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


@dataclass(frozen=True)
class Resolved:
    """A checked spec, and where each of its values came from."""

    spec: JobSpec
    origins: Mapping[Location, Origin]

    def origin(self, location: Location) -> str:
        """Where the value at `location` came from; "default" where nobody set it."""
        found = _nearest(self.origins, location)
        return found.where if found else "default"

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
) -> Resolved:
    """Merge all sources and check the result. Raises RequestError naming file and line, or flag."""
    project = read_project(cwd)
    chosen = profile or environ.get(ENV_PREFIX + "PROFILE") or project.profile
    layers = [
        profile_layer(chosen, project, cwd) if chosen else Layer({}),
        Layer(project.values, project.origins),
        read_spec_file(Path(spec_file), cwd) if spec_file else Layer({}),
        environment_layer(environ),
        flags,
    ]
    return check(merge(layers))


def check(merged: Layer) -> Resolved:
    """A layer as a spec. Raises RequestError for the first value that is wrong."""
    try:
        return Resolved(JobSpec.model_validate(merged.values), merged.origins)
    except ValidationError as error:
        raise _explain(error, merged) from None


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


# --- sources --------------------------------------------------------------------------------------


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """KIJ_NODES=8 and the like; lists and mappings are separated by white space."""
    layer = Layer({})
    for name in JobSpec.model_fields:
        variable = ENV_PREFIX + name.upper()
        text = environ.get(variable)
        if not text or name in ("affinity", "args"):
            continue
        value: Any = text
        if name in MAPPINGS:
            value = dict(split_pair(item, variable) for item in text.split())
        elif name in JOINED:
            value = text.split()
        layer.values[name] = value
        layer.origins |= _uniform_origins({name: value}, Origin(variable, names_value=True))
    return layer


def split_pair(text: str, where: str) -> tuple[str, str]:
    """KEY=VALUE. Raises RequestError naming `where` it was given."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RequestError(f"{where} {text}: must look like KEY=VALUE")
    return key, value


def read_project(cwd: Path) -> ProjectFile:
    """kij-train.toml, or pyproject.toml with a [tool.kij-train] table, here or further up."""
    for folder in (cwd, *cwd.parents):
        own, shared = folder / PROJECT_FILE, folder / "pyproject.toml"
        if own.is_file():
            return _project_layer(own, _read_toml(own), cwd)
        if shared.is_file():
            table = _read_toml(shared).get("tool", {}).get("kij-train")
            if table is not None:
                return _project_layer(shared, table, cwd)
    return ProjectFile({})


@dataclass
class ProjectFile(Layer):
    """The project file's defaults, its own profiles, and the profile it chooses."""

    profile: str | None = None
    profiles: dict[str, Any] = field(default_factory=dict)


def _project_layer(path: Path, table: Any, cwd: Path) -> ProjectFile:
    shown = _shown(path, cwd)
    if not isinstance(table, dict):
        raise RequestError(f"{shown}: [tool.kij-train] must be a table")
    values = _snake(table)
    profile, own = values.pop("profile", None), values.pop("profiles", {})
    if profile is not None and not isinstance(profile, str):
        raise RequestError(f"{shown}: profile must be the name of a profile")
    if not isinstance(own, dict):
        raise RequestError(f"{shown}: profiles must be a table of tables")
    layer = _toml_layer(values, path, shown)
    return ProjectFile(layer.values, layer.origins, profile, own)


def profile_layer(name: str, project: ProjectFile, cwd: Path) -> Layer:
    """A profile of the project file, a TOML file, or one that comes with kij-train."""
    if name in project.profiles:
        table = project.profiles[name]
        if not isinstance(table, dict):
            raise RequestError(f"profile {name}: must be a table")
        table = table.get("spec", table)
    elif name.endswith(".toml"):
        path = cwd / name
        if not path.is_file():
            raise RequestError(f"--profile {name}: no such file")
        table = _read_toml(path).get("spec", {})
    else:
        try:
            table = tomllib.loads(profiles.read_builtin(name)).get("spec", {})
        except KeyError:
            known = [*profiles.builtin_profiles(), *project.profiles]
            raise RequestError(
                f"--profile {name}: no such profile{did_you_mean(name, known)}",
                hints=(f"profiles: {', '.join(known)}, or the path of a .toml file",),
            ) from None
    values = _snake(table)
    return Layer(values, _uniform_origins(values, Origin(f"profile {name}")))


def read_spec_file(path: Path, cwd: Path) -> Layer:
    """A YAML (or JSON) spec file, with the line of every key. Raises RequestError."""
    full = cwd / path
    try:
        text = full.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not a text file in UTF-8") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise RequestError(f"{path} is empty", hints=("keys: kij-train schema",))
        if not isinstance(root, yaml.MappingNode):
            raise RequestError(f"{path}:{_line(root)}: must be a mapping of keys to values")
        _no_duplicates(root, str(path))
        values = yaml.SafeLoader(text).construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{path}:{line}: no valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: no valid YAML: {error}") from None
    origins: dict[Location, Origin] = {}
    _collect_lines(root, (), str(path), origins)
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    _anchor_paths(values, full.parent)
    return Layer(values, origins)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _no_duplicates(node: yaml.Node, path: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RequestError(f'{path}:{_line(key)}: key "{key.value}" stands here twice')
            seen.add(key.value)
            _no_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _no_duplicates(item, path)


def _collect_lines(
    node: yaml.Node, at: Location, path: str, origins: dict[Location, Origin]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value.replace("-", "_") if not at else key.value
            location: Location = (*at, name)
            origins[location] = Origin(f"{path}:{_line(key)}")
            _collect_lines(value, location, path, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            location = (*at, index)
            origins[location] = Origin(f"{path}:{_line(item)}")
            _collect_lines(item, location, path, origins)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: no valid TOML: {error}") from None


def _toml_layer(values: dict[str, Any], path: Path, shown: str) -> Layer:
    # tomllib gives no lines: the first line that assigns the key, or opens its table, is it.
    text = path.read_text(encoding="utf-8").splitlines()
    origins: dict[Location, Origin] = {}
    for name in values:
        key = re.escape(name).replace("_", "[-_]")
        pattern = re.compile(rf'\s*(\[\[?(tool\.kij-train\.)?)?"?{key}"?\s*([=.\]]|$)')
        line = next((n for n, row in enumerate(text, start=1) if pattern.match(row)), None)
        origin = Origin(f"{shown}:{line}" if line else shown)
        origins |= _uniform_origins({name: values[name]}, origin)
    _anchor_paths(values, path.parent)
    return Layer(values, origins)


def _snake(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in table.items()}


def _anchor_paths(values: dict[str, Any], folder: Path) -> None:
    """Paths in a file are relative to the file."""
    for name in PATH_FIELDS:
        if isinstance(values.get(name), str):
            values[name] = str(folder / Path(values[name]).expanduser())
    if "code_dir" not in values and any(name in values for name in COMMAND_FIELDS):
        values["code_dir"] = str(folder)


def _uniform_origins(values: Mapping[str, Any], origin: Origin) -> dict[Location, Origin]:
    origins: dict[Location, Origin] = {}
    for name, value in values.items():
        origins[(name,)] = origin
        if isinstance(value, dict):
            origins.update(((name, key), origin) for key in value)
    return origins


def _shown(path: Path, cwd: Path) -> str:
    return os.path.relpath(path, cwd)


# --- errors ---------------------------------------------------------------------------------------


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'. Did you mean "x"?' for the closest known word, or nothing."""
    synonym = SYNONYMS.get(word.replace("-", "_").lower())
    known = list(known)
    if synonym in known:
        return f'. Did you mean "{synonym}"?'
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'. Did you mean "{close[0]}"?' if close else ""


def _nearest(origins: Mapping[Location, Origin], location: Location) -> Origin | None:
    for end in range(len(location), 0, -1):
        found = origins.get(location[:end])
        if found is not None:
            return found
    return None


def _explain(error: ValidationError, merged: Layer) -> RequestError:
    first = error.errors(include_url=False)[0]
    location: Location = tuple(first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecConflict):
        location = (cause.field,)
    kind, message = first["type"], str(cause) if cause else first["msg"]
    origin = _nearest(merged.origins, location)
    where = origin.where if origin else str(location[0] if location else "spec")
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        key = str(location[-1])
        return RequestError(
            f'{where}: unknown key "{key}"{did_you_mean(key, known)}',
            hints=("keys: kij-train schema",),
        )
    value = first["input"] if cause is None else _value_at(merged.values, location)
    message = _plain(kind, message, first.get("ctx", {}))
    shown = "" if value is None or isinstance(value, dict | list) else f" {_quoted(value)}"
    if message[:1] == "'" or location[-1:] == ("[key]",):
        shown = ":"  # the message names the value itself
    elif message[:1].isupper():
        shown += ":"
    if origin is not None and origin.names_value:
        subject = f"{where}{shown}"
    else:
        path = ".".join(str(part) for part in location if part != "[key]")
        subject = f"{where}: {path}{shown}" if path else where
    return RequestError(f"{subject} {message}")


def _known_keys(parent: Location) -> list[str]:
    nested: dict[str, type[BaseModel]] = {"mounts": Mount, "tolerations": Toleration}
    model = nested.get(str(parent[0]) if parent else "", JobSpec)
    return [info.alias or name for name, info in model.model_fields.items()]


def _plain(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """pydantic's message in the words of this tool."""
    match kind:
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "less_than":
            return f"must be less than {context['lt']}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "is no whole number"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "string_type":
            return "must be text"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be a mapping of keys to values"
        case "literal_error":
            return f"must be one of {context['expected']}".replace(" or ", ", ").replace("'", "")
        case "missing":
            return "is missing"
        case "string_pattern_mismatch" | "string_too_short":
            return "must not be empty or hold spaces"
    return message


def _value_at(values: Any, location: Location) -> Any:
    for part in location:
        if part == "[key]":
            break
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and not re.search(r"\s", text) else repr(text)
