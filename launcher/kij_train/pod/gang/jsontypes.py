"""Values of Python types as JSON, and back with every type checked.

NamedTuples and dataclasses become objects with the names of their fields. The types of the fields
may be numbers, texts, other such classes, and Optional, List, Tuple, Dict and Any of these.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import dataclasses
import functools
import math
from typing import (
    Any,
    Dict,
    Hashable,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")
_NAMES = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}

_SIMPLE = {str, int, bool, float}


class MalformedError(ValueError):
    """A value is not of the type that is expected. The text says which value, and why."""


def to_json(value: Any) -> Any:
    """The same value, made only of types that `json` can write."""
    kind: Any = type(value)
    names = _fields(kind)
    if names is not None:
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):
        if _SIMPLE.issuperset(map(type, value)):  # thousands of indexes
            return list(value)
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    return value


def from_json(kind: Type[T], said: Any, where: str) -> T:
    """The value of type `kind` that `to_json` has written. `where` names it in an error.

    A field that is missing takes its default. Raises MalformedError.
    """
    found: T = _read(kind, said, where)
    return found


def _read(kind: Any, said: Any, where: str) -> Any:
    if kind is Any:
        return said
    if get_origin(kind) is not None:
        return _read_generic(get_origin(kind), get_args(kind), said, where)
    if _fields(kind) is not None:
        return _read_object(kind, said, where)
    if kind is float and _is_a(int, said):
        try:
            return float(said)
        except OverflowError as error:
            raise MalformedError(f"{where} is too large") from error
    if not _is_a(kind, said) or (kind is float and math.isnan(said)):
        raise MalformedError(f"{where} is {_shown(said)}, not {_NAMES[kind]}")
    return said


def _is_a(kind: Any, said: Any) -> bool:
    """Whether a value is of this simple type. For Python, True and False are integers too."""
    return isinstance(said, kind) and (kind is bool or not isinstance(said, bool))


def _read_generic(origin: Any, types: Tuple[Any, ...], said: Any, where: str) -> Any:
    if origin is Union:  # Optional: no other union is used
        return None if said is None else _read(types[0], said, where)
    if origin is dict:
        if not isinstance(said, dict):
            raise MalformedError(f"{where} is {_shown(said)}, not an object")
        return {
            _read_key(types[0], key, where): _read(types[1], each, f"{where}.{key}")
            for key, each in said.items()
        }
    if not isinstance(said, list):
        raise MalformedError(f"{where} is {_shown(said)}, not a list")
    if origin is tuple and types[1:] != (Ellipsis,):
        if len(said) != len(types):
            raise MalformedError(f"{where} has {len(said)} values, not {len(types)}")
    elif types[0] is int and {int}.issuperset(map(type, said)):
        return origin(said)
    else:
        types = types[:1] * len(said)
    return origin(
        _read(kind, each, f"{where}[{n}]") for n, (kind, each) in enumerate(zip(types, said))
    )


def _read_key(kind: Any, key: str, where: str) -> Any:
    """A key of a dict, made from the key of a JSON object, which is always a text."""
    if kind is str:
        return key
    try:
        number = int(key)
    except ValueError as error:
        raise MalformedError(f"{where} has the key {_shown(key)}, not an integer") from error
    return number


def _read_object(kind: Any, said: Any, where: str) -> Any:
    if not isinstance(said, dict):
        raise MalformedError(f"{where} is {_shown(said)}, not an object")
    fields = _fields(kind) or {}
    for name in said:
        if name not in fields:
            raise MalformedError(f"{where} has no field {_shown(name)}")
    try:
        return kind(
            **{name: _read(fields[name], each, f"{where}.{name}") for name, each in said.items()}
        )
    except TypeError as error:  # the constructor names the fields that are missing
        raise MalformedError(f"{where}: {str(error).rpartition('() ')[2]}") from error


@functools.lru_cache(maxsize=None)
def _fields(kind: Hashable) -> Any:
    """Names and types of the fields of a NamedTuple or dataclass; None for other types."""
    if not (
        isinstance(kind, type) and (hasattr(kind, "_fields") or dataclasses.is_dataclass(kind))
    ):
        return None
    hints: Dict[str, Any] = get_type_hints(kind)
    return hints


def _shown(said: Any) -> str:
    text = repr(said)
    return text if len(text) <= 40 else text[:40] + "..."
