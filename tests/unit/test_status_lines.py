"""Lines that one end writes and the other one reads: both ends, through each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.diagnosis.causes import of_message
from kij_train.pod import rank0
from kij_train.pod.contract import Failure
from kij_train.pod.stacks import RankNow
from kij_train.pod.status import (
    ORIGIN,
    PREFIX,
    Attempt,
    Exited,
    Fetched,
    Fetching,
    Installed,
    Installing,
    Unheard,
    WaitingForRank0,
    no_torch,
    step_of,
    still_installing,
)

COUNTS = st.integers(0, 10**9)
LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
HOSTS = st.from_regex(r"[a-z0-9.-]+|[0-9a-f:]{2,39}", fullmatch=True)
ATTEMPTS = st.builds(Attempt, HOSTS, LINES, st.just(False)) | st.builds(
    lambda host, port, error: Attempt(f"{host} port {port}", error, True),
    HOSTS,
    st.integers(1, 65535),
    LINES,
)


@given(st.builds(WaitingForRank0, COUNTS, ATTEMPTS), LINES)
def test_a_wait_for_rank_0_is_read_as_it_was_said(waiting: WaitingForRank0, other: str) -> None:
    assert WaitingForRank0.read(PREFIX + waiting.text()) == waiting
    assert WaitingForRank0.read(f"{PREFIX}error: {other}") is None


@given(
    st.sampled_from(["", "packages"]),
    st.integers(0, 100),
    st.integers(0, 2**50),
    st.floats(0, 1e12),
    st.sampled_from([ORIGIN, "index 7"]),
    LINES,
)
def test_how_far_a_fetch_is_is_read_as_it_was_said(
    label: str, percent: int, total: int, bytes_s: float, whence: str, other: str
) -> None:
    said = Fetching(label, percent, total, bytes_s, whence).text()
    assert said.startswith(f"fetching{label and f' {label}:'} {percent} % of ")
    assert Fetching.read(PREFIX + said) == Fetched(label, percent, whence)
    assert Fetching.read(f"{PREFIX}error: {other}") is None


@given(st.builds(Exited, LINES, COUNTS), LINES, LINES)
def test_the_end_of_a_command_is_found_in_a_log(ended: Exited, before: str, after: str) -> None:
    lines = [before, PREFIX + ended.text(), after]
    assert Exited.find("\n".join(lines)) == ended
    assert Exited.find(f"{before}\n{ended.text()}") is None


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.builds(Unheard, COUNTS, HOSTS, NAMES | st.just("")), LINES)
def test_a_pod_that_fell_silent_is_read_as_it_was_said(unheard: Unheard, other: str) -> None:
    assert Unheard.read(PREFIX + unheard.text()) == unheard
    assert Unheard.read(f"{PREFIX}round {other}") is None
    assert Unheard.read(f"{other} {PREFIX}{unheard.text()}") is None


PINS = st.from_regex(r"[a-z][a-z0-9-]*==[0-9.]+", fullmatch=True)


@given(COUNTS, st.lists(PINS), LINES)
def test_what_was_installed_is_read_as_it_was_said(
    seconds: int, lock: list[str], other: str
) -> None:
    for received in (False, bool(lock)):
        installed = Installed(seconds, tuple(lock), received)
        assert Installed.read(PREFIX + installed.text()) == installed
    assert Installed.read(f"{PREFIX}error: {other}") is None


@given(COUNTS, LINES)
def test_what_a_pod_does_before_its_ranks_start_is_told_by_its_newest_line(
    seconds: int, source: str
) -> None:
    for line in (Installing(source).text(), still_installing(seconds)):
        assert step_of(PREFIX + line) == "installing"
        assert step_of(f"3 | {PREFIX}{line}") == "installing"
    fetching = Fetching("", 34, 2**30, 1e6, "index 2").text()
    assert step_of(PREFIX + fetching) == "fetching 34 %"
    assert step_of(PREFIX + Installed(seconds, ()).text()) == ""
    assert step_of("loss 3.1") == ""


@given(st.from_regex(r"/[^\n]+", fullmatch=True))
def test_a_node_without_torch_is_known_by_what_it_says(python: str) -> None:
    said = no_torch(python, ImportError("No module named 'torch'"))
    cause = of_message(said)
    assert cause is not None and "an image that has torch" in str(cause.hint)
    broken = of_message(no_torch(python, ImportError("libcudart.so: cannot open")))
    assert broken is None


@given(st.builds(RankNow, COUNTS, COUNTS, st.text(), st.booleans(), st.text()), LINES)
def test_where_a_rank_is_is_read_as_it_was_said(rank: RankNow, other: str) -> None:
    assert "\n" not in rank.line()
    assert RankNow.read(rank.line()) == rank
    assert RankNow.read(f"Warning: {other}") is None


@pytest.mark.parametrize(
    "line", ["", "[]", "7", "null", '"x"', '{"rank": 1}', '{"rank": [], "stack": ""}']
)
def test_what_says_no_rank_is_left_out(line: str) -> None:
    assert RankNow.read(line) is None


def test_a_node_that_waits_says_so_in_words_that_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rank0, "STILL_WAITING_S", 0.05)
    with pytest.raises(Failure):
        rank0.wait_for_rank0("127.0.0.1", 1, 0.3, nnodes=2)
    said = [WaitingForRank0.read(line) for line in capsys.readouterr().err.splitlines()]
    refused = [one.last.refused and one.last.where for one in said if one is not None]
    assert refused and set(refused) == {"127.0.0.1 port 1"}
