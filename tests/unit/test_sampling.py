"""Points drawn from a space."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import extras
from kij_train.arrays import points, sampling
from kij_train.arrays.axes import parse_axis
from kij_train.errors import RequestError

METHODS = pytest.mark.parametrize("method", sampling.METHODS)


def space(*axes: str, rows: list[points.Point] | None = None) -> points.Space:
    return points.space_of(list(map(parse_axis, axes)), rows or [])


WIDE = space("lr=log(1e-5,1e-1)", "depth=2..8", "drop=uniform(0,0.5)", "opt=adam,sgd")


@METHODS
def test_the_same_seed_draws_the_same_points_and_another_seed_others(
    method: sampling.Method,
) -> None:
    drawn = sampling.sample(WIDE, 20, method=method, seed=3)
    assert drawn == sampling.sample(WIDE, 20, method=method, seed=3)
    assert drawn != sampling.sample(WIDE, 20, method=method, seed=4)


@METHODS
def test_a_larger_sample_begins_with_the_smaller_one(method: sampling.Method) -> None:
    assert sampling.sample(WIDE, 40, method=method)[:9] == sampling.sample(WIDE, 9, method=method)


@METHODS
@given(count=st.integers(1, 34), seed=st.integers(0, 2**32))
def test_points_that_are_drawn_differ_and_are_of_the_space(
    method: sampling.Method, count: int, seed: int
) -> None:
    small = space("a=1..5", "b=x,y", rows=[{"c": 1}, {"c": 2}, {"c": 3.5}])
    drawn = sampling.sample(small, min(count, 29), method=method, seed=seed)
    keys = {points.key_of(point) for point in drawn}
    assert len(keys) == min(count, 29)
    assert keys <= {points.key_of(point) for point in points.grid(small)}


def test_points_of_random_are_those_of_every_python() -> None:
    assert sampling.sample(space("a=uniform(0,1)"), 2, seed=1) == [{"a": 0.13436}, {"a": 0.84743}]


def test_a_sobol_sequence_has_a_point_in_every_part() -> None:
    drawn = sampling.sample(space("a=uniform(0,1)"), 64, method="sobol", seed=5)
    assert sorted(int(float(point["a"]) * 64) for point in drawn) == list(range(64))


@METHODS
@pytest.mark.parametrize("count", [6, 7])
def test_a_sample_of_all_that_there_is_is_refused(method: sampling.Method, count: int) -> None:
    with pytest.raises(RequestError, match="there are only 6 points"):
        sampling.sample(space("a=1..3", "b=1,2"), count, method=method)


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_a_sample_of_nothing_or_too_much_is_refused(count: int) -> None:
    with pytest.raises(RequestError, match="must be from 1 to 1,000,000"):
        sampling.sample(WIDE, count)


def test_a_space_that_has_fewer_points_than_it_seems_says_so() -> None:
    tiny = space("a=uniform(1,1.0000000000000002)")
    with pytest.raises(RequestError, match="different points were found"):
        sampling.sample(tiny, 10)


def test_without_scipy_sobol_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda package: False)
    with pytest.raises(RequestError, match="--sampler sobol needs scipy") as raised:
        sampling.sample(WIDE, 2, method="sobol")
    assert "pip install 'kij-train[stats]'" in raised.value.hints[0]
    assert raised.value.hints[1] == "or: --sampler random"
    sampling.sample(WIDE, 2)
