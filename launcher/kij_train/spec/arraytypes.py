"""Types of the fields of an array alone, and how their texts are read."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from kij_train.arrays.gates import parse_gate
from kij_train.arrays.objective import parse_metric
from kij_train.spec.types import Text

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_FUNCTION = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")
PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)


def parse_range(text: str) -> tuple[int, int]:
    """`a:b`, the whole numbers from a to below b. Raises ValueError."""
    match = re.fullmatch(r"(-?\d{1,18}):(-?\d{1,18})", text, re.ASCII)
    if match is None:
        raise ValueError("is no range. Write it like 0:1000, whose last number is 999")
    first, end = int(match[1]), int(match[2])
    if end <= first:
        turned = f". Did you mean {end}:{first}?" if end < first else ""
        raise ValueError(f"is empty: it ends before {end}, and begins at {first}{turned}")
    return first, end


def _range(text: str) -> str:
    parse_range(text)
    return text


def _tolerance(value: object) -> object:
    """A number of indexes, or a share of them. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    percent = PERCENT.fullmatch(value)
    if percent is not None and Decimal(percent[1]) > 100:
        raise ValueError("is more than all of them")
    if percent is None and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise ValueError("must be a number of indexes, such as 5, or a share of them, such as 1%")
    return value


def _metric(text: str) -> str:
    parse_metric(text)
    return text


def _gate(text: str) -> str:
    parse_gate(text)
    return text


def _module(name: str) -> str:
    if not _MODULE.fullmatch(name):
        raise ValueError(f"{name!r} is no module name. Write it like package.module")
    return name


def _function(name: str) -> str:
    if not _FUNCTION.fullmatch(name):
        raise ValueError("is no function's name. Write it like package.module:name")
    return name


Range = Annotated[str, AfterValidator(_range)]
"""A:B, as parse_range has it."""
Tolerance = Annotated[str, BeforeValidator(_tolerance)]
"""A number of indexes, or a share of them."""
Metric = Annotated[Text, AfterValidator(_metric)]
"""NAME=REGEX, as arrays.objective has it."""
Gate = Annotated[Text, AfterValidator(_gate)]
"""What a metric must keep, as arrays.gates has it."""
Module = Annotated[str, AfterValidator(_module)]
"""A module's name, as import has it."""
Function = Annotated[str, AfterValidator(_function)]
"""MODULE:NAME."""
