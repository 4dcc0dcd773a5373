"""Means, errors and intervals of evaluations, against other ways to the same number."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import statistics
from kij_train.arrays.statistics import Units, units_of
from scipy import stats

Numbers = list[float]


def units(values: Numbers, ids: list[int] | None = None) -> Units:
    where = list(range(len(values))) if ids is None else ids
    return units_of(where, values, max(where, default=-1) + 1)


def binary(right: int, wrong: int) -> Units:
    return units([1.0] * right + [0.0] * wrong)


def test_the_error_of_independent_values_is_that_of_the_textbook() -> None:
    values = [0.3, 0.5, 0.9, 0.1, 0.7]
    found = statistics.mean(units(values))
    assert found.mean == pytest.approx(0.5)
    assert found.error == pytest.approx(stats.sem(values))
    low, high = stats.t.interval(0.95, 4, 0.5, stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.method == "t"


def test_right_and_wrong_answers_have_wilsons_interval() -> None:
    found = statistics.mean(binary(190, 10))
    expected = stats.binomtest(190, 200).proportion_ci(method="wilson")
    assert found.method == "wilson"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_only_right_answers_leave_a_doubt() -> None:
    found = statistics.mean(binary(200, 0))
    assert (found.mean, found.error, found.high) == (1.0, 0.0, 1.0)
    assert 0.97 < found.low < 0.99
    assert found.smallest_difference > 0.01


def test_answers_to_the_same_question_are_not_independent() -> None:
    ids = [at // 10 for at in range(1000)]
    alike = [float(at // 10 % 2) for at in range(1000)]
    once = statistics.mean(units(alike))
    found = statistics.mean(units(alike, ids))
    assert found.mean == once.mean == 0.5
    assert (found.units, found.count) == (100, 1000)
    # All ten answers to a question are the same: as if it had been asked once.
    assert found.error == pytest.approx(math.sqrt(10) * once.error, rel=0.01)
    assert found.high - found.low > 3 * (once.high - once.low)
    assert statistics.mean(units([1.0] * 1000, ids)).low == pytest.approx(
        statistics.mean(binary(100, 0)).low, abs=0.002
    )


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_values() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, 2000)
    found = statistics.mean(units(list(values)))
    assert found.method == "bootstrap"
    reach = 1.96 * 2 / math.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - reach, abs=0.02)
    assert found.high == pytest.approx(values.mean() + reach, abs=0.02)
    assert found == statistics.mean(units(list(values))), "the same values, the same interval"


def test_the_bootstrap_takes_questions_with_all_their_answers() -> None:
    rng = np.random.default_rng(2)
    ids = [at // 5 for at in range(1000)]
    values = [float(value) for value in rng.normal(0, 1, 200) for _ in range(5)]
    found = statistics.mean(units(values, ids))
    assert found.method == "bootstrap"
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * found.error, rel=0.1)
    assert found.error == pytest.approx(1 / math.sqrt(200), rel=0.1)


def test_many_units_have_the_normal_interval() -> None:
    values = list(np.random.default_rng(3).random(20_001))
    found = statistics.mean(units(values))
    assert found.method == "normal"
    assert found.high - found.mean == pytest.approx(1.959964 * found.error)


def test_one_value_says_nothing_of_others() -> None:
    found = statistics.mean(units([0.7]))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.smallest_difference == math.inf
    with pytest.raises(ValueError, match="no values"):
        statistics.mean(units([]))


def test_values_that_are_all_alike_have_no_spread() -> None:
    found = statistics.mean(units([0.5] * 100))
    assert (found.mean, found.error, found.low, found.high) == (0.5, 0.0, 0.5, 0.5)


def test_pairs_see_what_two_means_do_not() -> None:
    hard = [float(at % 2) for at in range(1000)]
    now = [0.0 if at < 20 else value for at, value in enumerate(hard)]
    found = statistics.difference(units(now), units(hard))
    assert found.mean == pytest.approx(-0.01)
    assert found.method == "agresti-min"
    assert found.high < 0
    apart = statistics.mean(units(now)).high > statistics.mean(units(hard)).low
    assert apart, "the two intervals overlap"


def test_pairs_are_found_by_id() -> None:
    now = units_of([2, 0, 5], [3.0, 1.0, 9.0], 6)
    before = units_of([0, 2, 3], [1.5, 2.5, 7.0], 6)
    found = statistics.difference(now, before)
    assert (found.mean, found.units) == (0.0, 2)
    with pytest.raises(ValueError, match="no pairs"):
        statistics.difference(units_of([0], [1.0], 2), units_of([1], [1.0], 2))


def test_no_difference_in_a_few_answers_proves_little() -> None:
    few = statistics.difference(binary(5, 5), binary(5, 5))
    many = statistics.difference(binary(500, 500), binary(500, 500))
    assert few.mean == many.mean == 0
    assert few.high > 0.15
    assert 0 < many.high < 0.003


def test_differences_of_scores_that_are_no_shares_have_another_interval() -> None:
    rng = np.random.default_rng(4)
    before = list(rng.normal(0, 1, 300))
    now = [
        value - 0.1 + shift for value, shift in zip(before, rng.normal(0, 0.1, 300), strict=True)
    ]
    found = statistics.difference(units(now), units(before))
    assert found.method == "bootstrap"
    assert found.low < -0.1 < found.high < 0


@pytest.mark.parametrize("clusters", [1, 5])
@pytest.mark.parametrize(("share", "n"), [(0.5, 100), (0.95, 200), (0.99, 100)])
def test_intervals_of_shares_hold_the_truth_as_often_as_they_say(
    share: float, n: int, clusters: int
) -> None:
    rng = random.Random(f"{share} {n} {clusters}")
    held = 0
    for _ in range(600):
        values = []
        for _ in range(n // clusters):
            first = float(rng.random() < share)
            # An answer is that of the question's first one in half of the cases.
            values.append(first)
            for _ in range(clusters - 1):
                values.append(first if rng.random() < 0.5 else float(rng.random() < share))
        found = statistics.mean(units(values, [at // clusters for at in range(len(values))]))
        held += found.low <= share <= found.high
    assert held / 600 > (0.92 if clusters == 1 else 0.90)


@pytest.mark.parametrize("n", [20, 200])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(n: int) -> None:
    rng = random.Random(n)
    held = 0
    for _ in range(1000):
        before = [float(rng.random() < 0.8) for _ in range(n)]
        now = [value if rng.random() < 0.9 else float(rng.random() < 0.5) for value in before]
        found = statistics.difference(units(now), units(before))
        # One in ten is drawn again, at 0.5 instead of 0.8.
        held += found.low <= -0.03 <= found.high
    assert held / 1000 > 0.93


def test_the_smallest_difference_is_seen_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    seen = 0
    smallest = 2.80 / math.sqrt(49)
    told = []
    for _ in range(1000):
        found = statistics.difference(units(list(rng.normal(smallest, 1, 49))), units([0.0] * 49))
        seen += found.low > 0
        told.append(found.smallest_difference)
    assert 0.75 < seen / 1000 < 0.83
    assert np.mean(told) == pytest.approx(smallest, rel=0.05)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.floats(-1e6, 1e6)),
        min_size=1,
        max_size=60,
    )
)
def test_the_mean_is_that_of_all_values_in_any_order(values: list[tuple[int, float]]) -> None:
    ids, numbers = map(list, zip(*values, strict=True))
    found = statistics.mean(units_of(ids, numbers, 31))
    assert found.mean == pytest.approx(math.fsum(numbers) / len(numbers), abs=1e-6)
    back = statistics.mean(units_of(ids[::-1], numbers[::-1], 31))
    assert back.error == pytest.approx(found.error, abs=1e-6)
    assert found.low <= found.mean + 1e-6
    assert found.mean <= found.high + 1e-6


FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=120)


@given(FLOATS, FLOATS)
def test_any_numbers_have_a_mean_and_an_interval_around_it_without_a_warning(
    now: Numbers, before: Numbers
) -> None:
    one, other = (units_of(range(len(values)), values, 120) for values in (now, before))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = statistics.mean(one)
        estimates = [found, statistics.difference(one, other)]
        assert not np.isnan(one.means).any()
    for each in estimates:
        figures = (each.mean, each.error, each.low, each.high, each.smallest_difference)
        assert not any(map(math.isnan, figures))
        nearly = 1e-9 * max(map(abs, now + before))
        assert each.low - nearly <= each.mean <= each.high + nearly
    mean = math.fsum(value / len(now) for value in now)
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-12 * max(map(abs, now)) + 1e-320)


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e154, 1e300])
def test_an_interval_grows_with_its_values(factor: float) -> None:
    values = [math.sin(at) for at in range(60)]
    plain = statistics.mean(units(values))
    found = statistics.mean(units([value * factor for value in values]))
    for name in ("mean", "error", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name) * factor, rel=1e-9)


# --- gathering ------------------------------------------------------------------------------------

SKIP = frozenset(["id", "seconds"])


def test_numbers_are_gathered_by_metric_and_id() -> None:
    scores = statistics.Scores(["a", "b", "c"])
    scores.add("b", {"id": "b", "acc": True, "text": "x", "seconds": 3}, SKIP)
    scores.add("a", {"id": "a", "acc": 0, "f1": 0.5}, SKIP)
    scores.add("a", {"id": "a", "acc": None, "f1": float("nan"), "nan": ["acc"]}, SKIP)
    scores.add("c", {"id": "c", "f1": 10**400}, SKIP)
    scores.add("x", {"id": "x", "acc": 1}, SKIP)
    assert scores.metrics == ["acc", "f1"]
    assert scores.unknown == ["x"]
    assert (scores.nan("acc"), scores.nan("f1")) == (1, 2)
    assert scores.without("acc") == ["c"]
    assert scores.without("f1") == ["b", "c"]
    assert statistics.mean(scores.units("acc")).mean == 0.5


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_any_number_of_shards_gives_the_same_figures(parts: int) -> None:
    names = [f"q{at}" for at in range(500)]
    rng = random.Random(8)
    records = [(name, {"id": name, "f1": rng.random()}) for name in names]
    whole, sharded = statistics.Scores(names), statistics.Scores(names)
    for name, record in records:
        whole.add(name, record, SKIP)
    for part in range(parts):
        for name, record in records[part::parts]:
            sharded.add(name, record, SKIP)
    assert statistics.mean(sharded.units("f1")) == statistics.mean(whole.units("f1"))
