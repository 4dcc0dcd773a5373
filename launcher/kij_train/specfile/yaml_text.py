"""YAML with the line of every key and item, in which values are what the user wrote.

YAML 1.1 takes 1.10 for 1.1, 010 for 8, `on` for true and 1:30:00 for 5400. The spec's field alone
knows what is meant, so it gets the text; an empty value stays none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from kij_train import aliases
from kij_train.errors import RequestError
from kij_train.specfile.layers import Location, Origin

_YAML = "tag:yaml.org,2002:"


# libyaml's reads 3 MB in 0.1 s, PyYAML's own in 5 s.
class _WithTypes(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Numbers and truth values as YAML has them, and nothing that JSON does not know."""


class _AsWritten(_WithTypes):
    """Text, for all that is not empty."""


for _tag in ("timestamp", "value", "merge"):
    _WithTypes.add_constructor(_YAML + _tag, _WithTypes.construct_yaml_str)
for _tag in ("int", "float", "bool"):
    _AsWritten.add_constructor(_YAML + _tag, _AsWritten.construct_yaml_str)


def read(
    text: str, path: str, with_types: Iterable[str]
) -> tuple[dict[str, Any], dict[Location, Origin]]:
    """The values of a document by key, with '_' for '-', and where each stands.

    `path` is its name in messages; values of the keys `with_types` are of YAML's types. Raises
    RequestError.
    """
    try:
        root = yaml.compose(text, Loader=_AsWritten)
        if root is None:
            raise RequestError(f"{path} is empty", hints=("keys: kij-train schema",))
        if not isinstance(root, yaml.MappingNode):
            raise RequestError(f"{path}:{_line(root)}: must be a mapping of keys to values")
        aliases.check(root)
        _check_nodes(root, path)
        values = _named(_AsWritten(text).construct_document(root))
        for name in values.keys() & set(with_types):
            values[name] = _named(_WithTypes(text).construct_document(root))[name]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{path}:{line}: no valid YAML: {error.problem}") from None
    except aliases.TooManyError as error:
        raise RequestError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits
        raise RequestError(f"{path}: no valid YAML: {error}") from None
    origins: dict[Location, Origin] = {}
    _collect_lines(root, (), path, origins)
    return values, origins


def _named(values: dict[Any, Any]) -> dict[str, Any]:
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _check_nodes(node: yaml.Node, path: str, within: tuple[yaml.Node, ...] = ()) -> None:
    """Raise RequestError for a key that is no text or stands twice, and a value within itself.

    `within` are the nodes that this one is part of.
    """
    if any(node is outer for outer in within):
        raise RequestError(
            f"{path}:{_line(node)}: an alias (*) stands inside of what it stands for"
        )
    within = (*within, node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RequestError(f"{path}:{_line(key)}: a key must be text, no list or mapping")
            if key.tag == _YAML + "null":
                quote = f'. Put it into quotes: "{key.value}"' if key.value else ""
                raise RequestError(
                    f"{path}:{_line(key)}: a key must be text, and YAML reads none here{quote}"
                )
            # Of our own keys, '-' and '_' are the same.
            name = key.value.replace("-", "_") if len(within) == 1 else key.value
            if name in seen:
                raise RequestError(f'{path}:{_line(key)}: key "{key.value}" stands here twice')
            seen.add(name)
            _check_nodes(value, path, within)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_nodes(item, path, within)


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
