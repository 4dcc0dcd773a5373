"""An evaluation: a data set with ids, the scores of its records, and what they come to.

Results are those of the ids of the data: nothing counts that is of another id, and what is missing
is told. The baseline is the results of an earlier evaluation of the same data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kij_train.arrays import gates, items, statistics
from kij_train.arrays.gates import Gate, Judged, Verdict
from kij_train.arrays.objective import OURS
from kij_train.arrays.outcomes import Outcome, Record, State
from kij_train.arrays.statistics import Estimate, Scores
from kij_train.errors import RequestError
from kij_train.pod import itemrecords

NO_METRICS = OURS | {"id", "seconds"}
"""Fields of a record that are no metric of an evaluation."""
WORST = 10
_SHOWN_IDS = 3


# --- data -----------------------------------------------------------------------------------------


def read_data(content: bytes, source: str) -> items.Items:
    """JSON lines, each with an id that no other one has. Raises RequestError."""
    if not content.strip():
        raise RequestError(
            f"{source} has no rows", hints=('a line each: {"id": "q1", "prompt": "…"}',)
        )
    found = items.from_list(content, source)
    for position, text in enumerate(found.texts or ("null",)):
        value = json.loads(text)
        if not isinstance(value, dict) or value.get("id") is None:
            raise RequestError(
                f'{found.place(position)}: must be an object of JSON with an "id"',
                hints=('a line each: {"id": "q1", "prompt": "…"}',),
            )
    return found


def read_baseline(content: bytes, source: str, ids: Iterable[str]) -> Scores:
    """The scores of an earlier evaluation of the same ids. Raises RequestError."""
    scores = Scores(ids)
    seen: set[str] = set()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"--baseline {source}:{number}: no JSON: {error}") from None
        name = record.get("id", record.get("key")) if isinstance(record, dict) else None
        if name is None:
            raise RequestError(
                f'--baseline {source}:{number}: a record needs an "id"',
                hints=(
                    f"results of an evaluation: kij-train results NAME --format jsonl > {source}",
                ),
            )
        seen.add(str(name))
        if not itemrecords.failed(record):
            scores.add(str(name), record, NO_METRICS)
    lost = [name for name in scores.ids if name not in seen]
    foreign = list(dict.fromkeys(scores.unknown))
    said = []
    if foreign:
        said.append(f"the data lacks {len(foreign):,} of its ids ({_some(foreign)})")
    if lost:
        said.append(f"it lacks {len(lost):,} of the data's ({_some(lost)})")
    if said:
        raise RequestError(
            f"--baseline {source} is of other data: {' and '.join(said)}",
            hints=("both need the same ids: evaluate the baseline on this --data as well",),
        )
    return scores


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_IDS]) + (", …" if len(names) > _SHOWN_IDS else "")


# --- what it comes to -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """One line of the table of metrics."""

    name: str
    estimate: Estimate | None
    """None without a single value."""
    nan: int
    without: int
    """Ids without a value."""
    change: Estimate | None
    """Now - baseline, pair by pair; None without a baseline that has it."""
    before: float | None
    """Mean of the baseline."""


@dataclass(frozen=True)
class Example:
    """One of the worst."""

    id: str
    value: float
    before: float | None
    record: Record


@dataclass(frozen=True)
class Evaluation:
    """All that a report of an evaluation shows."""

    ids: int
    counts: Mapping[State, int]
    """Ids by what became of them."""
    metrics: tuple[Metric, ...]
    judged: tuple[Judged, ...]
    worst_by: str
    """The metric of the worst examples: that of the first gate, else the first of all."""
    worst: tuple[Example, ...]
    has_baseline: bool
    unsent: int
    """Ids that are done, and whose numbers have not come from the volume where they are."""

    @property
    def is_whole(self) -> bool:
        """Whether every id has been evaluated, and is known here."""
        return self.counts.get(State.DONE, 0) == self.ids and not self.unsent

    @property
    def verdict(self) -> Verdict:
        """Without gates, whether it is whole."""
        if not self.is_whole:
            return Verdict.FAIL
        return gates.overall(self.judged)


class Scored(NamedTuple):
    """What outcomes come to."""

    scores: Scores
    """Of what is done."""
    counts: dict[State, int]
    unsent: int
    """Ids that are done, and whose numbers are not here."""


def scores_of(outcomes: Iterable[Outcome]) -> Scored:
    """The outcomes are those of all ids, whose numbers in the scores are their positions."""
    scores, unsent = Scores(), 0
    counts: dict[State, int] = dict.fromkeys(State, 0)
    for outcome in outcomes:
        counts[outcome.state] += 1
        number = scores.know(outcome.key)
        if outcome.state is State.DONE:
            unsent += not outcome.records
            for record in outcome.records:
                scores.add_to(number, record, NO_METRICS)
    return Scored(scores, {state: count for state, count in counts.items() if count}, unsent)


def evaluate(
    scored: Scored,
    wanted: Iterable[Gate],
    baseline: Scores | None,
    outcomes_at: Callable[[list[int]], Iterable[Outcome]],
) -> Evaluation:
    """Judge the scores. `outcomes_at` gives the outcomes of some positions, for the worst."""
    scores = scored.scores
    judged = tuple(gates.judge(gate, scores, baseline) for gate in wanted)
    metrics = tuple(_metric(name, scores, baseline) for name in scores.metrics)
    by = _worst_by(judged, metrics)
    largest = bool(judged) and judged[0].gate.kind in ("<=", "rise")
    worst = _worst(outcomes_at, by, scores, baseline, largest=largest) if by else ()
    return Evaluation(
        scores.wanted,
        scored.counts,
        metrics,
        judged,
        by,
        worst,
        baseline is not None,
        scored.unsent,
    )


def _worst_by(judged: tuple[Judged, ...], metrics: tuple[Metric, ...]) -> str:
    if judged:
        return judged[0].gate.metric
    return metrics[0].name if metrics else ""


def _metric(name: str, scores: Scores, baseline: Scores | None) -> Metric:
    estimate = change = before = None
    units = scores.units(name)
    if len(units.sums):
        estimate = statistics.mean(units)
    if baseline is not None and name in baseline.metrics:
        old = baseline.units(name)
        if len(old.sums):
            before = statistics.mean(old).mean
            if estimate is not None:
                change = statistics.difference(units, old)
    return Metric(name, estimate, scores.nan(name), len(scores.without(name)), change, before)


def _worst(
    outcomes_at: Callable[[list[int]], Iterable[Outcome]],
    metric: str,
    scores: Scores,
    baseline: Scores | None,
    *,
    largest: bool,
) -> tuple[Example, ...]:
    """The ids that lost most against the baseline, and of those the ones with the worst value."""
    import numpy as np

    units = scores.units(metric)
    sign = -1 if largest else 1
    before = {} if baseline is None else baseline.by_number(metric)
    means = units.means
    with np.errstate(over="ignore"):  # as far apart as no float is
        lost = means - [before.get(number, 0.0) for number in units.ids.tolist()]
    order = np.lexsort((sign * means, sign * lost))[:WORST]
    now = dict(zip(units.ids[order].tolist(), means[order].tolist(), strict=True))
    chosen = list(now)
    found = {outcome.position: outcome for outcome in outcomes_at(sorted(chosen))}
    return tuple(
        Example(
            found[number].key,
            now[number],
            before.get(number),
            found[number].records[-1] if found[number].records else {},
        )
        for number in chosen
    )


# --- noise ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """What changed between two runs of the same evaluation."""

    metric: str
    first: float
    second: float
    changed: int
    """Ids whose value is another one."""
    ids: int
    change: Estimate


def noise_of(first: Scores, second: Scores) -> list[Noise]:
    """Of each metric that both have."""
    found = []
    for name in first.metrics:
        one, other = first.means(name), second.means(name)
        shared = one.keys() & other.keys()
        if not shared:
            continue
        found.append(
            Noise(
                name,
                statistics.mean(first.units(name)).mean,
                statistics.mean(second.units(name)).mean,
                sum(one[key] != other[key] for key in shared),
                len(shared),
                statistics.difference(second.units(name), first.units(name)),
            )
        )
    return found
