"""Text in pieces as whole lines: nothing is lost but states of a bar that were written over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import lines
from kij_train.lines import Lines

TEXTS = st.text("ab ·\n\r", max_size=60)
PAUSES = st.sampled_from([0.0, 1.0, 30.0])
PIECES = st.lists(st.tuples(st.text("ab ·\n\r", max_size=12), PAUSES), max_size=12)


def read(pieces: list[tuple[str, float]]) -> list[str]:
    """All lines of text that comes in pieces, each with the seconds before it."""
    made, now, found = Lines(), 0.0, []
    for text, pause in pieces:
        now += pause
        found += made.pause(now) + made.feed(text, now)
    return found + made.close()


def shown(text: str) -> list[str]:
    """What a terminal shows of it in the end, line by line, empty lines at the end left out."""
    return [lines.last_state(line) for line in text.split("\n")]


@given(PIECES)
def test_lines_without_a_bar_come_as_they_are_however_they_are_cut(
    pieces: list[tuple[str, float]],
) -> None:
    plain = [(text.replace("\r", ""), pause) for text, pause in pieces]
    whole = "".join(text for text, _ in plain)
    ended = [*whole.split("\n")]
    rest = ended.pop()
    assert read(plain) == ended + ([rest] if rest else [])


@given(PIECES)
def test_of_a_bar_the_last_state_comes_and_only_states_beside_it(
    pieces: list[tuple[str, float]],
) -> None:
    whole = "".join(text for text, _ in pieces)
    found = read(pieces)
    assert not any("\r" in line or "\n" in line for line in found)
    at = 0
    for line in whole.split("\n"):
        last = lines.last_state(line)
        if last and last in found[at:]:
            at = found.index(last, at) + 1
        else:
            assert last == ""
    states = {part for line in whole.split("\n") for part in line.split("\r")}
    # A piece may end within a state, which is shown where the pause behind it is long.
    assert all(any(state.startswith(line) for state in states) for line in found)


@given(TEXTS)
def test_without_a_pause_a_line_has_one_state(text: str) -> None:
    expected = shown(text)
    if not expected[-1]:
        expected.pop()
    assert read([(text, 0.0)]) == expected
    assert read([(character, 0.0) for character in text]) == expected


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("loss 0.3", "loss 0.3"),
        ("", ""),
        ("   ", "   "),
        ("\r  1%\r  2%\r100%", "100%"),
        ("100%\r", "100%"),  # of a line that ends as in Windows
        ("\r100%\r\r", "100%"),
        ("\r 50%\r       \rloss 0.3", "loss 0.3"),  # tqdm.write wipes the bar away first
        ("\r 50%\r       \r", ""),  # and so does a bar that does not stay
    ],
)
def test_the_last_state_is_what_a_terminal_shows(line: str, state: str) -> None:
    assert lines.last_state(line) == state


def test_a_bar_that_goes_on_is_shown_now_and_then_and_a_silent_one_once() -> None:
    made = Lines()
    found = [made.feed(f"\r{second}%", float(second)) for second in range(31)]
    assert [line for lines in found for line in lines] == ["10%", "20%", "30%"]
    assert made.pause(45) == []
    assert made.feed("\r99%", 46) == ["99%"]
    assert made.feed("\n", 47) == []  # its last state was shown


def test_a_bar_of_hours_takes_no_memory() -> None:
    made = Lines()
    for second in range(10_000):
        made.feed(f"{second:0100}\r", 0.0)
    assert len(made._rest) < 1000


def test_a_prompt_is_shown_to_whoever_can_answer() -> None:
    made = Lines(prompt_s=0.5)
    assert made.feed("Name: ", 0.0) == []
    assert made.pause(0.4) == []
    assert made.pause(0.6) == ["Name: "]
    assert made.feed("hello Bob\n", 9.0) == ["hello Bob"]


def test_a_line_without_an_end_comes_in_parts() -> None:
    made = Lines()
    found = made.feed("x" * (2 * lines.LONGEST_LINE + 5), 0.0) + made.close()
    assert list(map(len, found)) == [lines.LONGEST_LINE, lines.LONGEST_LINE, 5]
