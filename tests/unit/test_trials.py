"""What an item of a sweep has more than others, in the pods."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import trials
from kij_train.pod.trials import Metrics

RECORD = {"key": "a", "index": 0, "attempt": 0, "seconds": 1.0, "exit_code": 0, "machine": "m"}
PATTERNS = [("loss", r"loss (\S+)"), ("acc", r"acc (\d+)")]


def found(*pieces: bytes) -> dict[str, float]:
    metrics = Metrics(PATTERNS)
    for piece in pieces:
        metrics.feed(1, piece)
    return metrics.values()


def test_of_the_output_the_last_number_counts() -> None:
    assert found(b"step 1 loss 3.5\nloss 2 loss 1.5\n", b"done\nacc x\n") == {"loss": 1.5}


def test_the_last_line_needs_no_end_and_a_bar_counts_line_by_line() -> None:
    assert found(b"loss 3\rloss 2\rloss 1") == {"loss": 1}


@given(st.lists(st.integers(0, 60), max_size=5))
def test_pieces_of_any_size_say_the_same(cuts: list[int]) -> None:
    text = b"loss 3.25\nacc 7 loss 1e-3\nfinal loss 0.125\n"
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[one:other] for one, other in itertools.pairwise(at)]
    assert found(*pieces) == {"loss": 0.125, "acc": 7}


def test_streams_do_not_mix_and_the_next_script_begins_anew() -> None:
    metrics = Metrics(PATTERNS)
    metrics.feed(1, b"loss ")
    metrics.feed(2, b"acc 5\n")
    metrics.feed(1, b"4\n")
    assert metrics.values() == {"loss": 4, "acc": 5}
    metrics.forget()
    assert metrics.values() == {}


def test_nan_in_the_output_is_nan() -> None:
    assert math.isnan(found(b"loss 1\nloss nan")["loss"])


@pytest.mark.parametrize("text", [b"of signal", b"-", b"1,5", b"\xff"])
def test_what_is_no_number_in_the_output_is_not_found(text: bytes) -> None:
    assert found(b"loss 1\nloss " + text) == {"loss": 1}


def test_a_record_gets_what_was_found_but_for_what_it_has() -> None:
    record = trials.with_metrics({**RECORD, "loss": 3}, {"loss": 1.0, "acc": 0.5})
    assert record == {**RECORD, "loss": 3, "acc": 0.5}
    record = trials.with_metrics(
        {**RECORD, "f1": None, "nan": ["f1"]}, {"loss": math.nan, "f1": 2.0, "big": math.inf}
    )
    assert record == {**RECORD, "f1": None, "loss": None, "big": None, "nan": ["f1", "loss", "big"]}


def test_parameters_come_before_the_scripts_own_fields_and_keep_their_names() -> None:
    record = trials.with_parameters({**RECORD, "loss": 3, "lr": 0.0}, {"lr": 0.1, "index": 7}, 42)
    assert list(record.items())[6:] == [
        ("lr", 0.1),
        ("param_index", 7),
        ("seed", 42),
        ("loss", 3),
        ("result_lr", 0.0),
    ]
    assert record["index"] == 0


def test_a_seed_among_the_parameters_is_the_one_of_the_record() -> None:
    assert trials.with_parameters(RECORD, {"seed": 2}, 42)["seed"] == 2
