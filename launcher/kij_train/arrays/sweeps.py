"""What a sweep has found: its points by the metric that is sought, what each parameter did, the
best one.

A point whose trials have not all given a number comes after those whose have, and is never the
best: a learning rate that diverges with every third seed is none to recommend.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kij_train.arrays.axes import Value
from kij_train.arrays.items import Items
from kij_train.arrays.objective import Lack, Objective, Values, gather, metrics_in, value_of
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.points import Point, key_of, repeated_key
from kij_train.pod.trials import point_key, text_of

MOST_GROUPS = 10
"""Different values of a parameter that are shown one by one; more are put into BANDS."""
BANDS = 4

Trial = tuple[str, Point]
"""Key and parameters: an item of the array."""


def trials_of(points: Iterable[Point], repeat: int) -> list[Trial]:
    """Every repeat of every point; those of a point follow each other."""
    found = []
    for point in points:
        key = key_of(point)
        found += [(repeated_key(key, number), point) for number in range(repeat)]
    return found


def items_of(trials: Iterable[Trial]) -> Items:
    """Trials as an array has them."""
    found = list(trials)
    return Items("the sweep", [key for key, _ in found], [json.dumps(point) for _, point in found])


@dataclass(frozen=True)
class Row:
    """One point, and what its trials gave."""

    key: str
    point: Mapping[str, Value]
    values: Values
    trials: int
    pending: int
    """Trials that run or wait."""
    seconds: float
    """Of all its trials together."""

    @property
    def is_ranked(self) -> bool:
        """Whether all its trials have given a number."""
        return bool(self.values.values) and self.values.is_whole and not self.pending


@dataclass(frozen=True)
class Group:
    """Points that have a value of a parameter in common, or one of a band of values."""

    label: str
    points: int
    mean: float
    best: float


@dataclass(frozen=True)
class Effect:
    """What a parameter did: the metric by its values, all else as it came."""

    name: str
    groups: tuple[Group, ...]

    @property
    def span(self) -> float:
        """Between the best and the worst mean."""
        means = [group.mean for group in self.groups]
        return max(means) - min(means)


@dataclass(frozen=True)
class Sweep:
    """All that a report of a sweep shows."""

    objective: Objective
    names: tuple[str, ...]
    """Of the parameters, in the order that they were given."""
    rows: tuple[Row, ...]
    """The best first; then those that are not ranked."""
    effects: tuple[Effect, ...]
    """The largest first."""
    metrics: Mapping[str, int] = field(default_factory=dict)
    """All numbers that trials have reported, with how many records have each."""

    @property
    def best(self) -> Row | None:
        """None while no point has all its numbers."""
        return self.rows[0] if self.rows and self.rows[0].is_ranked else None

    @property
    def ranked(self) -> tuple[Row, ...]:
        """Points whose trials have all given a number."""
        return tuple(row for row in self.rows if row.is_ranked)


@dataclass
class _Gathered:
    point: Mapping[str, Value]
    position: int
    trials: list[float | Lack | None] = field(default_factory=list)
    pending: int = 0
    seconds: float = 0.0


def sweep_of(
    outcomes: Iterable[tuple[Outcome, Mapping[str, Value]]], objective: Objective
) -> Sweep:
    """Fold the outcomes of all trials, each with its parameters, in their order."""
    gathered: dict[str, _Gathered] = {}
    metrics: dict[str, int] = {}
    names: dict[str, None] = {}
    for outcome, point in outcomes:
        names.update(dict.fromkeys(point))
        key = point_key(outcome.key)
        one = gathered.setdefault(key, _Gathered(point, len(gathered)))
        one.seconds += outcome.seconds or 0.0
        for name, count in metrics_in(outcome.records).items():
            metrics[name] = metrics.get(name, 0) + count
        if outcome.state in (State.RUNNING, State.PENDING):
            one.pending += 1
        elif outcome.state is State.DONE:
            one.trials.append(value_of(outcome.records, objective.metric))
        else:
            one.trials.append(None)
    rows = [_row(key, one) for key, one in gathered.items()]
    rows.sort(key=lambda row: _order(row, objective))
    ranked = [row for row in rows if row.is_ranked]
    effects = [_effect(name, ranked, objective) for name in names]
    told = [effect for effect in effects if effect is not None]
    told.sort(key=lambda effect: -effect.span)
    return Sweep(objective, tuple(names), tuple(rows), tuple(told), metrics)


def _row(key: str, one: _Gathered) -> Row:
    trials = len(one.trials) + one.pending
    return Row(key, one.point, gather(one.trials), trials, one.pending, one.seconds)


def _order(row: Row, objective: Objective) -> tuple[bool, bool, float]:
    mean = row.values.mean
    return (not row.is_ranked, mean is None, 0.0 if mean is None else objective.rank(mean))


# --- effects --------------------------------------------------------------------------------------


def _effect(name: str, rows: list[Row], objective: Objective) -> Effect | None:
    """None for a parameter that has the same value in all points."""
    by_text: dict[str, list[Row]] = {}
    for row in rows:
        by_text.setdefault(text_of(row.point[name]), []).append(row)
    if len(by_text) < 2:
        return None
    values = [row.point[name] for row in rows]
    are_numbers = all(isinstance(value, (int, float)) for value in values)
    if are_numbers and len(by_text) > MOST_GROUPS:
        return Effect(name, tuple(_bands(name, rows, objective)))
    groups = [_group(text, members, objective) for text, members in by_text.items()]
    if are_numbers:
        groups.sort(key=lambda group: float(group.label))
    elif len(groups) > MOST_GROUPS:
        groups.sort(key=lambda group: objective.rank(group.mean))
        groups = groups[:MOST_GROUPS]
    return Effect(name, tuple(groups))


def _bands(name: str, rows: list[Row], objective: Objective) -> Iterable[Group]:
    """As many points in each."""
    ordered = sorted(rows, key=lambda row: float(row.point[name]))
    for number in range(BANDS):
        band = ordered[number * len(rows) // BANDS : (number + 1) * len(rows) // BANDS]
        first, last = (text_of(row.point[name]) for row in (band[0], band[-1]))
        yield _group(f"{first} … {last}", band, objective)


def _group(label: str, rows: list[Row], objective: Objective) -> Group:
    means = [row.values.mean or 0.0 for row in rows]
    mean = math.fsum(value / len(means) for value in means)
    return Group(label, len(rows), mean, min(means, key=objective.rank))


# --- as text and JSON -----------------------------------------------------------------------------

MOST_ROWS = 20
Table = tuple[list[str], list[list[str]]]


def table(sweep: Sweep, most: int | None = MOST_ROWS) -> Table:
    """Header and cells of the points, the best first."""
    objective = sweep.objective
    with_error = any(row.values.error is not None for row in sweep.rows)
    header = [*sweep.names, objective.metric, *(["± error"] if with_error else []), "trials", ""]
    rows = []
    for row in sweep.rows[:most]:
        values = row.values
        cells = [text_of(row.point.get(name, "")) for name in sweep.names]
        cells.append("-" if values.mean is None else f"{values.mean:.6g}")
        if with_error:
            cells.append("-" if values.error is None else f"± {values.error:.2g}")
        rows.append([*cells, str(row.trials), lacks(row)])
    return header, rows


def lacks(row: Row) -> str:
    """What a point has no number of: `1 NaN, 2 failed`."""
    values = row.values
    counts = {
        "NaN": values.nan,
        "without it": values.missing,
        "pruned": values.pruned,
        "failed": values.failed,
        "pending": row.pending,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def effects_table(sweep: Sweep) -> Table:
    """Header and cells of what each parameter did, the one with the largest effect first."""
    metric = sweep.objective.metric
    rows = [
        [
            effect.name if not at else "",
            group.label,
            f"{group.mean:.6g}",
            f"{group.best:.6g}",
            str(group.points),
        ]
        for effect in sweep.effects
        for at, group in enumerate(effect.groups)
    ]
    return ["parameter", "value", f"mean {metric}", "best", "points"], rows


def as_json(sweep: Sweep) -> dict[str, Any]:
    """For scripts; the keys stay as they are."""
    best = sweep.best
    return {
        "metric": sweep.objective.metric,
        "direction": "max" if sweep.objective.is_max else "min",
        "parameters": list(sweep.names),
        "best": None if best is None else _row_as_json(best),
        "points": [_row_as_json(row) for row in sweep.rows],
        "effects": [
            {
                "parameter": effect.name,
                "groups": [
                    {
                        "value": group.label,
                        "mean": group.mean,
                        "best": group.best,
                        "points": group.points,
                    }
                    for group in effect.groups
                ],
            }
            for effect in sweep.effects
        ],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "key": row.key,
        "parameters": dict(row.point),
        "mean": row.values.mean,
        "error": row.values.error,
        "values": list(row.values.values),
        "trials": row.trials,
        "nan": row.values.nan,
        "missing": row.values.missing,
        "pruned": row.values.pruned,
        "failed": row.values.failed,
        "pending": row.pending,
        "seconds": round(row.seconds, 3),
    }
