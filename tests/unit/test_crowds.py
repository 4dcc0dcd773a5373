"""How long pods of a job that restarts wait for each other, by how many of them there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import gang
from kij_train.pod.gang import peers
from kij_train.pod.gang.history import Who
from kij_train.pod.gang.settings import CROWD

PODS = st.integers(min_value=1, max_value=5000)


def settings(high: int, spares: int = 0) -> gang.Settings:
    return gang.Settings(1, high, spares, ["job-{}.job:1"], max_restarts=1, backoff_limit=1)


def pause_s(pods: int) -> float:
    """How long one of so many pods waits before it looks for a leader again."""
    me = Who(0, "uid", "10.0.0.1", "job-0", "")
    return peers.Peers(settings(pods), me, b"key", lambda verdict: None)._pause_s()


@given(PODS.filter(lambda pods: pods <= peers.FEW))
def test_few_pods_look_for_a_leader_at_the_same_pace_whatever_their_number(pods: int) -> None:
    assert pause_s(pods) == peers.LOOK_AGAIN_S


@given(PODS.filter(lambda pods: pods > peers.FEW))
def test_of_many_pods_each_looks_less_often_and_no_more_of_them_look_at_a_time(pods: int) -> None:
    mean = min(peers.MOST_PAUSE_S, peers.LOOK_AGAIN_S * pods / peers.FEW)
    assert 0.5 * mean <= pause_s(pods) <= 1.5 * mean
    if mean < peers.MOST_PAUSE_S:
        assert pods / mean == pytest.approx(peers.FEW / peers.LOOK_AGAIN_S)


def test_many_pods_do_not_look_all_at_the_same_moment() -> None:
    assert len({pause_s(1000) for _ in range(20)}) > 10


@given(PODS, st.integers(min_value=0, max_value=50))
def test_pods_wait_longer_for_an_answer_only_where_all_of_them_are_a_crowd(
    high: int, spares: int
) -> None:
    crowd = settings(high, spares).crowd
    assert crowd == max(1.0, (high + spares) / CROWD)
    assert crowd > 1 or high + spares <= CROWD
