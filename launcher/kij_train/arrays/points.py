"""Points of a sweep: the product of axes and of a file's lines, and their keys.

A point is a mapping of names to values. Its key, "batch=8,lr=0.001", has the names in order of
their letters: neither the order of axes nor a new value changes the key, and with it the seed, of a
point that was there before.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from kij_train import aliases
from kij_train.arrays.axes import Axis, Continuous, Listed, Value, parse_axis, value_of
from kij_train.arrays.jsonlines import once
from kij_train.errors import RequestError
from kij_train.pod.trials import text_of

Point = dict[str, Value]
MOST_POINTS = 1_000_000
_NAME = re.compile(r"\+{0,2}[A-Za-z_][\w.@/-]*", re.ASCII)
_BARE = re.compile(r"[^\s,=#\"'\\]+")
"""Text that needs no quotes in a key."""


@dataclass(frozen=True)
class Space:
    """All points that there are: every row with every combination of the axes."""

    axes: tuple[Axis, ...]
    rows: tuple[Point, ...] = ()
    """Of a file of points; none where there is none."""

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the order that they were given."""
        return [*(self.rows[0] if self.rows else ()), *(axis.name for axis in self.axes)]

    @property
    def count(self) -> int | None:
        """How many points there are; None where an axis has no end of them."""
        counts = [axis.count for axis in self.axes]
        if None in counts:
            return None
        return max(len(self.rows), 1) * math.prod(count for count in counts if count is not None)


def space_of(axes: list[Axis], rows: list[Point]) -> Space:
    """The space of all that was given. Raises RequestError for a name that comes twice, or none."""
    if not axes and not rows:
        raise RequestError(
            "a sweep needs parameters", hints=("an axis: -p lr=1e-4,3e-4", "or: --params FILE")
        )
    seen: dict[str, str] = dict.fromkeys(rows[0] if rows else (), "in the file of parameters")
    for axis in axes:
        if axis.name in seen:
            raise RequestError(
                f"-p {axis.name}: {axis.name} is there already, {seen[axis.name]}",
                hints=(f"all its values in one: -p {axis.name}=A,B,C",),
            )
        seen[axis.name] = "as an axis of its own"
    return Space(tuple(axes), tuple(rows))


def grid(space: Space) -> list[Point]:
    """Every point; the last axis changes fastest. Raises RequestError for too many, or no end."""
    for axis in space.axes:
        if isinstance(axis, Continuous):
            word = "log" if axis.is_log else "uniform"
            raise RequestError(
                f"{axis.name}={word}({axis.low:g},{axis.high:g}) has numbers without end: it is "
                "drawn from, and a grid needs values",
                hints=("draw points: --sample 64", f"or name values: -p {axis.name}=A,B,C"),
            )
    check_count(space)
    names = [axis.name for axis in space.axes]
    ended = [axis for axis in space.axes if not isinstance(axis, Continuous)]
    columns = [[axis.at(i) for i in range(axis.count)] for axis in ended]
    combined = (dict(zip(names, values, strict=True)) for values in itertools.product(*columns))
    if not space.rows:
        return list(combined)
    return [{**row, **point} for row, point in itertools.product(space.rows, combined)]


def check_count(space: Space) -> None:
    """Raise RequestError for a grid that is too large."""
    count = space.count
    if count is None or count <= MOST_POINTS:
        return
    counts = [(axis.name, axis.count) for axis in space.axes if axis.count is not None]
    factors = [f"{name} {_counted(number)}" for name, number in counts]
    if space.rows:
        factors.insert(0, f"file {len(space.rows):,}")
    raise RequestError(
        f"the grid has {_counted(count)} points ({' × '.join(factors)}); "
        f"the most is {MOST_POINTS:,}",
        hints=("draw some of them: --sample 64",),
    )


def _counted(number: int) -> str:
    """A number in digits, or how large it is where nobody would count them."""
    return f"{number:,}" if number < 10**15 else f"about 10^{math.log10(number):.0f}"


# --- keys ----------------------------------------------------------------------------------------


def key_of(point: Mapping[str, Value]) -> str:
    """The canonical name of a point."""
    return ",".join(f"{name}={_key_text(point[name])}" for name in sorted(point))


def _key_text(value: Value) -> str:
    if not isinstance(value, str):
        return repr(value)
    return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def repeated_key(key: str, repeat: int) -> str:
    """The key of a repeat, counted from 0. The first has the point's own: more of them change no
    seed."""
    return f"{key}#{repeat + 1}" if repeat else key


# --- files ----------------------------------------------------------------------------------------


def read_file(text: str, path: str) -> tuple[list[Axis], list[Point]]:
    """Axes or points of a file: JSON lines (a point each), or YAML (a mapping of axes, or a list
    of points). Raises RequestError with file and line."""
    suffix = PurePath(path).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return [], _checked(_json_lines(text, path), path)
    if suffix in (".yaml", ".yml", ".json"):
        return _yaml(text, path)
    raise RequestError(
        f"{path}: the name of a file of parameters ends with .jsonl, .yaml or .yml",
        hints=('a line a point: {"lr": 0.001, "batch": 16}', "or YAML: lr: [0.001, 0.003]"),
    )


def _json_lines(text: str, path: str) -> Iterator[tuple[str, Point]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line, parse_constant=_no_number, object_pairs_hook=once)
        except json.JSONDecodeError as error:
            raise RequestError(f"{where}:{error.colno}: no valid JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}: no valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise RequestError(f'{where}: must be an object, as in {{"lr": 0.001}}')
        yield where, {name: _json_value(one) for name, one in value.items()}


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _json_value(value: Any) -> Value:
    """Truth values, lists and their like become the text that JSON has for them."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return value
    return json.dumps(value, ensure_ascii=False)


def _yaml(text: str, path: str) -> tuple[list[Axis], list[Point]]:
    try:
        # BaseLoader: all values are what was written, and 1.10 is not 1.1.
        root = yaml.compose(text, Loader=yaml.BaseLoader)
        aliases.check(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{path}:{line}: no valid YAML: {error.problem}") from None
    except aliases.TooManyError as error:
        raise RequestError(f"{path}: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"{path}: no valid YAML: {error}") from None
    if isinstance(root, yaml.MappingNode):
        return [_yaml_axis(*pair, path) for pair in _pairs(root, path)], []
    if isinstance(root, yaml.SequenceNode):
        return [], _checked(_yaml_points(root, path), path)
    raise RequestError(
        f"{path}: must be a mapping of axes or a list of points",
        hints=("axes: lr: [0.001, 0.003]", "points: - {lr: 0.001, batch: 16}"),
    )


def _yaml_axis(name: str, node: yaml.Node, path: str) -> Axis:
    where = _where(node, path)
    if isinstance(node, yaml.ScalarNode):
        return parse_axis(f"{name}={node.value}", where)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise RequestError(f"{where}: {name} must be a value or a list of values")
    values = [_yaml_value(one, path) for one in node.value]
    texts = [text_of(value) for value in values]
    for text, one in zip(texts, node.value, strict=True):
        if texts.count(text) > 1:
            raise RequestError(f"{_where(one, path)}: {name} has {text} twice")
    if _NAME.fullmatch(name) is None:
        parse_axis(f"{name}=1", where)  # says what is wrong with the name
    return Listed(name, tuple(values))


def _yaml_points(root: yaml.SequenceNode, path: str) -> Iterator[tuple[str, Point]]:
    for node in root.value:
        if not isinstance(node, yaml.MappingNode):
            raise RequestError(f"{_where(node, path)}: a point must be a mapping: {{lr: 0.001}}")
        point = {name: _yaml_value(value, path) for name, value in _pairs(node, path)}
        yield _where(node, path), point


def _pairs(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Node]]:
    seen = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise RequestError(f"{_where(key, path)}: a name must be text")
        if key.value in seen:
            raise RequestError(f"{_where(key, path)}: {key.value} is there twice")
        seen.add(key.value)
        yield key.value, value


def _yaml_value(node: yaml.Node, path: str) -> Value:
    value: Value = _plain(node, path, ())
    return value if isinstance(node, yaml.ScalarNode) else json.dumps(value, ensure_ascii=False)


def _plain(node: yaml.Node, path: str, within: tuple[yaml.Node, ...]) -> Any:
    if any(node is outer for outer in within):
        raise RequestError(f"{_where(node, path)}: an alias (*) within what it stands for")
    within = (*within, node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one, path, within) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        return {name: _plain(value, path, within) for name, value in _pairs(node, path)}
    assert isinstance(node, yaml.ScalarNode)
    return str(node.value) if node.style in ("'", '"') else value_of(node.value)


def _where(node: yaml.Node, path: str) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _checked(rows: Iterator[tuple[str, Point]], path: str) -> list[Point]:
    """The points of a file, if they are what a file of points may have."""
    found: dict[str, str] = {}
    points: list[Point] = []
    for where, point in rows:
        for name in point:
            if _NAME.fullmatch(name) is None:
                parse_axis(f"{name}=1", where)
        if not point or (points and point.keys() != points[0].keys()):
            names = ", ".join(points[0] if points else ()) or "at least one"
            raise RequestError(f"{where}: every point needs the same parameters: {names}")
        key = key_of(point)
        if key in found:
            raise RequestError(f"{where}: the same point as {found[key]}: {key}")
        found[key] = where
        points.append(point)
        if len(points) > MOST_POINTS:
            raise RequestError(f"{path}: the most points are {MOST_POINTS:,}")
    if not points:
        raise RequestError(f"{path} has no points")
    return points
