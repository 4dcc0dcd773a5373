"""Quantities and durations."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500m", Decimal("0.5")),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 1.5 * 2**30),
        ("2E", 2 * 10**18),
        ("2Ei", 2 * 2**60),
        ("1e3", 1000),
        ("1E3", 1000),
        (".5", Decimal("0.5")),
    ],
)
def test_quantities_stand_for_what_kubernetes_says(text: str, value: float) -> None:
    assert units.quantity_value(text) == value


@pytest.mark.parametrize(
    ("hard", "used", "left"),
    [
        ("10", "3", "7"),
        ("10", "2500m", "7500m"),
        ("100Gi", "30Gi", "70Gi"),
        ("100Gi", "1536Mi", "100864Mi"),
        ("1Gi", "1", "1073741823"),
        ("1k", "1", "999"),
        ("1e3", "0", "1000"),
        ("4", "4", "0"),
        ("1Gi", "2Gi", "0"),
    ],
)
def test_what_is_left_has_a_unit_of_what_was_given(hard: str, used: str, left: str) -> None:
    assert units.quantity_left(hard, used) == left


@pytest.mark.parametrize("text", ["", "Gi", "1gb", "1 Gi", "-1", "1KI", "1e", "1e999", "٣", "1\n"])
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no Kubernetes quantity"):
        units.quantity_value(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("16gb", "16Gi (binary) or 16G (decimal)"),
        ("16GB", "16Gi (binary) or 16G (decimal)"),
        ("16gib", "16Gi (binary) or 16G (decimal)"),
        ("1.5 g", "1.5Gi (binary) or 1.5G (decimal)"),
        ("512mb", "512Mi (binary) or 512M (decimal)"),
        ("64KB", "64Ki (binary) or 64k (decimal)"),
        ("512m", "512Mi"),
        ("16", "16Gi"),
        ("lots", "Write it like 16Gi"),
        ("0", "more than zero"),
        ("0Gi", "more than zero"),
    ],
)
def test_wrong_memory_is_answered_with_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=meant.replace("(", r"\(").replace(")", r"\)")):
        units.check_memory(text)


@pytest.mark.parametrize("value", ["8", 8, 0.5, "500m", "1.5"])
def test_cores_are_numbers_or_thousandths(value: object) -> None:
    assert units.check_cpu(value) == str(value)


@pytest.mark.parametrize("value", ["0", "eight", "8 cores", "", "0.0001"])
def test_other_cores_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.check_cpu(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90", 90), (90, 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800)],
)
def test_durations(value: object, seconds: int) -> None:
    assert units.parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "0", "0s", "1y", "-5", "30m1h", "1.5h", "99999w"])
def test_other_durations_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse_duration(value)


@given(st.integers(1, 10**6), st.sampled_from(["Ki", "Mi", "Gi", "M", "G", "k"]))
def test_memory_that_is_taken_is_never_zero(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    try:
        assert units.quantity_value(units.check_memory(text)) >= 2**20
    except ValueError:
        assert units.quantity_value(text) < 2**20


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (38 * 1024, "38 KiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (41.3, "41 s"), (75, "1m15s"), (4000, "1h06m")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert units.format_seconds(seconds) == text
