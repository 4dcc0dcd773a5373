"""A value that the spec refuses, in the words of this tool, with where it came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kij_train.errors import RequestError
from kij_train.spec import Model, SpecConflict
from kij_train.spec.types import Mount, Toleration
from kij_train.specfile.layers import Layer, Location, nearest

MOST_SHOWN = 80
"""Characters of a value that is refused."""
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
    "master_port": "port",
    "user": "run_as_user",
}


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """'. Did you mean "x"?' for the closest known word, shown behind the prefix; or nothing."""
    synonym = SYNONYMS.get(word.replace("-", "_").lower())
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if synonym in known:
        close = [synonym]
    return f'. Did you mean "{prefix}{close[0]}"?' if close else ""


def explain(error: ValidationError, merged: Layer, model: type[Model]) -> RequestError:
    """The error for the first value that is wrong."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if first["type"] == "missing":
        # A key that is misspelled is missing, too.
        beside = (e for e in errors if e["type"] == "extra_forbidden")
        first = next((e for e in beside if e["loc"][:-1] == first["loc"][:-1]), first)
    location: Location = tuple(first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecConflict):
        location = cause.location
    kind, message = first["type"], str(cause) if cause else first["msg"]
    origin = nearest(merged.origins, location)
    where = origin.where if origin else str(location[0] if location else "spec")
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], model)
        key = str(location[-1])
        if location == ("steps",):
            return RequestError(
                f"{where}: steps are no job, but a workflow of several",
                hints=("for Argo Workflows: kij-train render --format argo -f FILE",),
            )
        return RequestError(
            f'{where}: unknown key "{key}"{did_you_mean(key, known)}',
            hints=("keys: kij-train schema",),
        )
    value = first["input"] if cause is None else _value_at(merged.values, location)
    if value is True and isinstance(cause, SpecConflict):
        value = None  # a flag that has none
    message = _plain(kind, message, first.get("ctx", {}))
    if kind == "string_type" and not isinstance(value, dict | list | None):
        message += ": put it into quotes"  # a date of TOML
    shown = "" if value is None or isinstance(value, dict | list) else f" {brief(value)}"
    if location[:1] == ("env",) and len(location) == 2:  # its value may be a secret
        shown = f" {location[1]}" if origin is not None and origin.names_value else ""
    elif message[:1] == "'" or location[-1:] == ("[key]",):
        shown = ":"  # the message names the value itself
    elif message[:1].isupper():
        shown += ":"
    if origin is not None and origin.names_value:
        subject = f"{where}{shown}"
    else:
        path = ".".join(str(part) for part in location if part != "[key]")
        subject = f"{where}: {path}{shown}" if path else where
    return RequestError(f"{subject} {message}")


def _known_keys(parent: Location, model: type[Model]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {"mounts": Mount, "tolerations": Toleration}
    holder = nested.get(str(parent[0])) if parent else None
    return [info.alias or name for name, info in (holder or model).model_fields.items()]


_PLAIN = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "is no whole number"),
    "int_parsing_size": "is too big",
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text",
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type"),
        "must be a mapping of keys to values",
    ),
    "missing": "is missing",
    "string_pattern_mismatch": "must not be empty or hold spaces",
}


def _plain(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """pydantic's message in the words of this tool."""
    match kind:
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "less_than":
            return f"must be less than {context['lt']}"
        case "literal_error":
            return f"must be one of {context['expected']}".replace(" or ", ", ").replace("'", "")
    return _PLAIN.get(kind, message)


def _value_at(values: Any, location: Location) -> Any:
    for part in location:
        if part == "[key]":
            break
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def brief(value: object) -> str:
    """A value as messages show it: on one line, and not all of a long one."""
    text = str(value)
    if len(text) > MOST_SHOWN:
        text = text[:MOST_SHOWN] + "…"
    return text if text.isprintable() and text and " " not in text else repr(text)
