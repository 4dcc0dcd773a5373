"""Who is slow: simulated ranks whose heartbeats are looked at every two seconds."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

import pytest
from kij_train.pod.gang import pace
from kij_train.pod.gang.pace import Beat, Clocks, Pace, Slow

Seconds = Callable[[int, int], float]
"""How long a rank works in a step, by its number and that of the step."""


def beats_of(ranks: int, works: Seconds, until: float, waits: bool) -> list[list[float]]:
    """rank → when it ended each step; those that wait begin the next one together."""
    ends: list[list[float]] = [[] for _ in range(ranks)]
    began = [0.0] * ranks
    step = 0
    while min(began) < until:
        for rank in range(ranks):
            ends[rank].append(began[rank] + works(rank, step))
        began = [max(each[-1] for each in ends)] * ranks if waits else [e[-1] for e in ends]
        step += 1
    return ends


def looks(
    ends: list[list[float]], until: float, every: float = 2.0, begins: float = 1.0
) -> list[tuple[float, list[Slow]]]:
    """What is said at each look, and when."""
    watch, now, found = Pace(), begins, []
    while now < until:
        beats = []
        for rank, times in enumerate(ends):
            done = bisect_right(times, now)
            if done:
                beats.append(Beat(rank, done, times[done - 1]))
        found.append((now, watch.look(beats, now)))
        now += every
    return found


@pytest.mark.parametrize("step_s", [0.05, 0.7, 5.0])
def test_ranks_that_go_alike_are_not_named(step_s: float) -> None:
    noise = random.Random(7)
    ends = beats_of(16, lambda *_: step_s * noise.uniform(0.97, 1.03), 120 * step_s + 60, True)
    assert [slow for _, some in looks(ends, 120 * step_s) for slow in some] == []


@pytest.mark.parametrize("ranks", [2, 3, 64])
@pytest.mark.parametrize(("step_s", "more"), [(0.1, 0.05), (1.0, 0.3), (1.0, 4.0), (6.0, 2.0)])
def test_the_rank_that_others_wait_for_is_named_with_what_it_costs(
    ranks: int, step_s: float, more: float
) -> None:
    noise = random.Random(3)

    def works(rank: int, step: int) -> float:
        return step_s * noise.uniform(0.98, 1.02) + (more if rank == 1 else 0)

    until = 40 * (step_s + more) + 40
    (slow,) = looks(beats_of(ranks, works, until, True), until - 5)[-1][1]
    assert slow.rank == 1
    assert slow.behind < pace.BEHIND
    assert slow.late_s == pytest.approx(more, rel=0.35)
    assert slow.step_s == pytest.approx(step_s + more, rel=0.2)
    assert "later than the median in each step of" in slow.text()


def test_when_it_began_and_that_it_is_over_are_told() -> None:
    def works(rank: int, step: int) -> float:
        return 0.5 + (0.4 if rank == 2 and 100 <= step < 200 else 0)

    ends = beats_of(4, works, 200, True)
    said = looks(ends, 190)
    named = [now for now, some in said if some]
    began, ended = ends[2][99], ends[2][199]
    assert began < named[0] < began + 2 * 2 * pace.LOOKS
    assert ended <= named[-1] < ended + 2 * 2 * pace.LOOKS
    (slow,) = next(some for _, some in said if some)
    assert began <= slow.since <= named[0]
    assert 100 <= slow.step <= 130
    assert {one.since for _, some in said for one in some} == {slow.since}


def test_a_rank_that_nobody_waits_for_falls_behind() -> None:
    ends = beats_of(8, lambda rank, _: 1.5 if rank == 5 else 1.0, 100, False)
    (slow,) = looks(ends, 80)[-1][1]
    assert slow.rank == 5
    assert slow.behind == pytest.approx(79 / 3, abs=2)
    assert "steps behind the median, whose step takes 1 s" in slow.text()


def test_a_pause_of_all_such_as_a_checkpoint_makes_nobody_slow() -> None:
    ends = beats_of(8, lambda _, step: 30.0 if step % 20 == 19 else 0.5, 300, True)
    assert [slow for _, some in looks(ends, 290) for slow in some] == []


def test_one_late_step_makes_nobody_slow() -> None:
    def works(rank: int, step: int) -> float:
        return 0.5 + (5 if rank == 3 and step % 60 == 30 else 0)

    assert [slow for _, some in looks(beats_of(8, works, 200, True), 190) for slow in some] == []


def test_a_rank_alone_and_ranks_that_stand_still_are_not_compared() -> None:
    watch = Pace()
    assert [watch.look([Beat(0, step, float(step))], step + 0.5) for step in range(9)] == [[]] * 9
    assert watch.rate(0) == pytest.approx(1.0)
    assert watch.rate(1) is None
    still = [Beat(0, 5, 1.0), Beat(1, 4, 0.5)]
    assert [Pace().look(still, 10.0 * n) for n in range(9)] == [[]] * 9


def test_a_rank_that_goes_back_to_a_checkpoint_begins_anew() -> None:
    watch = Pace()
    for step in range(10):
        watch.look([Beat(0, step, float(step)), Beat(1, step, float(step))], float(step))
    for step in range(3, 8):
        at = 20.0 + step
        assert watch.look([Beat(0, step, at), Beat(1, step, at)], at) == []
    assert watch.rate(0) == pytest.approx(1.0)


def test_clocks_that_differ_and_messages_that_are_late_are_made_up_for() -> None:
    clocks, delays = Clocks(), random.Random(1)
    found = [
        clocks.here("a", 1000.0 + n, 5.0 + n + (0.001 if n == 3 else delays.uniform(0.001, 0.5)))
        for n in range(20)
    ]
    assert found[-1] == pytest.approx(-995.0, abs=0.002)
    assert clocks.here("b", 3.0, 3.0) == 0.0
