"""Gates: pass, fail, undecided."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import gates
from kij_train.arrays.gates import Gate, Verdict
from kij_train.arrays.statistics import Scores
from kij_train.errors import RequestError

NONE: frozenset[str] = frozenset()


def scores(values: Sequence[float | None], metric: str = "acc") -> Scores:
    """Ids 0, 1, …; None: the id has no record."""
    found = Scores(str(at) for at in range(len(values)))
    for at, value in enumerate(values):
        if value is not None:
            found.add(str(at), {metric: value}, NONE)
    return found


def shares(right: int, wrong: int) -> Scores:
    return scores([1.0] * right + [0.0] * wrong)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("accuracy >= 0.8", Gate("accuracy", ">=", 0.8)),
        ("loss<=2", Gate("loss", "<=", 2)),
        ("accuracy drop <= 0.01", Gate("accuracy", "drop", 0.01)),
        (" loss  rise<=1e-3 ", Gate("loss", "rise", 0.001)),
        ("drop <= 1", Gate("drop", "<=", 1)),
        ("drop drop <= 1", Gate("drop", "drop", 1)),
    ],
)
def test_a_gate_is_read(text: str, gate: Gate) -> None:
    assert gates.parse_gate(text) == gate
    assert gates.parse_gate(gate.text) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must look like"),
        ("accuracy", "must look like"),
        ("accuracy > 0.8", "must look like"),
        ("accuracy == 0.8", "must look like"),
        ("accuracy >= x", "has the limit x, which is no number"),
        ("accuracy >= nan", "has the limit nan, which is no number"),
        ("accuracy drop <= 1%", "has a limit in percent"),
        ("accuracy drop >= 0.1", "must look like 'accuracy drop <= 0.01', with 0 or more"),
        ("accuracy drop <= -0.1", "with 0 or more"),
    ],
)
def test_a_wrong_gate_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gates.parse_gate(text)


@given(st.text(max_size=30))
def test_any_text_is_a_gate_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        gates.parse_gate(text)


@pytest.mark.parametrize(
    ("right", "wrong", "verdict", "code"),
    [
        (900, 100, Verdict.PASS, 0),
        (700, 300, Verdict.FAIL, 1),
        (800, 200, Verdict.UNDECIDED, 6),
        (9, 1, Verdict.UNDECIDED, 6),
        (3, 0, Verdict.UNDECIDED, 6),
        (1, 0, Verdict.UNDECIDED, 6),
    ],
)
def test_a_gate_passes_fails_or_cannot_tell(
    right: int, wrong: int, verdict: Verdict, code: int
) -> None:
    judged = gates.judge(gates.parse_gate("acc >= 0.8"), shares(right, wrong), None)
    assert judged.verdict is verdict
    assert gates.exit_code(judged.verdict) == code
    assert f"{right + wrong:,} ids" in judged.reason
    assert ("would be seen" in judged.reason) == (verdict is Verdict.UNDECIDED)


def test_a_limit_from_above() -> None:
    gate = gates.parse_gate("loss <= 1")
    assert gates.judge(gate, scores([0.5, 0.6, 0.7] * 40, "loss"), None).verdict is Verdict.PASS
    assert gates.judge(gate, scores([1.5, 1.6, 1.7] * 40, "loss"), None).verdict is Verdict.FAIL


def test_a_drop_is_judged_pair_by_pair() -> None:
    before = [float(at % 2) for at in range(1000)]
    same = gates.judge(gates.parse_gate("acc drop <= 0.01"), scores([*before]), scores([*before]))
    assert same.verdict is Verdict.PASS
    worse = scores([0.0 if at < 100 else value for at, value in enumerate(before)])
    fell = gates.judge(gates.parse_gate("acc drop <= 0.01"), worse, scores([*before]))
    assert fell.verdict is Verdict.FAIL
    assert "drop of acc is 0.05" in fell.reason
    assert (
        gates.judge(gates.parse_gate("acc rise <= 0"), scores([*before]), worse).verdict
        is Verdict.FAIL
    )


def test_few_pairs_cannot_show_that_nothing_was_lost() -> None:
    gate = gates.parse_gate("acc drop <= 0.01")
    assert gates.judge(gate, shares(10, 10), shares(10, 10)).verdict is Verdict.UNDECIDED


def test_what_is_missing_fails_the_gate_however_good_the_rest_is() -> None:
    gate = gates.parse_gate("acc >= 0.5")
    judged = gates.judge(gate, scores([1.0] * 999 + [None]), None)
    assert judged.verdict is Verdict.FAIL
    assert judged.reason == "1 of 1,000 ids have no acc: 999"
    judged = gates.judge(gate, scores([1.0] * 999 + [float("nan")]), None)
    assert judged.verdict is Verdict.FAIL
    assert judged.reason == "1 value is no number"
    judged = gates.judge(gate, scores([1.0, 1.0], "accu"), None)
    assert judged.verdict is Verdict.FAIL
    assert judged.reason == "no result has the metric acc; did you mean accu?"


def test_a_gate_on_a_change_needs_a_baseline_with_the_metric() -> None:
    gate = gates.parse_gate("acc drop <= 0.5")
    with pytest.raises(RequestError, match="there is none"):
        gates.check([gate], None)
    with pytest.raises(RequestError, match="no result has the metric acc; did you mean accu"):
        gates.check([gate], scores([1.0], "accu"))
    with pytest.raises(RequestError, match="1 of 2 ids have no acc: 1"):
        gates.check([gate], scores([1.0, None]))
    gates.check([gate], scores([1.0]))
    gates.check([gates.parse_gate("acc >= 0.5")], None)


def test_one_gate_that_fails_is_enough() -> None:
    judged = [
        gates.judge(gates.parse_gate(text), shares(800, 200), None)
        for text in ("acc >= 0.5", "acc >= 0.8", "acc >= 0.9")
    ]
    assert gates.overall(judged) is Verdict.FAIL
    assert gates.overall(judged[:2]) is Verdict.UNDECIDED
    assert gates.overall(judged[:1]) is Verdict.PASS
    assert gates.overall([]) is Verdict.PASS


@pytest.mark.parametrize("n", [50, 500])
def test_a_gate_is_wrong_in_few_of_a_hundred_cases(n: int) -> None:
    gate = gates.parse_gate("acc >= 0.8")
    rng = random.Random(n)
    wrong = 0
    for _ in range(400):
        # The truth is at the limit, or just below: to pass is wrong.
        values: list[float | None] = [float(rng.random() < 0.799) for _ in range(n)]
        wrong += gates.judge(gate, scores(values), None).verdict is Verdict.PASS
    assert wrong / 400 < 0.05
