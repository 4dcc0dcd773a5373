"""What a sweep seeks: metrics of records and of output."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import objective
from kij_train.arrays.objective import Lack


def test_a_metric_is_a_name_and_a_regular_expression_with_one_group() -> None:
    assert objective.parse_metric(r"loss=loss=(\S+)") == ("loss", r"loss=(\S+)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss", "must be NAME=REGEX"),
        ("=(x)", "must be NAME=REGEX"),
        ("a b=(x)", "must be NAME=REGEX"),
        ("loss=x", "needs one group (…), around the number, and has 0"),
        ("loss=(x)(y)", "and has 2"),
        (
            "loss=a(b",
            "is no regular expression: missing ), unterminated subpattern\n    a(b\n     ^",
        ),
        ("seconds=(x)", "seconds is in every record already"),
    ],
)
def test_a_wrong_metric_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        objective.parse_metric(text)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([{"loss": 2}], 2.0),
        ([{"loss": 3}, {"loss": 2}, {"step": 9}], 2.0),
        ([{"loss": {"val": 4}}, {}], Lack.NAN),
        ([], Lack.MISSING),
        ([{"loss": 3}, {"loss": None, "nan": ["loss"]}], Lack.NAN),
        ([{"loss": None}], Lack.MISSING),
        ([{"loss": "low"}], Lack.NAN),
        ([{"loss": True}], 1.0),
        ([{"loss": float("inf")}], Lack.NAN),
        ([{"loss": 10**400}], Lack.NAN),
    ],
)
def test_the_last_record_with_the_metric_counts(
    records: list[dict[str, Any]], expected: float | Lack
) -> None:
    assert objective.value_of(records, "loss") == expected


def test_a_metric_is_found_within_objects() -> None:
    record = {"eval": {"loss": 1}, "a.b": 2, "key": "x", "seconds": 3, "ok": True, "name": "n"}
    assert objective.value_of([record], "eval.loss") == 1
    assert objective.value_of([record], "a.b") == 2
    assert objective.value_of([record], "name.first") is Lack.MISSING
    assert set(objective.metrics_in([record])) == {"eval.loss", "a.b", "ok", "seconds"}


def test_the_nearest_metric_is_named() -> None:
    error = objective.unknown_metric("lss", ["acc", "loss"], "--min lss")
    assert error.message == "--min lss: no result has the metric lss; did you mean loss?"
    assert error.hints == ("there are: acc, loss",)
    assert "KIJ_RESULT_FILE" in objective.unknown_metric("loss", [], "--min loss").hints[0]


@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=20))
def test_mean_and_error_are_those_of_the_textbook(values: list[float]) -> None:
    found = objective.gather(values)
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e86)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert found.error == pytest.approx(error, rel=1e-6, abs=1e86)


def test_what_is_no_number_is_counted_and_never_averaged() -> None:
    found = objective.gather([1.0, Lack.NAN, 3.0, None, Lack.MISSING, Lack.NAN])
    assert (found.mean, found.nan, found.missing, found.failed) == (2.0, 2, 1, 1)
    assert not found.is_whole
    assert objective.gather([None]).mean is None
    assert objective.gather([1.0]).error is None
    assert objective.gather([1e308, 1e308]).mean == 1e308


def test_smaller_ranks_are_better() -> None:
    assert objective.Objective("loss").rank(1) < objective.Objective("loss").rank(2)
    assert objective.Objective("acc", is_max=True).rank(2) < objective.Objective(
        "acc", is_max=True
    ).rank(1)
