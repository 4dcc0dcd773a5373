"""Finding the traceback that matters in a log."""

from __future__ import annotations

import pytest
from kij_train.diagnosis.tracebacks import MOST_LINES, first_traceback

TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "    step()",
    "ValueError: bad batch",
]
TORCHRUN = [
    "Traceback (most recent call last):",
    '  File "run.py", line 9, in main',
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    "====",
    "train.py FAILED",
]


@pytest.mark.parametrize("prefix", ["", "[0]:", "[rank3]: ", "[0]:[rank0]: "])
def test_the_ranks_own_is_found_and_torchruns_is_not(prefix: str) -> None:
    lines = ["step 1", *(prefix + line for line in TRACEBACK), *TORCHRUN]
    assert first_traceback(lines) == TRACEBACK
    assert first_traceback([*TORCHRUN, *(prefix + line for line in TRACEBACK)]) == TRACEBACK


def test_lines_of_two_ranks_are_told_apart() -> None:
    other = [line.replace("bad batch", "other") for line in TRACEBACK]
    mixed = [
        line
        for pair in zip(TRACEBACK, other, strict=True)
        for line in (f"[0]:{pair[0]}", f"[1]:{pair[1]}")
    ]
    assert first_traceback(mixed) == TRACEBACK


def test_a_log_without_one_gives_nothing() -> None:
    assert first_traceback([]) == first_traceback(TORCHRUN) == first_traceback(TRACEBACK[:-1]) == []


def test_a_long_one_is_cut_at_the_start() -> None:
    long = [TRACEBACK[0], *(["  frame"] * 100), TRACEBACK[-1]]
    assert len(first_traceback(long)) == MOST_LINES
    assert first_traceback(long)[-1] == TRACEBACK[-1]
