"""What a sweep seeks: the smallest or largest value of a metric, read from records or output.

A trial whose metric is NaN, or that has none, is counted as such. It is never averaged, and never
the best one.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kij_train.errors import RequestError
from kij_train.pod.trials import INTERMEDIATE, PRUNED

Record = Mapping[str, Any]
_RECORDS_OWN = (
    *("key", "index", "attempt", "exit_code", "machine", "line"),
    *("error", "error_at", "nan"),
)
_TRIALS_OWN = ("params", "seed", "repeat", INTERMEDIATE, PRUNED)
OURS = frozenset([*_RECORDS_OWN, *_TRIALS_OWN])
"""Fields of a record that are no metric."""
_METRIC_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Objective:
    """Which metric, and which way."""

    metric: str
    is_max: bool = False

    def rank(self, value: float) -> float:
        """Smaller is better."""
        return -value if self.is_max else value

    @property
    def flag(self) -> str:
        """As on the command line."""
        return f"--{'max' if self.is_max else 'min'} {self.metric}"


class Lack(enum.Enum):
    """Why there is no value."""

    MISSING = "missing"
    NAN = "NaN"
    PRUNED = "pruned"
    """The trial was ended early, since others were better."""


def parse_metric(text: str) -> tuple[str, str]:
    """Name and regular expression of "loss=loss (\\S+)". Raises ValueError."""
    name, equals, pattern = text.partition("=")
    if not equals or _METRIC_NAME.fullmatch(name) is None:
        raise ValueError(r"must be NAME=REGEX, as in 'loss=loss (\S+)'")
    if name in OURS or name == "seconds":
        raise ValueError(f"{name} is in every record already: take another name")
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        at = getattr(error, "pos", None)
        mark = "" if at is None else f"\n    {pattern}\n    {' ' * at}^"
        raise ValueError(
            f"is no regular expression: {getattr(error, 'msg', error)}{mark}"
        ) from None
    if groups != 1:
        raise ValueError(
            f"needs one group (…), around the number, and has {groups}; another group: (?:…)"
        )
    return name, pattern


# --- reading records ------------------------------------------------------------------------------


def value_of(records: Sequence[Record], metric: str) -> float | Lack:
    """The metric of a trial: of its records, the last that has it counts.

    A name with dots is looked up as it is, then level by level.
    """
    lack = Lack.MISSING
    if any(record.get(PRUNED) is True for record in records):
        return Lack.PRUNED
    for record in reversed(records):
        if metric in record.get("nan", ()):
            return Lack.NAN
        found = _look_up(record, metric)
        if isinstance(found, bool):
            return float(found)
        if isinstance(found, (int, float)):
            try:
                value = float(found)
            except OverflowError:  # a whole number of more than 308 digits
                return Lack.NAN
            return value if math.isfinite(value) else Lack.NAN
        if found is not None:
            lack = Lack.NAN
    return lack


def _look_up(record: Any, metric: str) -> Any:
    if metric in record:
        return record[metric]
    first, dot, rest = metric.partition(".")
    inner = record.get(first)
    return _look_up(inner, rest) if dot and isinstance(inner, Mapping) else None


def metrics_in(records: Iterable[Record]) -> Counter[str]:
    """Names of all numbers that scripts have reported, with how many records have each."""
    found: Counter[str] = Counter()
    for record in records:
        found.update(_numbers(record, ""))
        found.update(record.get("nan", ()))
    return found


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for name, value in values.items():
        if not prefix and name in OURS:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            yield prefix + name


class UnknownMetricError(RequestError):
    """No record has the metric that is sought."""


def unknown_metric(metric: str, known: Iterable[str], flag: str) -> UnknownMetricError:
    """The error for a metric that no record has, with the nearest that there is."""
    names = sorted(known)
    near = difflib.get_close_matches(metric, names, 1, 0.5)
    guess = f"; did you mean {near[0]}?" if near else ""
    hints = [f"there are: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"]
    if not names:
        hints = [
            'a result: write {"' + metric + '": 0.5} to the file $KIJ_RESULT_FILE',
            rf"or read it from the output: --metric '{metric}={metric} (\S+)'",
        ]
    return UnknownMetricError(
        f"{flag}: no result has the metric {metric}{guess}", hints=tuple(hints)
    )


# --- values of a point ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """The metric of all trials of one point."""

    values: tuple[float, ...]
    nan: int = 0
    missing: int = 0
    """Trials that have ended well without the metric."""
    pruned: int = 0
    failed: int = 0
    """Trials that have not ended well, or not at all."""

    @property
    def mean(self) -> float | None:
        """None without a value."""
        # Of huge values the sum is beyond a float, while the mean is not.
        count = len(self.values)
        return math.fsum(value / count for value in self.values) if count else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean, s / √n with s of n - 1; None with fewer than two values."""
        count = len(self.values)
        if count < 2:
            return None
        mean = self.mean or 0.0
        scale = max(abs(value - mean) for value in self.values)
        if not scale or not math.isfinite(scale):
            return 0.0 if not scale else None
        squares = math.fsum(((value - mean) / scale) ** 2 for value in self.values)
        return scale * math.sqrt(squares / (count - 1) / count)

    @property
    def is_whole(self) -> bool:
        """Whether every trial has a value."""
        return not (self.nan or self.missing or self.pruned or self.failed)


def gather(trials: Iterable[float | Lack | None]) -> Values:
    """The values of a point; None stands for a trial that has not ended well."""
    values: list[float] = []
    counts: Counter[Lack | None] = Counter()
    for one in trials:
        if isinstance(one, float):
            values.append(one)
        else:
            counts[one] += 1
    return Values(
        tuple(values),
        nan=counts[Lack.NAN],
        missing=counts[Lack.MISSING],
        pruned=counts[Lack.PRUNED],
        failed=counts[None],
    )
