"""What became of an array, as text, Markdown and JSON. Pure: a summary → a text.

`junit.py` and `page.py` do the same for test reports and browsers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kij_train import units
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.summary import Cause, Summary, histogram
from kij_train.paths import shown, steers
from kij_train.pod.itemplan import compress_numbers

MOST_CAUSES_SHOWN = 20
MOST_KEYS_SHOWN = 20
MOST_REPLAYS = 5
NUMBERS_CHARS = 200
SLOWEST_SHOWN = 3
FORMAT = 1


@dataclass(frozen=True)
class Report:
    """All that any form of a report shows."""

    name: str
    where: str
    """`this machine`, `namespace ml`."""
    indexes: int
    attempts: int
    state: str
    """`running` while an attempt goes on, else `ended`."""
    summary: Summary
    flags: str = ""
    """What every command needs to find the array: ` -n ml --context lab`."""
    damage: tuple[str, ...] = ()
    """What is lost of the results, a sentence each."""

    @property
    def exit_code(self) -> int:
        """0: every item is done. 1: one has failed or is missing, or is not there yet."""
        return 0 if self.summary.all_well else 1

    def command(self, name: str, *words: str) -> str:
        """A command about this array, to be pasted."""
        return " ".join(["kij-train", name, self.name, *map(quoted, words)]) + self.flags

    def replay(self, key: str) -> str:
        """The command that runs an item on this machine."""
        words = (f"--key={key}",) if key.startswith("-") else ("--key", key)
        return self.command("replay", *words)

    @property
    def rerun(self) -> str:
        """The command that runs again what is not done."""
        return self.command("rerun", "--failed")


def quoted(word: str) -> str:
    """A word of a command line, for a shell; one that a terminal would not just print, for bash."""
    if not any(map(steers, word)):
        return shlex.quote(word)
    escaped = (
        "".join(f"\\x{byte:02x}" for byte in one.encode("utf-8", "surrogateescape"))
        if steers(one)
        else f"\\{one}"
        if one in "\\'"
        else one
        for one in word
    )
    return "$'" + "".join(escaped) + "'"


def counted(summary: Summary) -> str:
    """`done 19, failed 1`: the states that there are, in the order of State."""
    found = [f"{state.value} {summary.counts[state]:,}" for state in State if summary.counts[state]]
    return ", ".join(found) or "no items"


def numbers(indexes: set[int]) -> str:
    """`3,7-9`, and how many more where that is long."""
    text = compress_numbers(sorted(indexes))
    if len(text) <= NUMBERS_CHARS:
        return text
    return f"{text[:NUMBERS_CHARS].rpartition(',')[0]},… ({len(indexes):,} indexes)"


def took(summary: Summary) -> str:
    """How long items took: the middle, the slow end, the longest, all together."""
    if not summary.durations:
        return ""
    middle, most = summary.quantile(0.5), summary.quantile(0.95)
    return (
        f"half of the items took {span(middle)} at most, 95 % {span(most)}, "
        f"the longest {span(summary.durations[-1])}; together {span(summary.seconds)}"
    )


def span(seconds: float) -> str:
    """A duration with three digits or so, below a minute."""
    return f"{seconds:.3g} s" if seconds < 60 else units.format_seconds(seconds)


def about(cause: Cause) -> str:
    """Where a cause was seen: line of the code, indexes, exit codes, machines."""
    said = [cause.first.error_at] if cause.first.error_at else []
    said.append(f"index {numbers(cause.indexes)}")
    codes = sorted(code for code in cause.exit_codes if code)
    if codes:
        said.append(f"exit code {', '.join(map(str, codes[:5]))}")
    machines = [name for name, _ in cause.machines.most_common(3)]
    if machines:
        more = len(cause.machines) - len(machines)
        said.append(f"on {', '.join(machines)}" + (f" and {more} more" if more else ""))
    return " · ".join(said)


def head(report: Report) -> str:
    """The first line."""
    attempts = f" · {report.attempts} attempts" if report.attempts > 1 else ""
    total, indexes = report.summary.total, report.indexes
    goes_on = "still running · " if report.state == "running" else ""
    return (
        f"{report.name}  {goes_on}{total:,} item{'s' * (total != 1)} in {indexes:,} "
        f"index{'es' * (indexes != 1)}{attempts} · {report.where}"
    )


def as_text(report: Report) -> str:
    """For a terminal."""
    return "\n".join(_text_lines(report)) + "\n"


def _text_lines(report: Report) -> Iterator[str]:
    summary = report.summary
    yield head(report)
    yield f"  {counted(summary)}"
    if summary.durations:
        yield f"  {took(summary)}"
    for text in report.damage:
        yield f"  damaged: {text}"
    for state, indexes in (
        (State.FAILED, summary.failed_indexes),
        (State.MISSING, summary.missing_indexes),
    ):
        if indexes:
            yield ""
            yield f"{state.value} items in index {numbers(indexes)}"
            yield from _text_causes(report, state)
    if len(summary.slowest) > 1:
        slow = (f"{shown(one.key)} ({span(one.seconds or 0)})" for one in summary.slowest)
        yield ""
        yield f"slowest: {', '.join(list(slow)[:SLOWEST_SHOWN])}"
    if summary.failed_indexes or summary.missing_indexes:
        yield f"again, what is not done: {report.rerun}"


def _text_causes(report: Report, state: State) -> Iterator[str]:
    causes = [cause for cause in report.summary.causes if cause.state is state]
    for cause in causes[:MOST_CAUSES_SHOWN]:
        yield f"  {cause.items:,} × {shown(cause.error) or 'without a word'}"
        yield f"      {about(cause)} · key {shown(cause.first.key)}"
        if cause.hint:
            yield f"      try: {cause.hint}"
        yield f"      here: {report.replay(cause.first.key)}"
    if len(causes) > MOST_CAUSES_SHOWN:
        rest = sum(cause.items for cause in causes[MOST_CAUSES_SHOWN:])
        yield f"  {rest:,} items with {len(causes) - MOST_CAUSES_SHOWN} other causes"
    lost = [one for one in report.summary.lost if one.state is state]
    named = ", ".join(shown(one.key) for one in lost[:MOST_KEYS_SHOWN])
    more = report.summary.counts[state] - min(len(lost), MOST_KEYS_SHOWN)
    yield f"  keys: {named}" + (f" and {more:,} more" if more else "")


# --- Markdown -------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """For a pull request or a job's summary: what it comes to, and what is lost, come first."""
    summary = report.summary
    sign = "⏳" if report.state == "running" else "✅" if summary.all_well else "❌"
    lines = [f"## {sign} {_md(report.name)}: {_md(counted(summary))}", ""]
    lines += [*lost_in_markdown(report), _md(head(report).split("  ", 1)[1]) + "."]
    if summary.durations:
        lines[-1] += f" {took(summary).capitalize()}."
    lines += ["", *failures_in_markdown(report)]
    if len(summary.slowest) > 1:
        lines += ["### Slowest", "", "| key | seconds | index |", "|---|---:|---:|"]
        lines += [
            f"| {_md(one.key)} | {one.seconds or 0:.3f} | {one.index} |" for one in summary.slowest
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def lost_in_markdown(report: Report) -> tuple[str, ...]:
    """The indexes without success, and the command that runs them again; none: all is well."""
    summary = report.summary
    sets = ((State.FAILED, summary.failed_indexes), (State.MISSING, summary.missing_indexes))
    said = [f"{state.value} in index {numbers(indexes)}" for state, indexes in sets if indexes]
    return (f"{'; '.join(said)} · `{report.rerun}`", "") if said else ()


def failures_in_markdown(report: Report) -> list[str]:
    """Sections with what is damaged, the causes of failures, and the commands that replay them."""
    summary, lines = report.summary, []
    if report.damage:
        lines += ["### Damaged", "", *(f"- {_md(text)}" for text in report.damage), ""]
    if not summary.causes:
        return lines
    lines += ["### What failed", "", "| items | state | cause | where | first key |"]
    lines.append("|---:|---|---|---|---|")
    for cause in summary.causes[:MOST_CAUSES_SHOWN]:
        cells = (f"{cause.items:,}", cause.state.value, cause.error, about(cause))
        lines.append("| " + " | ".join(map(_md, (*cells, cause.first.key))) + " |")
    firsts = [report.replay(cause.first.key) for cause in summary.causes[:MOST_REPLAYS]]
    return [*lines, "", "```sh", *firsts, report.rerun, "```", ""]


def _md(text: str) -> str:
    """Text that is nothing but text, also in a cell of a table."""
    plain = re.sub(r"([\\`*_{}\[\]~])", r"\\\1", " ".join(shown(text).split()))
    return re.sub("[<>&|]", lambda one: f"&#{ord(one[0])};", plain)


# --- JSON -----------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """For scripts; the keys stay as they are. Durations are seconds, indexes as `3,7-9`."""
    summary = report.summary
    durations = summary.durations
    return {
        "format": FORMAT,
        "name": report.name,
        "where": report.where,
        "state": report.state,
        "items": summary.total,
        "indexes": report.indexes,
        "attempts": report.attempts,
        "counts": {state.value: summary.counts[state] for state in State},
        "failedIndexes": compress_numbers(sorted(summary.failed_indexes)),
        "missingIndexes": compress_numbers(sorted(summary.missing_indexes)),
        "causes": [_cause_as_json(cause, report) for cause in summary.causes],
        "notDone": [_lost_as_json(one, report) for one in summary.lost],
        "notDoneLeftOut": summary.left_out,
        "seconds": {
            "total": round(summary.seconds, 3),
            "median": round(summary.quantile(0.5), 3),
            "p95": round(summary.quantile(0.95), 3),
            "max": round(durations[-1], 3) if durations else 0.0,
            "histogram": [
                {"from": round(bar.low, 6), "to": round(bar.high, 6), "items": bar.count}
                for bar in histogram(durations)
            ],
        },
        "slowest": [
            {"key": one.key, "index": one.index, "seconds": one.seconds} for one in summary.slowest
        ],
        "damage": list(report.damage),
        "rerun": None if summary.all_well else report.rerun,
    }


def _cause_as_json(cause: Cause, report: Report) -> dict[str, Any]:
    return {
        "state": cause.state.value,
        "error": cause.error,
        "at": cause.first.error_at or None,
        "items": cause.items,
        "indexes": compress_numbers(sorted(cause.indexes)),
        "exitCodes": sorted(cause.exit_codes),
        "machines": sorted(cause.machines),
        "firstKey": cause.first.key,
        "hint": cause.hint,
        "replay": report.replay(cause.first.key),
    }


def _lost_as_json(one: Outcome, report: Report) -> dict[str, Any]:
    return {
        "key": one.key,
        "index": one.index,
        "state": one.state.value,
        "attempt": one.attempt,
        "seconds": one.seconds,
        "exitCode": one.exit_code,
        "machine": one.machine or None,
        "error": one.error or None,
        "replay": report.replay(one.key),
    }
