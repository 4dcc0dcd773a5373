"""Bad input: some of the kinds of tests/fuzz.py. `python -m tests.fuzz` tries them all."""

from __future__ import annotations

import random
from functools import cache
from itertools import islice

import pytest

from tests import badinput, fuzz

PARTS = 6
EACH = 100


@cache
def kinds() -> tuple[badinput.Kind, ...]:
    """All of them; to write their files takes seconds."""
    return tuple(badinput.kinds())


@pytest.mark.parametrize("part", range(PARTS))
def test_no_kind_of_bad_input_does_what_it_must_not(part: int) -> None:
    pool = random.Random(part).sample(kinds(), EACH)
    wrong = []
    with fuzz.bench() as place:
        for kind in pool:
            outcome = place.run(kind)
            if outcome.wrong:
                wrong.append((kind.place, kind.fault, outcome.wrong))
    assert wrong == []


def test_mixtures_of_bad_input_do_not_either() -> None:
    pool, choice = list(kinds()), random.Random(1)
    with fuzz.bench() as place:
        outcomes = [place.run(fuzz.mixed(pool, choice)) for _ in range(EACH)]
    assert [outcome.wrong for outcome in outcomes if outcome.wrong] == []


def test_a_fault_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks themselves: a command that raises, prints an escape, and leaves a file."""

    def broken(argv: list[str]) -> int:
        import sys
        from pathlib import Path

        Path("left").touch()
        print("error: \x1b[2J", file=sys.stderr)
        return 2

    kind = next(islice(badinput.kinds(), 1))
    with fuzz.bench() as place:
        monkeypatch.setattr(fuzz, "main", broken)
        assert place.run(kind).wrong == ("control characters are printed", "files: left")

        def raises(argv: list[str]) -> int:
            raise KeyError("job")

        monkeypatch.setattr(fuzz, "main", raises)
        assert "raised KeyError" in place.run(kind).wrong[0]
