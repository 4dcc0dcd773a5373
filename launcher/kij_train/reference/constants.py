"""Constants of a module with the docstrings that stand below them, which Python does not keep."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any, NamedTuple


class Constant(NamedTuple):
    """A constant and its docstring."""

    name: str
    value: Any
    text: str
    """Empty where it has none."""


def documented(module: ModuleType, prefix: str) -> list[Constant]:
    """The constants whose names begin so, in the order of the module's file.

    The modules are those of `pod`, which ship as files: their source is always there.
    """
    body = ast.parse(inspect.getsource(module)).body
    found = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        if name.startswith(prefix):
            found.append(Constant(name, getattr(module, name), _docstring(following)))
    return found


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        text = statement.value.value
        if isinstance(text, str):
            return " ".join(text.split())
    return ""
