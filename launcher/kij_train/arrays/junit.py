"""What became of an array as a JUnit file: a test suite, with a test case an item; before it, of
an evaluation, one with a test case a gate.

Written piece by piece, for there may be a million items. The elements are those of Jenkins' schema
(https://github.com/jenkinsci/xunit-plugin, junit-10.xsd), which other readers take as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.report import Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no document of XML 1.0 can hold."""


@dataclass(frozen=True)
class Check:
    """A test case that is no item: a gate, say."""

    name: str
    word: str
    """`failure` or `error`; empty: it is passed."""
    kind: str
    """What sort of failure or error: `undecided`."""
    said: str


def pieces(
    report: Report, outcomes: Iterable[Outcome], checks: Sequence[Check] = ()
) -> Iterator[str]:
    """The document, in pieces. A failed item is a failure, a missing one an error."""
    counts = report.summary.counts
    skipped = counts[State.RUNNING] + counts[State.PENDING]
    failures, errors = (sum(one.word == word for one in checks) for word in ("failure", "error"))
    seconds = f'time="{report.summary.seconds:.3f}"'
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    total, failed, missing = report.summary.total, counts[State.FAILED], counts[State.MISSING]
    every = _numbers(total + len(checks), failed + failures, missing + errors)
    yield f"<testsuites {every} {seconds}>\n"
    if checks:
        yield from _suite(f"{report.name}.gates", checks)
    numbers = _numbers(total, failed, missing)
    name = _attribute(report.name)
    yield f'<testsuite name={name} {numbers} skipped="{skipped}" {seconds}>\n'
    for outcome in outcomes:
        yield _case(report, outcome)
    yield "</testsuite>\n</testsuites>\n"


def of_checks(name: str, checks: Sequence[Check]) -> Iterator[str]:
    """The document of what is no array: a test suite with these cases alone."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n'
    yield from _suite(name, checks)
    yield "</testsuites>\n"


def _suite(name: str, checks: Sequence[Check]) -> Iterator[str]:
    failures, errors = (sum(one.word == word for one in checks) for word in ("failure", "error"))
    group = _attribute(name)
    yield f"<testsuite name={group} {_numbers(len(checks), failures, errors)}>\n"
    for check in checks:
        yield _checked(group, check)
    yield "</testsuite>\n"


def _numbers(tests: int, failures: int, errors: int) -> str:
    return f'tests="{tests}" failures="{failures}" errors="{errors}"'


def _checked(group: str, check: Check) -> str:
    start = f"<testcase classname={group} name={_attribute(check.name)}"
    if not check.word:
        return f"{start}><system-out>{escape(_clean(check.said))}</system-out></testcase>\n"
    said = f"type={_attribute(check.kind)} message={_attribute(check.said)}"
    return f"{start}><{check.word} {said}/></testcase>\n"


def _case(report: Report, outcome: Outcome) -> str:
    group = _attribute(f"{report.name}.index-{outcome.index}")
    start = (
        f"<testcase classname={group} name={_attribute(outcome.key)} "
        f'time="{outcome.seconds or 0.0:.3f}"'
    )
    if outcome.state is State.DONE:
        return f"{start}/>\n"
    if not outcome.state.is_lost:
        return f"{start}><skipped message={_attribute(outcome.state.value)}/></testcase>\n"
    word = "failure" if outcome.state is State.FAILED else "error"
    said = outcome.error or outcome.state.value
    lines = [said]
    if outcome.error_at:
        lines.append(f"at {outcome.error_at}")
    if outcome.machine:
        lines.append(f"on {outcome.machine}")
    if outcome.exit_code:
        lines.append(f"exit code {outcome.exit_code}")
    lines.append(report.replay(outcome.key))
    kind = _attribute(outcome.state.value)
    body = escape(_clean("\n".join(lines)))
    return f"{start}><{word} type={kind} message={_attribute(said)}>{body}</{word}></testcase>\n"


def _attribute(text: str) -> str:
    """Quoted; what a parser would turn into a blank is written so that it stays."""
    return quoteattr(_clean(text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _clean(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
