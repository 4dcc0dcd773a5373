"""Logs that a kubelet rotates, lines in pieces, stamps that cross: each line once, or a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from kij_train.cluster import Cluster
from kij_train.cluster.logs import ContainerLife, LogChoice, LogLine, Reader
from kij_train.errors import UnreachableError

from tests.unit.test_client import Chunks, Logs

STARTED = {"startedAt": "2026-01-01T00:00:00Z"}
RUNS = ContainerLife(1767225600.0, ended=False)
PIECE = "x" * 16384


class File:
    """A container's log as a kubelet gives it: lines of pieces with a time each, cut by rotation.

    Modelled on ReadLogs of k8s.io/cri-client/pkg/logs: `since` and `tailLines` choose pieces, and
    pieces up to a line's last one come as one line with the first one's stamp.
    """

    def __init__(self, *pieces: tuple[str, str, bool]) -> None:
        self.pieces = list(pieces)
        """Seconds, text, and whether the line ends there."""
        self.breaks_after: int | None = None
        """How many lines of the next answer come before the connection breaks."""
        self.asked = 0

    def stream_log(self, _pod: str, **query: str) -> Chunks:
        self.asked += 1
        chosen = self.pieces[-int(query["tailLines"]) :] if "tailLines" in query else self.pieces
        since = query.get("sinceTime", "").removesuffix("Z")
        lines, new = [b""], True
        for second, text, ends in chosen:
            if f"2026-01-01T00:00:{second}" < since:
                continue
            stamp = f"2026-01-01T00:00:{second}Z ".encode() if new else b""
            lines[-1] += stamp + text.encode()
            new = ends
            if ends:
                lines[-1] += b"\n"
                lines.append(b"")
        breaks, self.breaks_after = self.breaks_after, None
        return Chunks(*(lines if breaks is None else lines[:breaks]), breaks=breaks is not None)


def lines_of(*seconds: str) -> list[tuple[str, str, bool]]:
    return [(second, f"line {second}", True) for second in seconds]


class Reading:
    """A reader of a file, its lines and notes so far."""

    def __init__(
        self, file: File | Logs, choice: LogChoice | None = None, life: ContainerLife | None = None
    ) -> None:
        self.notes: list[str] = []
        self.texts: list[str] = []
        cluster = cast(Cluster, file)
        self._reader = Reader(
            cluster, "pod", 0, choice or LogChoice(), note=self.notes.append, life=life
        )

    def read(self, *, follow: bool = False) -> None:
        lines: Iterator[LogLine] = self._reader.read(follow=follow)
        self.texts += [line.text for line in lines]

    def read_until_it_breaks(self) -> None:
        lines = self._reader.read(follow=True)
        with pytest.raises(UnreachableError):
            for line in lines:
                self.texts.append(line.text)


def test_lines_that_were_rotated_away_while_the_connection_was_broken_are_missed() -> None:
    file = File(*lines_of("01.1", "01.2", "01.3"))
    file.breaks_after = 2
    reading = Reading(file)
    reading.read_until_it_breaks()
    file.pieces = lines_of("04.0", "05.0")
    reading.read(follow=True)
    assert reading.texts == ["line 01.1", "line 01.2", "line 04.0", "line 05.0"]
    (note,) = reading.notes
    assert "rotated while nothing was read" in note
    assert "between 2026-01-01T00:00:01.2Z and 2026-01-01T00:00:04.0Z may be missing" in note


def test_a_break_without_rotation_is_not_worth_a_word() -> None:
    file = File(*lines_of("01.1", "01.2", "01.3", "02.0"))
    file.breaks_after = 2
    reading = Reading(file, life=ContainerLife(1767225600.0, ended=True))
    reading.read_until_it_breaks()
    reading.read()
    reading.read()
    assert reading.texts == ["line 01.1", "line 01.2", "line 01.3", "line 02.0"]
    assert reading.notes == []


def test_the_end_that_was_rotated_away_is_missed() -> None:
    file = File(*lines_of("01.1", "01.2"))
    file.breaks_after = 1
    reading = Reading(file)
    reading.read_until_it_breaks()
    file.pieces = []
    reading.read()
    assert ["lines after 2026-01-01T00:00:01.1Z may be missing" in n for n in reading.notes] == [
        True
    ]


def test_a_log_without_its_beginning_says_so() -> None:
    reading = Reading(File(*lines_of("09.0", "09.5")), life=RUNS)
    reading.read()
    assert reading.texts == ["line 09.0", "line 09.5"]
    (note,) = reading.notes
    assert "its log begins at 2026-01-01T00:00:09.0Z" in note


@pytest.mark.parametrize(
    ("first", "choice", "life"),
    [
        (("09.0", "kij-train: index 0 of 1", True), LogChoice(), RUNS),
        (("01.0", "ld.so: a word of the loader", True), LogChoice(), RUNS),
        (("09.0", "any line", True), LogChoice(since_s=60), RUNS),
        (("09.0", "any line", True), LogChoice(tail=1), RUNS),
        (("09.0", "any line", True), LogChoice(), None),
    ],
)
def test_a_log_that_may_be_whole_is_not_doubted(
    first: tuple[str, str, bool], choice: LogChoice, life: ContainerLife | None
) -> None:
    reading = Reading(File(first, *lines_of("10.0")), choice, life)
    reading.read()
    assert reading.notes == []


def test_a_log_of_which_nothing_is_left_says_so() -> None:
    reading = Reading(File(), life=ContainerLife(1767225600.0, ended=True))
    reading.read()
    assert reading.notes == ["index 0: nothing is left of its log: the machine has rotated it away"]


def test_what_is_known_of_a_container_comes_from_its_pod() -> None:
    def pod(state: dict[str, object]) -> dict[str, object]:
        statuses = [{"name": "other"}, {"name": "train", "state": state}]
        return {"status": {"containerStatuses": statuses}}

    assert ContainerLife.of(pod({"running": STARTED})) == RUNS
    assert ContainerLife.of(pod({"terminated": STARTED})) == ContainerLife(RUNS.started, ended=True)
    assert ContainerLife.of(pod({"waiting": {}})) is None


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 9])
def test_the_tail_counts_lines_and_not_their_pieces(tail: int, follow: bool) -> None:
    long = [("02.0", PIECE, False), ("02.1", PIECE, False), ("02.2", "end of the first", True)]
    more = [("03.0", PIECE, False), ("03.1", "end of the second", True)]
    file = File(*lines_of("01.0"), *long, *more, *lines_of("04.0"))
    whole = Reading(file)
    whole.read()
    assert [len(text) for text in whole.texts] == [9, 2 * 16384 + 16, 16384 + 17, 9]
    reading = Reading(file, LogChoice(tail=tail))
    reading.read(follow=follow)
    assert reading.texts == whole.texts[len(whole.texts) - min(tail, 4) :]
    file.pieces += lines_of("04.5")
    if follow:
        reading.read(follow=True)
        assert reading.texts[-1] == "line 04.5"


def test_stamps_of_stdout_and_stderr_that_cross_lose_and_repeat_nothing() -> None:
    crossed = lines_of("01.5", "01.4", "01.9", "01.6", "01.6", "02.0")
    for breaks in range(len(crossed)):
        file = File(*crossed)
        file.breaks_after = breaks
        reading = Reading(file)
        reading.read_until_it_breaks()
        reading.read()
        assert reading.texts == [text for _, text, _ in crossed]
        assert reading.notes == []
