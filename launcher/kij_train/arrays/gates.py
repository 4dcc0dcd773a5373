"""Gates: `accuracy >= 0.8`, `accuracy drop <= 0.01`. Pass, fail, or undecided.

A gate passes where the whole interval of what it judges is on the right side, and fails where the
whole interval is on the wrong side. In between the data cannot tell, which is an answer of its own:
exit code 6. Each of the two wrong answers then comes in 2.5 % of the cases at most.

What is missing may be what is wrong, so a gate fails where any id has no value: a lost shard, or a
NaN, never raises a mean.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kij_train.arrays import statistics
from kij_train.arrays.objective import unknown_metric
from kij_train.arrays.statistics import Estimate, Scores
from kij_train.errors import RequestError

Kind = Literal[">=", "<=", "drop", "rise"]
EXIT_UNDECIDED = 6
_GATE = re.compile(
    r"\s*(?P<metric>[^\s<>=]+)\s*(?P<change>\s(?:drop|rise))?\s*(?P<sign><=|>=)\s*(?P<limit>\S+)\s*"
)
_LIKE = "'accuracy >= 0.8' or, against a baseline, 'accuracy drop <= 0.01'"


class Verdict(enum.Enum):
    """What a gate says."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Gate:
    """What is asked of a metric."""

    metric: str
    kind: Kind
    limit: float

    @property
    def needs_baseline(self) -> bool:
        """Whether it is about a change."""
        return self.kind in ("drop", "rise")

    @property
    def text(self) -> str:
        """As it is written."""
        change = f" {self.kind} <=" if self.needs_baseline else f" {self.kind}"
        return f"{self.metric}{change} {self.limit:g}"


@dataclass(frozen=True)
class Judged:
    """A gate, and what became of it."""

    gate: Gate
    verdict: Verdict
    reason: str
    """One sentence."""
    estimate: Estimate | None
    """Of the mean, or of the drop or rise; None without a value."""


def parse_gate(text: str) -> Gate:
    """A gate of its text. Raises ValueError."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"must look like {_LIKE}")
    if match["limit"].endswith("%"):
        raise ValueError("has a limit in percent: one point of a metric from 0 to 1 is 0.01")
    try:
        limit = float(match["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ValueError(f"has the limit {match['limit']}, which is no number")
    change = (match["change"] or "").strip()
    if change and (match["sign"] != "<=" or limit < 0):
        raise ValueError(f"must look like '{match['metric']} {change} <= 0.01', with 0 or more")
    kind: Kind = change or match["sign"]  # type: ignore[assignment]
    return Gate(match["metric"], kind, limit)


def check(gates: Iterable[Gate], baseline: Scores | None) -> None:
    """Raise RequestError for gates that the baseline has nothing for, before anything is run."""
    for gate in gates:
        if not gate.needs_baseline:
            continue
        if baseline is None:
            raise RequestError(
                f"--gate '{gate.text}' compares with a baseline, and there is none",
                hints=("results of an earlier evaluation: --baseline results.jsonl",),
            )
        if gate.metric not in baseline.metrics:
            raise unknown_metric(gate.metric, baseline.metrics, f"--gate '{gate.text}': --baseline")
        lacking = _lacking(gate.metric, baseline)
        if lacking is not None:
            raise RequestError(
                f"--gate '{gate.text}': the baseline cannot be compared with: {lacking}",
                hints=("a baseline needs a value for every id: evaluate it again",),
            )


def judge(gate: Gate, scores: Scores, baseline: Scores | None) -> Judged:
    """What a gate says of the scores. Both have been made with the same ids."""
    lacking = _lacking(gate.metric, scores)
    estimate = _estimate(gate, scores, baseline)
    if lacking is not None or estimate is None:
        return Judged(gate, Verdict.FAIL, lacking or "there is no value", estimate)
    verdict = verdict_of(gate, estimate)
    return Judged(gate, verdict, _reason(gate, verdict, estimate), estimate)


def verdict_of(gate: Gate, estimate: Estimate) -> Verdict:
    """What a gate says of the mean, or of the drop or rise."""
    is_floor = gate.kind == ">="
    good = estimate.low >= gate.limit if is_floor else estimate.high <= gate.limit
    bad = estimate.high < gate.limit if is_floor else estimate.low > gate.limit
    return Verdict.PASS if good else Verdict.FAIL if bad else Verdict.UNDECIDED


def _estimate(gate: Gate, scores: Scores, baseline: Scores | None) -> Estimate | None:
    now = scores.units(gate.metric)
    try:
        if not gate.needs_baseline or baseline is None:
            return statistics.mean(now)
        before = baseline.units(gate.metric)
        pair = (before, now) if gate.kind == "drop" else (now, before)
        return statistics.difference(*pair)
    except ValueError:
        return None


def _lacking(metric: str, scores: Scores) -> str | None:
    """What is missing, in words."""
    if metric not in scores.metrics:
        return unknown_metric(metric, scores.metrics, "").message.removeprefix(": ")
    nan = scores.nan(metric)
    without = scores.without(metric)
    if nan:
        values = "values are" if nan > 1 else "value is"
        return f"{nan} {values} no number"
    if without:
        of = f"{len(without):,} of {len(scores.ids):,} ids"
        named = ", ".join(without[:3]) + (", …" if len(without) > 3 else "")
        return f"{of} have no {metric}: {named}"
    return None


def _reason(gate: Gate, verdict: Verdict, estimate: Estimate) -> str:
    what = f"{gate.kind} of {gate.metric}" if gate.needs_baseline else gate.metric
    said = (
        f"{what} is {number(estimate.mean)} ({interval(estimate)}, "
        f"{estimate.units:,} ids{'' if estimate.units == estimate.count else ', clustered'})"
    )
    if verdict is not Verdict.UNDECIDED:
        return said
    seen = number(estimate.smallest_difference)
    return f"{said}: the interval holds the limit; differences from {seen} on would be seen"


def interval(estimate: Estimate) -> str:
    """The interval in words."""
    low, high = number(estimate.low), number(estimate.high)
    return f"{estimate.confidence:.0%} interval {low} to {high}"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def overall(judged: Iterable[Judged]) -> Verdict:
    """Of all gates: one that fails is enough; then one that cannot tell."""
    verdicts = {one.verdict for one in judged}
    for verdict in (Verdict.FAIL, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS


def exit_code(verdict: Verdict) -> int:
    """0, 1 or 6."""
    return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNDECIDED: EXIT_UNDECIDED}[verdict]
