"""What an evaluation says, as text, as Markdown for a pull request, and as JSON.

The verdict is in the first line. Markdown stays below what a comment of GitHub holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from kij_train.arrays.evaluation import Evaluation, Example, Metric, Noise
from kij_train.arrays.gates import Judged, Verdict, number
from kij_train.arrays.junit import Check
from kij_train.arrays.objective import OURS
from kij_train.arrays.outcomes import State
from kij_train.arrays.statistics import Estimate
from kij_train.paths import shown

MOST_MARKDOWN_CHARS = 60_000
"""A comment holds 65,536."""
MOST_METRICS = 50
FIELD_CHARS = 120
Table = tuple[list[str], list[list[str]]]
_SIGN = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.UNDECIDED: "⚠️"}


def headline(evaluation: Evaluation) -> str:
    """The verdict in a line."""
    verdict, judged = evaluation.verdict, evaluation.judged
    if not evaluation.is_whole:
        counts = evaluation.counts
        states = [f"{counts[state]:,} {state.value}" for state in State if counts.get(state)]
        unsent = f"the numbers of {evaluation.unsent:,} ids have not come from their volume"
        if evaluation.unsent == evaluation.ids:
            return f"fail: {unsent}"
        said = f"fail: not every id was evaluated: {', '.join(states)} of {evaluation.ids:,}"
        return f"{said}; {unsent}" if evaluation.unsent else said
    if not judged:
        return f"evaluated {evaluation.ids:,} ids, without a gate"
    if verdict is Verdict.PASS:
        return f"pass: {_gates(len(judged))} on {evaluation.ids:,} ids"
    which = [one for one in judged if one.verdict is verdict]
    return f"{verdict.value}: {'; '.join(f'{one.gate.text}: {one.reason}' for one in which)}"


def _gates(count: int) -> str:
    return f"{count} gate{'s' * (count != 1)}"


def gates_table(judged: tuple[Judged, ...]) -> Table:
    """Header and cells of the gates."""
    rows = [[one.verdict.value, one.gate.text, one.reason] for one in judged]
    return ["verdict", "gate", "because"], rows


def metrics_table(evaluation: Evaluation) -> Table:
    """Header and cells of the metrics."""
    header = ["metric", "mean", "95 % interval", "ids"]
    if evaluation.has_baseline:
        header += ["baseline", "change", "its 95 % interval"]
    header += ["lacks"]
    return header, [_metric_row(one, evaluation) for one in evaluation.metrics[:MOST_METRICS]]


def _metric_row(metric: Metric, evaluation: Evaluation) -> list[str]:
    estimate = metric.estimate
    cells = [
        metric.name,
        "-" if estimate is None else f"{number(estimate.mean)} ± {estimate.error:.2g}",
        _interval(estimate),
        "0" if estimate is None else f"{estimate.units:,}",
    ]
    if evaluation.has_baseline:
        before, change = metric.before, metric.change
        cells += [
            "-" if before is None else number(before),
            "-" if change is None else f"{change.mean:+.4g}",
            _interval(change, "+"),
        ]
    lacks = [f"{metric.nan:,} NaN"] * bool(metric.nan)
    lacks += [f"{metric.without:,} ids"] * bool(metric.without)
    return [*cells, ", ".join(lacks)]


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "-"
    return f"{estimate.low:{sign}.4g} to {estimate.high:{sign}.4g} ({estimate.method})"


def noise_table(noise: list[Noise]) -> Table:
    """Header and cells of what two runs of the same differ in."""
    rows = [
        [
            one.metric,
            number(one.first),
            number(one.second),
            f"{one.changed:,} of {one.ids:,}",
            _interval(one.change, "+"),
        ]
        for one in noise
    ]
    return ["metric", "first run", "second run", "ids that changed", "change, 95 % interval"], rows


def worst_table(evaluation: Evaluation) -> Table:
    """Header and cells of the worst examples."""
    header = ["id", evaluation.worst_by]
    header += ["baseline"] * evaluation.has_baseline
    rows = []
    for one in evaluation.worst:
        cells = [one.id, number(one.value)]
        if evaluation.has_baseline:
            cells.append("-" if one.before is None else number(one.before))
        rows.append([*cells, told(one)])
    return [*header, "record"], rows


def told(example: Example, most: int = FIELD_CHARS) -> str:
    """The record's own text, for people: the model's answer, say."""
    own = {
        name: value
        for name, value in example.record.items()
        if name not in OURS and name not in ("id", "seconds") and isinstance(value, str)
    }
    text = ", ".join(f"{name}: {shown(value)}" for name, value in own.items())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- Markdown -------------------------------------------------------------------------------------


def as_markdown(
    evaluation: Evaluation,
    name: str,
    lost: tuple[str, ...] = (),
    rest: str = "",
    replay: Callable[[str], str] | None = None,
) -> str:
    """For a pull request. `lost` are lines about indexes that failed, for its beginning; `rest` is
    what failed, as the report of any array tells it. `replay` gives the command that evaluates an
    id again."""
    lines = [f"## {_SIGN[evaluation.verdict]} {escaped(name)}: {escaped(headline(evaluation))}", ""]
    lines += lost
    if evaluation.judged:
        lines += [*markdown_table(gates_table(evaluation.judged)), ""]
    if evaluation.metrics:
        lines += [*markdown_table(metrics_table(evaluation)), ""]
        if len(evaluation.metrics) > MOST_METRICS:
            lines += [f"{len(evaluation.metrics) - MOST_METRICS} more metrics.", ""]
    text = "\n".join(lines) + "\n"
    if rest and len(text) + len(rest) < MOST_MARKDOWN_CHARS:
        text += rest.rstrip("\n") + "\n\n"
    if evaluation.worst:
        title = f"<details><summary>The worst {len(evaluation.worst)} examples</summary>"
        worst = [title, "", *markdown_table(worst_table(evaluation)), ""]
        if replay is not None:
            worst += ["The first one again, here:", "", "```sh"]
            worst += [replay(evaluation.worst[0].id), "```", ""]
        worst += ["</details>", ""]
        block = "\n".join(worst)
        if len(text) + len(block) < MOST_MARKDOWN_CHARS:
            text += block
    return text


def markdown_table(table: Table) -> Iterator[str]:
    """Line by line."""
    header, rows = table
    yield f"| {' | '.join(map(escaped, header))} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(map(escaped, row))} |"


def escaped(text: str) -> str:
    """Text that is nothing but text, also in a cell of a table."""
    plain = " ".join(shown(text).split())
    for one in "\\`*_{}[]~":
        plain = plain.replace(one, "\\" + one)
    plain = "".join(f"&#{ord(one)};" if one in "&|@#" else one for one in plain)
    return re.sub(r"<(?![= \d])", "&#60;", plain)  # '<=' begins no tag, and is read as it stands


# --- JUnit ----------------------------------------------------------------------------------------


def checks(evaluation: Evaluation) -> tuple[Check, ...]:
    """Whether every id was evaluated, and each gate. One that is undecided is an error, not a
    failure: nothing is known to be wrong, and nothing to be right."""
    words = {Verdict.PASS: "", Verdict.FAIL: "failure", Verdict.UNDECIDED: "error"}
    whole = f"{evaluation.ids:,} ids" if evaluation.is_whole else headline(evaluation)
    return (
        Check("every id is evaluated", "" if evaluation.is_whole else "failure", "fail", whole),
        *(
            Check(one.gate.text, words[one.verdict], one.verdict.value, one.reason)
            for one in evaluation.judged
        ),
    )


# --- JSON -----------------------------------------------------------------------------------------


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """For scripts; the keys stay as they are."""
    return {
        "verdict": evaluation.verdict.value,
        "ids": evaluation.ids,
        "counts": {state.value: evaluation.counts.get(state, 0) for state in State},
        "gates": [
            {
                "gate": one.gate.text,
                "verdict": one.verdict.value,
                "because": one.reason,
                "estimate": _estimate(one.estimate),
            }
            for one in evaluation.judged
        ],
        "metrics": [
            {
                "metric": one.name,
                "estimate": _estimate(one.estimate),
                "nan": one.nan,
                "idsWithout": one.without,
                "baseline": one.before,
                "change": _estimate(one.change),
            }
            for one in evaluation.metrics
        ],
        "worst": [
            {"id": one.id, evaluation.worst_by: one.value, "baseline": one.before}
            for one in evaluation.worst
        ],
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    found = {
        "mean": estimate.mean,
        "standardError": estimate.error,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "method": estimate.method,
        "ids": estimate.units,
        "values": estimate.count,
        "smallestDifference": estimate.smallest_difference,
    }
    return {name: None if value in _INFINITE else value for name, value in found.items()}


_INFINITE = (float("inf"), float("-inf"))
