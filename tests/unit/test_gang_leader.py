"""The leader's decisions: who trains, what a loss or a failure leads to, and the accounts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod.gang import History, Settings
from kij_train.pod.gang.history import Steps, Who, span
from kij_train.pod.gang.leader import (
    ADDRESSES,
    AVOID_AFTER,
    JUDGE_S,
    KILL_AFTER_S,
    LATE_S,
    ORDER_S,
    SETTLE_S,
    STOP_S,
    Leader,
)
from kij_train.pod.gang.messages import (
    AskStacks,
    Done,
    Failed,
    Leaving,
    RanksEnded,
    RankStack,
    Ready,
    Silence,
    Stacks,
    Start,
    Step,
    Stop,
    encode,
)
from kij_train.pod.gang.rounds import Member
from kij_train.pod.gang.silence import STACKS_S

Json = dict[str, Any]


class Stage:
    """A leader, nodes that only write down what they are told, and a clock."""

    def __init__(
        self,
        low: int,
        high: int,
        spares: int = 0,
        max_restarts: int = 3,
        hang_timeout_s: float = 0,
        reserve: int = 0,
        heartbeat: str = "file",
    ) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.told: dict[str, list[Any]] = {}
        self.closed: list[str] = []
        peers = ["job-{}.job:1"]
        settings = Settings(low, high, spares, peers, max_restarts, max_restarts, reserve)
        settings = settings._replace(hang_timeout_s=hang_timeout_s, heartbeat=heartbeat)
        self.leader = Leader(
            settings,
            History(),
            600,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def join(self, index: int, *, uid: str = "", ready: bool = True) -> Member:
        uid = uid or f"uid-{index}"
        told: list[Any] = []
        self.told[uid] = told
        who = Who(index, uid, f"10.0.0.{index}", f"job-{index}", f"machine-{index}")
        member = Member(who, told.append, self.now, lambda: self.closed.append(uid))
        self.leader.join(member, History())
        if ready:
            self.leader.take(member, Ready())
        return member

    def decide(self, after_s: float = 0.0) -> None:
        self.now += after_s
        self.leader.decide()

    def trains(self) -> list[int]:
        current = self.leader.round
        return [member.who.node for member in current.members] if current else []

    def end(self, member: Member, code: int, *, message: str = "", time: float = 0.0) -> None:
        number = member_round(self)
        record: Json = {}
        if message:
            record = {"message": {"message": message}, "kij": {"time": time or self.now}}
        self.leader.take(member, RanksEnded(code, number, record))


def member_round(stage: Stage) -> int:
    assert stage.leader.round is not None
    return stage.leader.round.number


def starts(told: list[Any]) -> list[Start]:
    return [each for each in told if isinstance(each, Start)]


def test_a_round_is_the_lowest_indexes_in_their_order() -> None:
    stage = Stage(2, 2, spares=1)
    for index in (2, 0, 1):
        stage.join(index)
    stage.decide()
    assert stage.trains() == [0, 1]
    assert starts(stage.told["uid-1"])[0].node_rank == 1
    assert starts(stage.told["uid-1"])[0].address == "10.0.0.0"
    (news,) = stage.told["uid-2"]
    assert news.loss is None and news.news.history.rounds == 1
    assert news.news.ips == {0: "10.0.0.0", 1: "10.0.0.1", 2: "10.0.0.2"}


def test_the_first_round_waits_for_a_lower_index_that_is_there() -> None:
    stage = Stage(2, 2, spares=1)
    slow = stage.join(0, ready=False)
    stage.join(1)
    stage.join(2)
    stage.decide(ORDER_S / 2)
    assert stage.trains() == []
    stage.leader.take(slow, Ready())
    stage.decide()
    assert stage.trains() == [0, 1]


def test_a_spare_does_not_take_the_place_of_one_that_is_a_little_late() -> None:
    stage = Stage(2, 2, spares=1)
    stage.join(0)
    stage.join(2)
    stage.decide(LATE_S / 2)
    assert stage.trains() == []
    stage.decide(LATE_S)
    assert stage.trains() == [0, 2]


def test_it_does_not_wait_for_ever() -> None:
    stage = Stage(2, 2, spares=1)
    stage.join(0, ready=False)
    stage.join(1)
    stage.join(2)
    stage.decide(ORDER_S)
    assert stage.trains() == [1, 2]


def test_an_index_of_the_reserve_takes_the_place_of_one_that_is_lost() -> None:
    stage = Stage(2, 2, reserve=3)
    lost, left = stage.join(0), stage.join(1)
    stage.decide()
    stage.leader.leave(lost)
    stage.decide(1)
    stage.end(left, 143)
    stage.join(2)
    stage.decide(2)
    assert stage.trains() == [1, 2]
    assert starts(stage.told["uid-1"])[-1].node_rank == 0
    (said,) = (each for each in stage.said if each.startswith("round 2"))
    assert said == (
        "round 2: indexes 1, 2 train, 2.0 s after round 1; index 2 took the place of index 0"
    )


def test_indexes_of_the_reserve_are_not_waited_for_by_name() -> None:
    stage = Stage(2, 2, spares=1, reserve=3)
    stage.join(7)
    stage.decide(100)
    assert "still waiting for nodes after 100 s: 1 of 2 nodes are there" in stage.said


@pytest.mark.parametrize(
    ("reserve", "lost", "stays"),
    [(1, 0, False), (2, 0, True), (2, 1, False), (5, 0, True), (5, 3, True), (5, 4, False)],
)
def test_one_stays_to_tell_the_others_where_the_job_makes_more_pods_when_all_have_failed(
    reserve: int, lost: int, stays: bool
) -> None:
    """It counts failed indexes: two more must be more than the reserve."""
    stage = Stage(2, 2, max_restarts=reserve, reserve=reserve)
    members = [stage.join(index) for index in (lost, lost + 1)]
    stage.leader.history.failures = reserve
    stage.decide(LATE_S)
    for member in members:
        stage.end(member, 1, message="ValueError: bad")
    stage.decide()
    assert isinstance(stage.leader.verdict, Failed)
    assert stage.leader.verdict.stays == (members[1].who.uid if stays else "")


def test_too_few_nodes_are_no_round() -> None:
    stage = Stage(3, 3, spares=1)
    stage.join(0)
    stage.join(1)
    stage.decide(100)
    assert stage.trains() == []
    assert "still waiting for nodes after 100 s: 2 of 3 nodes are there, without index 2, 3" in (
        stage.said
    )


def test_the_first_round_has_a_deadline() -> None:
    stage = Stage(2, 2)
    stage.join(0)
    stage.decide(600)
    assert isinstance(stage.leader.verdict, Failed)
    assert "not every node came within 600 s" in stage.leader.verdict.text


def test_a_lost_node_is_replaced_by_the_spare_at_once() -> None:
    stage = Stage(2, 2, spares=1)
    first, lost, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.leader.leave(lost)
    stage.decide(10)
    assert stage.told["uid-0"][-1].kill_after_s == 2.0
    stage.end(first, 143)
    stage.decide(1)
    assert stage.trains() == [0, 2]
    assert stage.leader.history.failures == 0
    assert stage.leader.history.blame == {"machine-1": [1, 1.0]}


def test_a_node_that_does_not_end_its_ranks_counts_as_lost() -> None:
    stage = Stage(2, 2, spares=1)
    _, lost, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.leader.leave(lost)
    stage.decide(1)
    stage.decide(KILL_AFTER_S + STOP_S)
    assert stage.trains() == []
    assert sorted(stage.leader.members) == ["uid-2"]
    assert stage.closed == ["uid-0"]  # so that it joins again when they have ended


def test_a_node_that_joins_between_rounds_is_told_what_has_happened() -> None:
    stage = Stage(2, 2)
    first, lost = stage.join(0), stage.join(1)
    stage.decide()
    stage.leader.leave(lost)
    stage.decide(1)
    stage.end(first, 143)
    stage.join(1, uid="new", ready=False)
    stage.decide()
    (news,) = stage.told["new"]
    assert news.news.history.rounds == 1
    assert (news.loss.lost_s, news.loss.culprit.node) == (0, 1)
    assert stage.told["uid-0"][-1].loss is not None
    stage.leader.take(stage.leader.members["new"], Ready())
    stage.decide(3)
    assert stage.trains() == [0, 1]


def test_a_node_that_was_lost_and_is_back_has_no_ranks() -> None:
    """Its loss is heard of after it has joined again."""
    stage = Stage(2, 2, spares=1)
    first, lost, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.join(1)
    stage.leader.leave(lost)
    stage.decide(1)
    assert "lost index 1 (pod job-1 on machine-1), 1.0 s into round 1" in stage.said
    stage.end(first, 143)
    stage.decide()
    assert stage.trains() == [0, 1]
    assert stage.leader.history.failures == 0


def test_a_leader_that_is_cut_off_ends_its_ranks_at_once() -> None:
    """The two others may begin the next round now."""
    stage = Stage(2, 2, spares=1)
    _, second, third = (stage.join(index) for index in range(3))
    stage.decide()
    stage.leader.leave(second)
    stage.decide(1)
    stage.leader.leave(third)
    for _ in range(3):
        stage.decide(0.5)
    stops = [each for each in stage.told["uid-0"] if isinstance(each, Stop)]
    assert [each.kill_after_s for each in stops] == [KILL_AFTER_S, 0.0]
    assert [each.loss.culprit and each.loss.culprit.node for each in stops] == [1, 1]


def test_a_failure_that_a_loss_explains_is_a_loss() -> None:
    stage = Stage(2, 2, spares=1)
    first, lost, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.end(first, 1, message="Connection closed by peer")
    stage.decide()
    assert stage.leader.round is not None and stage.leader.round.broken_at is None
    stage.leader.leave(lost)
    stage.decide(JUDGE_S / 2)
    assert stage.trains() == [0, 2]
    assert stage.leader.history.failures == 0


def test_the_cause_is_the_first_that_is_more_than_a_lost_connection() -> None:
    stage = Stage(2, 2, max_restarts=2)
    stage.leader.history.failures = 2
    first, second = stage.join(0), stage.join(1)
    stage.decide()
    stage.end(first, 1, message="Connection closed by peer", time=1)
    stage.end(second, 1, message="ValueError: bad", time=2)
    stage.decide()
    assert isinstance(stage.leader.verdict, Failed)
    assert stage.leader.verdict.uid == "uid-1"
    assert stage.leader.verdict.stays == "uid-0"
    assert "index 1 (pod job-1 on machine-1) failed" in stage.leader.verdict.text


def test_failures_are_counted_and_losses_are_not() -> None:
    stage = Stage(1, 1, max_restarts=2)
    for turn in range(5):
        member = stage.join(0, uid=f"uid-{turn}")
        stage.decide()
        stage.leader.leave(member)
        stage.decide(1)
    member = stage.join(0, uid="last")
    for _ in range(3):
        stage.decide()
        stage.end(member, 1, message="ValueError: bad")
        stage.decide(JUDGE_S)
    newest = stage.leader.history.newest_failure
    assert (newest["index"], newest["pod"]) == (0, "job-0")
    assert newest["record"]["message"]["message"] == "ValueError: bad"
    assert "(restarted 2 times)" in str(stage.leader.verdict)


def test_all_well_is_done() -> None:
    stage = Stage(2, 2)
    members = [stage.join(0), stage.join(1)]
    stage.decide(5)
    stage.end(members[0], 0)
    stage.decide(10)
    assert stage.trains() == [0, 1]
    stage.end(members[1], 0)
    stage.decide()
    verdict = stage.leader.verdict
    assert isinstance(verdict, Done)
    assert verdict.summary == "trained 10.0 s (67 %), waited 5.0 s"
    assert verdict.history.training_s == 10


def test_one_that_leaves_is_not_chosen_and_has_not_failed() -> None:
    stage = Stage(2, 2, spares=1)
    leaving, other, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.leader.take(leaving, Leaving())
    stage.decide()
    assert stage.trains() == [0, 1]
    stage.end(leaving, 143)
    stage.end(other, 1, message="Connection closed by peer")
    stage.decide()
    assert stage.trains() == [1, 2]
    assert stage.leader.history.failures == 0


def test_one_that_leaves_is_not_waited_for() -> None:
    """It saves a checkpoint, in its own time."""
    stage = Stage(2, 2, spares=1)
    leaving, other, _ = (stage.join(index) for index in range(3))
    stage.decide()
    stage.leader.take(leaving, Leaving())
    stage.end(other, 1, message="Connection closed by peer")
    stage.decide()
    stage.decide(JUDGE_S)
    assert stage.trains() == [1, 2]


def test_a_machine_is_not_blamed_for_a_script() -> None:
    stage = Stage(1, 1)
    member = stage.join(0)
    stage.decide()
    stage.end(member, 1, message="ValueError: bad")
    stage.decide(1)
    assert stage.trains() == [0]
    assert stage.leader.history.failures == 1
    assert stage.leader.history.blame == {}


@pytest.mark.parametrize(
    ("message", "secondary"),
    [("ConnectionError: no database", False), ("gloo: Connection reset by peer", True)],
)
def test_only_a_lost_rank_makes_a_failure_secondary(message: str, secondary: bool) -> None:
    stage = Stage(2, 2, max_restarts=0)
    first, second = stage.join(0), stage.join(1)
    stage.decide()
    stage.end(first, 1, message=message, time=1)
    stage.end(second, 1, message="ValueError: bad", time=2)
    stage.decide()
    assert isinstance(stage.leader.verdict, Failed)
    assert stage.leader.verdict.uid == ("uid-1" if secondary else "uid-0")


def test_the_newest_pod_of_an_index_is_taken() -> None:
    stage = Stage(2, 2)
    stage.join(0)
    stage.join(1, uid="old")
    stage.join(1, uid="new")
    stage.decide()
    assert [len(starts(stage.told[uid])) for uid in ("old", "new")] == [0, 1]


def test_what_an_earlier_round_says_is_not_heard() -> None:
    stage = Stage(1, 1)
    member = stage.join(0)
    stage.decide()
    stage.leader.take(member, RanksEnded(1, 0, {}))
    stage.decide(JUDGE_S)
    assert stage.trains() == [0]


def test_an_elastic_round_waits_a_little_and_then_does_with_fewer() -> None:
    stage = Stage(2, 3)
    stage.join(0)
    stage.join(1)
    stage.decide()
    assert stage.trains() == []
    stage.decide(max(SETTLE_S, ORDER_S))
    assert stage.trains() == [0, 1]
    assert starts(stage.told["uid-1"])[0].nnodes == 2


def test_an_elastic_round_takes_in_who_comes_back() -> None:
    stage = Stage(2, 3)
    members = [stage.join(0), stage.join(2)]
    stage.decide(max(SETTLE_S, ORDER_S))
    stage.join(1)
    stage.decide(1)
    assert stage.trains() == [0, 2]
    assert not any(isinstance(each, Stop) for each in stage.told["uid-0"])
    stage.decide(SETTLE_S)
    assert stage.told["uid-0"][-1].kill_after_s == 30.0
    for member in members:
        stage.end(member, 143)
    stage.decide()
    assert stage.trains() == [0, 1, 2]
    assert stage.leader.history.failures == 0
    assert stage.leader.history.blame == {}


def test_a_gang_takes_in_nobody() -> None:
    stage = Stage(2, 2, spares=1)
    for index in range(3):
        stage.join(index)
    stage.decide()
    stage.decide(100)
    assert stage.trains() == [0, 1]
    assert stage.told["uid-0"] == starts(stage.told["uid-0"])
    assert len(stage.told["uid-0"]) == 1


def test_a_new_leader_goes_on_with_the_accounts_of_the_old_one() -> None:
    settings = Settings(1, 1, 0, ["a:1"], 3, 3)
    history = History(rounds=4, training_s=50.0, failures=1)
    lost = Who(0, "x", "10.0.0.1", "job-0", "machine-7")
    leader = Leader(
        settings,
        history,
        600,
        say=lambda _: None,
        lost=(3.0, lost),
        clock=lambda: 5.0,
    )
    member = Member(
        Who(1, "y", "10.0.0.2", "job-1", "machine-1"), lambda _: None, 5.0, lambda: None
    )
    leader.join(member, History(rounds=2))
    leader.take(member, Ready())
    leader.decide()
    assert leader.round is not None and leader.round.number == 5
    assert str(leader.history) == (
        "trained 50.0 s (96 %, steps that were trained again included), waited 0.0 s, "
        "restarted 4 times in 2.0 s; machine-7 cost 1 restart, 2.0 s"
    )


def test_a_spare_that_leads_takes_over_what_another_one_knows_of_the_last_round() -> None:
    stage = Stage(2, 2, spares=1)
    stage.leader.history.rounds = 3
    for index, trained_s in ((1, 3600.0), (2, 3500.0)):
        who = Who(index, f"uid-{index}", "10.0.0.1", "job", "machine")
        member = Member(who, lambda _: None, 0.0, lambda: None)
        stage.leader.join(member, History(rounds=3, training_s=trained_s))
    assert stage.leader.history.training_s == 3600


def test_a_node_that_slept_does_not_replace_what_the_leader_knows() -> None:
    stage = Stage(2, 2)
    first, slept = stage.join(0), stage.join(1)
    stage.decide()
    stage.end(first, 1, message="ValueError: bad")
    stage.decide(JUDGE_S)
    stage.decide(JUDGE_S)
    stage.decide(KILL_AFTER_S + STOP_S)
    assert (stage.leader.round, stage.leader.history.failures) == (None, 1)
    stage.leader.join(slept, History(rounds=1, training_s=1000.0))
    assert stage.leader.history.failures == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (99.9, "99.9 s"), (100, "0:01:40"), (3725, "1:02:05")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "ready", "end", "fail", "leaving", "wait"]),
        st.integers(0, 4),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_a_round_is_whole(events: list[tuple[str, int]]) -> None:
    """Enough members, each index once, ranks in index order, all with one first address."""
    stage = Stage(3, 4, spares=1, max_restarts=2)
    there: dict[int, Member] = {}
    for turn, (what, index) in enumerate(events):
        member = there.get(index)
        if what == "join" and member is None:
            there[index] = stage.join(index, uid=f"{index}-{turn}", ready=False)
        elif what == "wait":
            stage.decide(index * 8.0)
        elif member is not None and what == "leave":
            stage.leader.leave(there.pop(index))
        elif member is not None and what in ("ready", "leaving"):
            stage.leader.take(member, Ready() if what == "ready" else Leaving())
        elif member is not None and stage.leader.round is not None:
            stage.end(member, 0 if what == "end" else 1)
        stage.decide()
        current = stage.leader.round
        if current is None:
            continue
        nodes = stage.trains()
        assert 3 <= len(nodes) <= 4
        assert nodes == sorted(set(nodes))
        orders = [starts(stage.told[m.who.uid])[-1] for m in current.members]
        assert [order.node_rank for order in orders] == list(range(len(nodes)))
        assert {order.address for order in orders} == {current.members[0].who.ip}
        assert {order.round for order in orders} == {current.number}
    assert stage.leader.history.failures <= 3


# --- hangs ----------------------------------------------------------------------------------------


def stack_of(rank: int, *frames: tuple[str, int, str], state: str = "S (sleeping)") -> RankStack:
    lines = [f'File "{file}", line {line} in {name}' for file, line, name in frames]
    return RankStack(rank, state, lines)


TORCH = "/usr/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"


def in_all_reduce(rank: int) -> RankStack:
    return stack_of(rank, (TORCH, 2800, "all_reduce"), ("/code/train.py", 20, "main"))


def in_load(rank: int) -> RankStack:
    return stack_of(rank, ("/code/train.py", 7, "load"), ("/code/train.py", 12, "main"))


def hanging(max_restarts: int = 3) -> tuple[Stage, list[Member]]:
    stage = Stage(2, 2, spares=1, max_restarts=max_restarts, hang_timeout_s=600)
    members = [stage.join(index) for index in range(3)]
    stage.decide()
    for member in members[:2]:
        stage.leader.take(member, Silence(True, True, 1))
    stage.decide()
    return stage, members


def test_a_hang_is_a_failure_of_the_rank_that_holds_up_the_others() -> None:
    stage, members = hanging()
    assert stage.told["uid-1"][-1] == AskStacks(1)
    stage.leader.take(members[0], Stacks([in_all_reduce(0)], 1))
    stage.decide()
    assert stage.trains() == [0, 1]
    stage.leader.take(members[1], Stacks([in_load(1)], 1))
    stage.decide()
    assert stage.said[-1].startswith(
        "no sign of life for 0:10:00: rank 1 is in load (train.py:7); "
        "rank 0 is in all_reduce, called in main (train.py:20), "
    )
    for member in members[:2]:
        stage.end(member, -15)
    stage.decide(1)
    assert stage.trains() == [0, 1]
    assert stage.leader.history.failures == 1
    assert stage.leader.history.blame == {"machine-1": [1, 1.0]}


def test_a_hang_too_many_is_the_end_with_its_stack() -> None:
    stage, members = hanging(max_restarts=0)
    for member, ranks in zip(members[:2], ([in_all_reduce(0)], [in_load(1)]), strict=True):
        stage.leader.take(member, Stacks(ranks, 1))
    stage.decide()
    for member in members[:2]:
        stage.end(member, -15)
    stage.decide()
    verdict = stage.leader.verdict
    assert isinstance(verdict, Failed)
    assert verdict.text == "rank 1 of index 1 (pod job-1 on machine-1) hung"
    assert verdict.uid == "uid-1"
    assert verdict.record["kij"] == {"hung": True, "rank": 1}
    message = verdict.record["message"]
    assert message["message"].splitlines()[0].endswith("rank 1 is in load (train.py:7)")
    assert message["extraInfo"]["py_callstack"].splitlines() == [
        '  File "/code/train.py", line 12, in main',
        '  File "/code/train.py", line 7, in load',
    ]


def test_one_that_gives_a_sign_of_life_again_is_no_hang() -> None:
    stage, members = hanging()
    stage.leader.take(members[1], Silence(False, True, 1))
    stage.decide(2 * STACKS_S)
    assert stage.trains() == [0, 1]
    assert stage.leader.history.failures == 0
    stage.leader.take(members[1], Silence(True, True, 1))
    stage.decide()
    assert stage.told["uid-0"].count(AskStacks(1)) == 2


def test_nobody_waits_long_for_a_node_that_does_not_say_where_its_ranks_are() -> None:
    stage, _ = hanging()
    stage.decide(STACKS_S)
    assert "no rank says where it is" in stage.said[-1]


def unheard(stage: Stage, members: list[Member]) -> None:
    for member in members:
        stage.leader.take(member, Silence(True, False, member_round(stage)))


def test_before_the_first_sign_of_life_of_a_round_there_is_time_to_start() -> None:
    """Where there was one in a round before: the script gives them, and hangs as it starts."""
    stage = Stage(2, 2, hang_timeout_s=10)
    stage.leader.history.heard = True
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    unheard(stage, members)
    stage.decide(599)
    assert AskStacks(1) not in stage.told["uid-0"]
    stage.decide(1)
    assert AskStacks(1) in stage.told["uid-0"]
    for member, rank in zip(members, (0, 1), strict=True):
        stage.leader.take(member, Stacks([in_load(rank)], 1))
    stage.decide()
    said = stage.said[-1]
    assert said.startswith("no sign of life in the 0:10:00 since the ranks were started, as there")
    for member in members:
        stage.end(member, -15)
    stage.decide()
    assert stage.leader.history.blame == {}
    assert stage.leader.history.failures == 1


@pytest.mark.parametrize("heartbeat", ["file", "output"])
def test_a_script_that_never_gave_a_sign_of_life_is_not_taken_for_a_hang(heartbeat: str) -> None:
    """It may be well, and would be ended again and again. It is said once, with its places."""
    stage = Stage(2, 2, hang_timeout_s=10, heartbeat=heartbeat)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    unheard(stage, members)
    stage.decide(600)
    for member, rank in zip(members, (0, 1), strict=True):
        stage.leader.take(member, Stacks([in_load(rank)], 1))
    stage.decide()
    how = "touch" if heartbeat == "file" else "print, or touch"
    assert stage.said[-1] == (
        "no rank has ever given a sign of life, in the 0:10:00 since they were started: not taken "
        f"for a hang, and none will be noticed until they {how} $KIJ_HEARTBEAT_FILE. Now "
        "ranks 0-1 are in load (train.py:7)"
    )
    said, told = len(stage.said), len(stage.told["uid-0"])
    for _ in range(5):
        stage.decide(1000)
    assert (len(stage.said), len(stage.told["uid-0"])) == (said, told)
    assert stage.trains() == [0, 1]
    assert stage.leader.history.failures == 0


def test_that_it_gives_no_signs_of_life_is_said_in_one_round_alone() -> None:
    stage = Stage(2, 2, hang_timeout_s=10)
    members = [stage.join(index) for index in range(2)]
    for _ in range(2):
        stage.decide()
        unheard(stage, members)
        stage.decide(600)
        stage.decide(STACKS_S)
        for member in members:
            stage.end(member, 1)
        stage.decide(JUDGE_S)
    assert sum("has ever given a sign of life" in line for line in stage.said) == 1
    assert sum("asking where they are" in line for line in stage.said) == 1


def test_a_first_sign_of_life_however_late_makes_a_silence_a_hang() -> None:
    stage = Stage(2, 2, hang_timeout_s=10)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    unheard(stage, members)
    stage.decide(600)
    stage.decide(STACKS_S)
    for silent in (False, True):
        for member in members:
            stage.leader.take(member, Silence(silent, True, 1))
        stage.decide()
    stage.decide(STACKS_S)
    assert stage.said[-1].startswith("no sign of life for 10.0 s: ")
    for member in members:
        stage.end(member, -15)
    stage.decide()
    assert stage.leader.history.failures == 1


def test_a_leader_learns_from_those_that_join_what_the_script_does() -> None:
    stage = Stage(2, 2)
    stage.join(0)
    who = Who(1, "uid-1", "", "job-1", "")
    known = History(heard=True, step=70)
    stage.leader.join(Member(who, lambda _: None, 0.0, lambda: None), known)
    assert (stage.leader.history.heard, stage.leader.history.step) == (True, 70)


def test_a_rank_that_leaves_signs_of_life_to_others_does_not_prolong_a_hang() -> None:
    stage = Stage(2, 2, hang_timeout_s=10)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    for member, ever in zip(members, (True, False), strict=True):
        stage.leader.take(member, Silence(True, ever, 1))
    stage.decide(20)
    assert AskStacks(1) in stage.told["uid-0"]


def test_an_elastic_round_waits_for_what_is_there_and_not_ready() -> None:
    stage = Stage(2, 3)
    stage.join(0)
    stage.join(1, ready=False)
    stage.decide(31)
    assert stage.said == [
        "still waiting for nodes after 31 s: 1 of 2 nodes are ready, without index 1"
    ]


def test_one_silent_node_of_several_is_no_hang() -> None:
    stage = Stage(2, 2, hang_timeout_s=600)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    stage.leader.take(members[0], Silence(True, True, 1))
    stage.decide()
    assert AskStacks(1) not in stage.told["uid-0"]
    stage.end(members[1], 0)  # its ranks are done, so the others hold it up
    stage.decide()
    assert AskStacks(1) in stage.told["uid-0"]


# --- machines that cost much ----------------------------------------------------------------------


def test_a_machine_that_cost_much_waits_as_a_spare() -> None:
    stage = Stage(2, 2, spares=1)
    stage.leader.history.blame = {"machine-0": [AVOID_AFTER, 60.0], "machine-1": [1, 3.0]}
    stage.leader.history.rounds = 3
    for index in range(3):
        stage.join(index)
    stage.decide()
    assert stage.trains() == [1, 2]


def test_a_machine_that_cost_much_is_better_than_none() -> None:
    stage = Stage(2, 2, spares=1)
    stage.leader.history.blame = {"machine-0": [AVOID_AFTER, 60.0]}
    stage.leader.history.rounds = 3
    stage.join(0)
    stage.join(2)
    stage.decide()
    assert stage.trains() == [0, 2]


# --- what is trained again, and what outlives a pod -----------------------------------------------


def test_steps_that_were_done_before_are_trained_again() -> None:
    steps = Steps(100)
    for now, step in enumerate((80, 85, 90, 90, 95, 100, 101, 102)):
        steps.see(step, float(now))
    assert (steps.step, steps.again_s) == (102, 6.0)
    first, resumed = Steps(None), Steps(100)
    for now in range(5):
        first.see(now, float(now))
        resumed.see(101 + now, float(now))
    assert first.again_s == resumed.again_s == 0.0


def test_the_accounts_tell_what_was_trained_again_where_the_step_is_known() -> None:
    stage = Stage(2, 2)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    stage.leader.take(members[0], Step(50, 0.0, 1))
    for member in members:
        stage.end(member, 1)
    stage.decide(100)
    stage.decide(JUDGE_S)
    history = stage.leader.history
    assert history.step == 50
    stage.leader.take(members[0], Step(60, 20.0, 2))
    stage.leader.take(members[0], Step(900, 0.0, 1))  # of the past
    for member in members:
        stage.end(member, 0)
    stage.decide(100)
    assert (history.step, history.again_s, history.training_s) == (60, 20.0, 201.0)
    assert str(history).startswith("trained 0:03:21 (100 %, 10 % of it again), ")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rounds": 1}, "(100 %)"),
        ({"rounds": 2}, "(100 %, steps that were trained again included)"),
        ({"rounds": 2, "step": 7}, "(100 %, none of it again)"),
        ({"rounds": 2, "step": 7, "again_s": 3.0}, "(100 %, 3 % of it again)"),
    ],
)
def test_without_steps_the_accounts_say_that_nobody_knows(said: Json, told: str) -> None:
    assert f"trained 0:01:40 {told}, waited" in str(History(training_s=100.0, **said))


@pytest.mark.parametrize(
    ("shared", "told"),
    [
        (None, "round 1: indexes 0 train"),
        (["/out", "/data"], "round 1: indexes 0 train; all pods share /out, /data"),
        (
            [],
            "round 1: indexes 0 train; nothing is mounted that all pods share: what a lost pod "
            "saved is lost with it",
        ),
    ],
)
def test_a_round_tells_what_outlives_a_pod(shared: list[str] | None, told: str) -> None:
    stage = Stage(1, 1)
    stage.leader.settings = stage.leader.settings._replace(shared=shared)
    stage.join(0)
    stage.decide()
    assert stage.said == [told]


def test_of_many_nodes_only_those_that_may_lead_next_have_their_addresses_told() -> None:
    """And what all of them are told is one object, which is written once."""
    stage = Stage(200, 200, reserve=3)
    for index in [*range(199), 201]:
        stage.join(index)
    stage.decide(LATE_S)
    starts = [told[-1] for told in stage.told.values()]
    assert all(isinstance(each, Start) for each in starts)
    assert set(starts[0].news.ips) == {*range(ADDRESSES), 201}
    assert len({id(each.news) for each in starts}) == 1
    assert len(encode(starts[0])) < 5000


def test_a_job_is_done_where_a_pod_is_lost_after_all_ranks_have_ended_well() -> None:
    stage = Stage(2, 2)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    for member in members:
        stage.end(member, 0)
    stage.leader.leave(members[1])
    stage.decide()
    assert isinstance(stage.leader.verdict, Done)


def test_a_job_is_not_done_where_ranks_ended_well_because_their_pod_has_to_end() -> None:
    stage = Stage(2, 2)
    members = [stage.join(index) for index in range(2)]
    stage.decide()
    stage.leader.take(members[1], Leaving())
    for member in members:
        stage.end(member, 0)
    stage.decide()
    assert stage.leader.verdict is None
    assert "lost index 1" in stage.said[-1]


def test_thousands_of_indexes_are_told_as_ranges() -> None:
    stage = Stage(3000, 3000, spares=2)
    members = [stage.join(index) for index in range(3002)]
    stage.decide()
    assert stage.said[-1].startswith("round 1: indexes 0-2999 train; 2 spares")
    assert len(encode(starts(stage.told["uid-2999"])[0])) < 4096
    stage.leader.leave(members[7])
    stage.decide()
    for member in members:
        if member is not members[7]:
            stage.end(member, 1)
            stage.leader.take(member, Ready())
    stage.decide()
    stage.decide(SETTLE_S)
    assert stage.said[-1].startswith("round 2: indexes 0, 1, 2, 3, 4, 5, 6, 8-3000 train")
    assert stage.leader.history.took_part == [[0, 6], [8, 3000]]
    assert stage.leader.history.taken == [[7, 3000]]
