"""What the leader says of slow ranks: in the log, in the accounts of all pods, at the end."""

from __future__ import annotations

import time
from pathlib import Path

from kij_train.pod.gang import History, hang, straggling
from kij_train.pod.gang.history import MOST_SLOW
from kij_train.pod.gang.messages import AskBeats, Beats, Done, Step, Straggling
from kij_train.pod.gang.pace import Beat

from tests.unit.test_gang_leader import Stage, member_round


class Training(Stage):
    """Nodes of two ranks each, whose clocks differ, and which answer what they are asked."""

    def __init__(self, nodes: int, late_s: dict[int, float], steps: bool = True) -> None:
        super().__init__(nodes, nodes)
        self.nodes = [self.join(index) for index in range(nodes)]
        self.late_s = late_s
        self.asked = 0
        self.decide()
        if steps:
            self.leader.take(self.nodes[0], Step(1, 0.0, member_round(self)))

    def train(self, seconds: int) -> None:
        """In steps of a second, with the leader looking twice a second."""
        for _ in range(2 * seconds):
            self.decide(0.5)
            for member in self.nodes:
                told = self.told[member.who.uid]
                asks = [order for order in told if isinstance(order, AskBeats)]
                for ask in asks:
                    told.remove(ask)
                    self.asked += 1
                    self.leader.take(member, self.answer(member.who.node, ask.round))

    def answer(self, node: int, number: int) -> Beats:
        clock = 1000.0 * node
        beats = []
        for rank in (2 * node, 2 * node + 1):
            step = int(self.now - self.late_s.get(rank, 0.0))
            beats.append(Beat(rank, step, clock + step + self.late_s.get(rank, 0.0)))
        return Beats(beats, clock + self.now, number)

    @property
    def straggling(self) -> list[Straggling]:
        return [order for order in self.told["uid-0"] if isinstance(order, Straggling)]


def test_a_slow_rank_is_named_in_the_log_and_told_to_all_pods() -> None:
    stage = Training(4, {5: 0.4})
    stage.train(60)
    (line,) = [said for said in stage.said if "slow" in said]
    assert line.startswith(
        "rank 5 (index 2 on machine-2) is slow: 0.4 s later than the median in each step of 1 s, "
        "40 %, since step "
    )
    assert line.endswith(" into round 1")
    (order,) = stage.straggling
    assert [one.rank for one in order.slow] == [5]
    (kept,) = stage.leader.history.slow
    assert 30 < kept.lasted_s < 60


def test_a_rank_that_keeps_up_again_is_told_and_stays_in_the_accounts() -> None:
    stage = Training(4, {5: 0.4})
    stage.train(60)
    stage.late_s.clear()
    stage.train(60)
    assert "rank 5 is not slow any more, after " in stage.said[-1]
    assert [[one.is_now for one in order.slow] for order in stage.straggling] == [[True], [False]]
    for member in stage.nodes:
        stage.end(member, 0)
    stage.decide()
    verdict = stage.leader.verdict
    assert isinstance(verdict, Done)
    assert "; rank 5 (index 2 on machine-2) was slow for " in verdict.summary
    assert "0.4 s later than the median in each step" in verdict.summary


def test_a_rank_that_is_slow_to_the_end_is_in_the_last_line() -> None:
    stage = Training(2, {3: 0.5})
    stage.train(40)
    for member in stage.nodes:
        stage.end(member, 0)
    stage.decide()
    verdict = stage.leader.verdict
    assert isinstance(verdict, Done)
    assert "; rank 3 (index 1 on machine-1) was slow for " in verdict.summary
    assert History.read(verdict.history.as_json()).slow == verdict.history.slow


def test_ranks_that_go_alike_are_asked_and_not_named() -> None:
    stage = Training(3, {})
    stage.train(40)
    assert not [said for said in stage.said if "slow" in said]
    assert stage.asked == 3 * 20


def test_who_does_not_say_steps_is_not_asked_and_large_jobs_seldom() -> None:
    quiet = Training(3, {}, steps=False)
    quiet.train(20)
    assert quiet.asked == 0
    large = Training(100, {})
    large.train(50)
    assert large.asked == 100 * 50 / (100 * straggling.PER_MEMBER_S)


def test_a_whole_slow_machine_fills_no_log() -> None:
    stage = Training(8, {rank: 0.3 + rank / 100 for rank in range(6)})
    stage.train(60)
    assert len([said for said in stage.said if "slow" in said]) == MOST_SLOW
    assert [one.rank for one in stage.leader.history.slow] == [5, 4, 3]


def test_a_lost_pod_ends_what_was_slow_and_the_next_round_begins_anew() -> None:
    stage = Training(2, {3: 0.5})
    stage.train(40)
    stage.leader.leave(stage.nodes[1])
    stage.decide()
    assert [one.is_now for one in stage.leader.history.slow] == [False]


def test_a_node_tells_the_steps_of_its_ranks_with_their_times(tmp_path: Path) -> None:
    signs = hang.Signs(str(tmp_path))
    assert signs.beats() == []
    (tmp_path / "4").write_text("17\n")
    (tmp_path / "5").touch()  # a sign of life without a step
    (beat,) = signs.beats()
    assert (beat.rank, beat.step) == (4, 17)
    assert abs(time.monotonic() - beat.at) < 300
