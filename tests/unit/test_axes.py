"""Axes of a sweep: what the text says, and where it is wrong."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kij_train.arrays import axes
from kij_train.errors import RequestError
from kij_train.pod.trials import text_of


def values(text: str) -> list[axes.Value]:
    axis = axes.parse_axis(text)
    assert not isinstance(axis, axes.Continuous)
    return [axis.at(i) for i in range(axis.count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-4,3e-4", [1e-4, 3e-4]),
        ("batch=16", [16]),
        ("opt=adam, sgd", ["adam", "sgd"]),
        ("depth=2..5", [2, 3, 4, 5]),
        ("t=-2..-1", [-2, -1]),
        ("seed=range(3)", [0, 1, 2]),
        ("seed=range(1, 4)", [1, 2, 3]),
        ("p=range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("n=range(9,0,-3)", [9, 6, 3]),
        ("act=choice(relu,gelu)", ["relu", "gelu"]),
        ("dims=[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ('name="a,b",c', ["a,b", "c"]),
        ('version="10",9', ["10", 9]),
        ("version=1.10,007,1.5", ["1.10", "007", 1.5]),
        ("path=../a,../b", ["../a", "../b"]),
        ("model.lr=1", [1]),
        ("+trainer.fast=true", ["true"]),
        ("equation=a=b", ["a=b"]),
        ("call='log(1,2)'", ["log(1,2)"]),
    ],
)
def test_an_axis_has_the_values_that_were_written(text: str, expected: list[axes.Value]) -> None:
    found = values(text)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("lr", "an axis is NAME=VALUES", 2),
        ("=1", "the name of a parameter", 0),
        ("a b=1", "the name of a parameter", 1),
        ("lr=", "lr has no values", 3),
        ("lr=1,,2", "a value is missing here", 5),
        ("lr=1,2,", "a value is missing here", 7),
        ("lr=1e-3,0.001", "0.001 is there twice", 8),
        ("lr=log(0,1)", "0 has no logarithm", 7),
        ("lr=log(-1,1)", "0 has no logarithm", 7),
        ("lr=log(1)", "log has two numbers", 3),
        ("lr=log(1,x)", "x is no number", 9),
        ("lr=log(1,)", "a number is missing", 9),
        ("lr=log(2,1)", "the first end must be below the second", 7),
        ("lr=uniform(1e999,1)", "beyond what a float can be", 11),
        ("lr=uniform(-1e308,1e308)", "too far apart", 11),
        ("lr=lgo(1,2)", "there is no lgo(…); did you mean log?", 3),
        ("lr=log(1,2),3", "log(…) stands alone", 11),
        ("lr=3,log(1,2)", "stands alone", 5),
        ("n=1,2..4", "stands alone", 4),
        ("n=1.5..4", "the ends of a..b are whole numbers", 2),
        ("n=5..2", "the first end is above the last", 2),
        ("n=range()", "a number is missing", 8),
        ("n=range(1,2,3,4)", "one to three numbers", 2),
        ("n=range(1,5,0)", "a step of 0", 12),
        ("n=range(5,1)", "this range is empty", 2),
        ("n=choice()", "choice has no values", 2),
        ("n=[1,2", "this bracket is not closed", 2),
        ("n=[1)", "] was to come before this", 4),
        ('n="a', "this quote is not closed", 2),
        ("n=log(1,2", "this bracket is not closed", 5),
    ],
)
def test_an_error_marks_its_place(text: str, message: str, marked: int) -> None:
    with pytest.raises(RequestError) as raised:
        axes.parse_axis(text)
    said, shown, mark = raised.value.message.split("\n")
    assert message in said
    assert shown == f"    {text}"
    assert mark.index("^") - 4 == marked


def test_the_mark_of_a_long_axis_is_shown_with_its_surroundings() -> None:
    text = "n=" + ",".join(map(str, range(100))) + ",,"
    with pytest.raises(RequestError) as raised:
        axes.parse_axis(text)
    _, shown, mark = raised.value.message.split("\n")
    assert len(shown) < 120
    assert shown[mark.index("^")] == ","


@given(st.text(max_size=60))
def test_any_text_is_an_axis_or_a_request_error(text: str) -> None:
    try:
        axis = axes.parse_axis(text)
    except RequestError as error:
        assert "\n" in error.message
    else:
        assert axis.draw(0.5) is not None


@given(st.text("01259.e-+a,()[]\"' ", max_size=20))
def test_any_values_are_an_axis_or_a_request_error(text: str) -> None:
    try:
        axis = axes.parse_axis("x=" + text)
    except RequestError as error:
        assert "\n" in error.message
    else:
        assert axis.draw(0.999) is not None


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20))
def test_a_number_is_read_back_from_its_own_text(number: float) -> None:
    assert axes.value_of(text_of(number)) == number


@given(st.text(max_size=30) | st.integers().map(str))
@example("9007199254740993")  # which no float is
def test_a_number_is_only_made_of_text_that_says_the_same(text: str) -> None:
    value = axes.value_of(text)
    if isinstance(value, str):
        assert value == text
    else:
        assert Decimal(repr(value)) == Decimal(text)


@given(
    st.floats(1e-12, 1e12), st.floats(1.001, 1e6), st.floats(0, 1, exclude_max=True), st.booleans()
)
def test_what_is_drawn_lies_between_the_ends(low: float, by: float, u: float, log: bool) -> None:
    axis = axes.Continuous("x", low, low * by, is_log=log)
    assert low <= float(axis.draw(u)) <= low * by


def test_the_middle_of_a_logarithmic_axis_is_the_geometric_mean() -> None:
    axis = axes.parse_axis("lr=log(1e-5,1e-1)")
    assert math.isclose(float(axis.draw(0.5)), 1e-3)


@given(st.integers(1, 10**12), st.floats(0, 1, exclude_max=True))
def test_a_draw_from_a_long_range_is_in_it(count: int, u: float) -> None:
    axis = axes.parse_axis(f"x=1..{count}")
    assert 1 <= int(axis.draw(u)) <= count
