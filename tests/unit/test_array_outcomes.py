"""What became of an array's items: records of several attempts merged by key, and numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import numbers
from kij_train.arrays.outcomes import Outcome, Standing, State, merged
from kij_train.arrays.summary import MOST_CAUSES, histogram, summary_of
from kij_train.pod.itemplan import compress_numbers

PENDING = Standing(State.PENDING)


def record(key: str, attempt: int = 0, **fields: Any) -> dict[str, Any]:
    ours = {"key": key, "index": 0, "attempt": attempt, "seconds": 0.1, "exit_code": 0}
    return {**ours, "machine": "here", **fields}


def failure(key: str, attempt: int = 0, error: str = "ValueError: no", **fields: Any) -> Any:
    return record(key, attempt, **{"exit_code": 1, "error": error, **fields})


def outcomes(
    keys: Sequence[str], records: Sequence[dict[str, Any]], standing: Standing = PENDING
) -> list[Outcome]:
    return list(merged(0, list(enumerate(keys)), records, lambda position: standing))


def only(records: Sequence[dict[str, Any]]) -> Outcome:
    (found,) = outcomes(["a"], records)
    return found


def test_the_newest_success_of_an_item_wins() -> None:
    found = only([record("a", 0, loss=1), record("a", 1, loss=2), failure("a", 2)])
    assert (found.state, found.attempt, found.records[0]["loss"]) == (State.DONE, 1, 2)


def test_without_a_success_the_newest_failure_wins() -> None:
    found = only([failure("a", 0, "first"), failure("a", 1, "second")])
    assert (found.state, found.attempt, found.error) == (State.FAILED, 1, "second")


def test_a_retry_within_an_attempt_takes_the_place_of_what_failed_before() -> None:
    found = only([failure("a"), record("a", loss=3)])
    assert (found.state, len(found.records)) == (State.DONE, 1)


def test_an_item_that_exits_well_with_a_broken_line_has_failed() -> None:
    found = only([record("a", error="result line 3 is no JSON: {")])
    assert (found.state, found.exit_code) == (State.FAILED, 0)
    assert found.error == "result line 3 is no JSON: {"


def test_an_item_of_several_lines_keeps_them_all_and_is_one_item() -> None:
    lines = [record("a", line=0, step=1), record("a", line=1, step=2)]
    (found, other) = outcomes(["a", "b"], [*lines, record("b")])
    assert [each["step"] for each in found.records] == [1, 2]
    assert other.state is State.DONE


def test_an_item_seen_twice_in_one_attempt_is_counted_once() -> None:
    lines = [record("a", line=0), record("a", line=1)]
    assert len(only([*lines, *lines]).records) == 2


def test_an_item_without_a_record_is_what_its_index_is() -> None:
    lost = Standing(State.MISSING, "OOMKilled", 137, "gpu-3")
    done, missing = outcomes(["a", "b"], [record("a")], lost)
    assert done.state is State.DONE
    assert (missing.state, missing.error) == (State.MISSING, "OOMKilled")
    assert (missing.exit_code, missing.machine, missing.seconds) == (137, "gpu-3", None)


def test_records_of_keys_that_the_index_does_not_have_are_left_out() -> None:
    assert [each.key for each in outcomes(["a"], [record("stranger"), record("a")])] == ["a"]


def test_records_that_lack_our_fields_raise_nothing() -> None:
    assert only([{"key": "a", "index": 0}]).state is State.DONE


KEYS = ["a", "b", "c"]
RECORDS = st.lists(
    st.builds(
        lambda key, attempt, bad: failure(key, attempt) if bad else record(key, attempt),
        st.sampled_from(KEYS),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=20,
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_the_order_of_attempts_does_not_matter(records: list[Any], random: Any) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)
    assert outcomes(KEYS, shuffled) == outcomes(KEYS, records)


@given(RECORDS)
def test_merging_what_was_merged_changes_nothing(records: list[Any]) -> None:
    once = outcomes(KEYS, records)
    again = outcomes(KEYS, [dict(each) for one in once for each in one.records])
    assert again == once


@given(RECORDS)
def test_every_item_has_one_outcome_and_none_that_was_done_is_lost(records: list[Any]) -> None:
    found = outcomes(KEYS, records)
    assert [each.key for each in found] == KEYS
    for each in found:
        mine = [one for one in records if one["key"] == each.key]
        well = any("error" not in one for one in mine)
        wanted = State.PENDING if not mine else State.DONE if well else State.FAILED
        assert each.state is wanted


# --- numbers --------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 300), min_size=1))
def test_numbers_come_back_from_their_short_form(found: set[int]) -> None:
    assert numbers.parse(compress_numbers(sorted(found)), below=301) == sorted(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no number"),
        ("3,,4", "'' is no number"),
        ("3-", "'3-' is no number and no range: write it like 3,7-9"),
        ("-3", "'-3' is no number"),
        ("a", "'a' is no number"),
        ("٣", "'٣' is no number"),
        ("9-7", "9-7 goes down: write 7-9"),
        ("3,10", "there is no 10: they go from 0 to 9"),
        ("0-999999999", "there is no 10:"),
        ("0-9999999999", "is no number"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        numbers.parse(text, below=10)


def test_blanks_between_numbers_are_fine() -> None:
    assert numbers.parse("3, 7-8 ,3", below=10) == [3, 7, 8]


# --- the fold -------------------------------------------------------------------------------------


def many(*found: tuple[str, State, str]) -> list[Outcome]:
    return [
        Outcome(at, key, at, state, error, 1 if error else 0, "m", 0, 0.5 + at)
        for at, (key, state, error) in enumerate(found)
    ]


def test_causes_that_differ_by_the_item_alone_are_one() -> None:
    summary = summary_of(
        many(
            ("x-1", State.FAILED, "ValueError: x-1 has 3 rows at 0x7f01"),
            ("ok", State.DONE, ""),
            ("x-2", State.FAILED, "ValueError: x-2 has 17.5 rows at 0x88aa"),
            ("x-3", State.FAILED, "KeyError: 'name'"),
        ),
        lambda error, code: f"{code}: look" if "KeyError" in error else None,
    )
    assert [(cause.items, cause.error, cause.hint) for cause in summary.causes] == [
        (2, "ValueError: x-1 has 3 rows at 0x7f01", None),
        (1, "KeyError: 'name'", "1: look"),
    ]
    assert summary.causes[0].indexes == {0, 2}
    assert not summary.all_well
    assert [one.key for one in summary.slowest] == ["x-3", "x-2", "ok", "x-1"]
    assert summary.quantile(0.5) == 2.5


def test_an_error_of_a_process_of_many_items_that_names_one_of_them_is_one_cause() -> None:
    error = "ValueError: prompt of sum-7 is too long"
    lost = [(f"sum-{at}", State.FAILED, error) for at in range(9)]
    (cause,) = summary_of(many(*lost)).causes
    assert (cause.items, cause.error) == (9, error)
    assert cause.first.key == "sum-7"  # the one that a replay is to be of


@pytest.mark.parametrize("keys", [["0", "1", "2"], ["a", "b", "ha"]])
def test_a_short_key_that_is_in_an_error_by_chance_makes_no_cause(keys: list[str]) -> None:
    error = "attempt 0 has been deleted before it"
    lost = [Outcome(at, key, at, State.MISSING, error) for at, key in enumerate(keys)]
    (cause,) = summary_of(lost).causes
    assert (cause.items, cause.error) == (3, error)


def test_a_million_kinds_of_failure_are_no_million_causes() -> None:
    found = summary_of(
        Outcome(at, "", at, State.FAILED, "E" + "x" * at, 1) for at in range(MOST_CAUSES * 3)
    )
    assert len(found.causes) == MOST_CAUSES + 1
    assert sum(cause.items for cause in found.causes) == MOST_CAUSES * 3
    assert found.causes[0].error == "other causes"


@given(st.lists(st.floats(0, 1e6, allow_nan=False), max_size=60))
def test_a_histogram_counts_every_duration_once(durations: list[float]) -> None:
    bins = histogram(sorted(durations))
    assert sum(each.count for each in bins) == len(durations)
    if bins:
        assert (bins[0].low, bins[-1].high) == (min(durations), max(durations))
        assert all(a.high == b.low for a, b in itertools.pairwise(bins))
