"""Packages that only some commands need: extras of ours, imported where they are used."""

from __future__ import annotations

import importlib.util
import sys

from kij_train.errors import RequestError

EXTRAS = {
    "matplotlib": "bench",
    "numpy": "stats",
    "optuna": "optuna",
    "scipy": "stats",
}
"""Package → the extra that has it."""


def has(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def pip_line(package: str) -> str:
    """The command that installs it."""
    return f"{sys.executable} -m pip install 'kij-train[{EXTRAS[package]}]'"


def require(package: str, what: str, *hints: str) -> None:
    """Raise RequestError where a package is missing; `what` needs it."""
    if not has(package):
        raise RequestError(
            f"{what} needs {package}, which is not installed", hints=(pip_line(package), *hints)
        )
