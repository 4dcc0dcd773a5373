"""What a job that restarts has spent its time on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kij_train.diagnosis import JobState, Verdict, accounts_at_the_end, accounts_now, as_json
from kij_train.pod.gang import History

SPENT: dict[str, Any] = {
    "rounds": 3,
    "failures": 1,
    "training_s": 90.0,
    "waiting_s": 5.0,
    "restarting_s": 5.0,
    "blame": {"gpu-node-7": [2, 4.0]},
}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            "training",
            "trained 0:03:10 (95 %, 20 % of it again), waited 5.0 s, restarted 2 times",
        ),
        (
            "restarting",
            "trained 90.0 s (45 %, 42 % of it again), waited 5.0 s, restarted 2 times",
        ),
    ],
)
def test_the_time_since_the_last_word_counts(state: str, text: str) -> None:
    spent = {**SPENT, "step": 900, "again_s": 30.0}
    said = {"history": spent, "state": state, "since": 1000.0, "again_s": 8.0}
    history = accounts_now(json.dumps(said), 1100.0)
    assert str(history).startswith(text)
    assert str(history).endswith("; gpu-node-7 cost 2 restarts, 4.0 s")


@pytest.mark.parametrize("said", ["", "{}", "[]", '{"history": 1, "since": 2, "state": "x"}'])
def test_what_no_supervisor_wrote_is_nothing(said: str) -> None:
    assert accounts_now(said, 1.0) is None


def pod(message: str) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": {"terminated": {"message": message}}}]}}


def test_at_the_end_the_newest_last_words_count() -> None:
    old = {"kij": {"accounts": {**SPENT, "rounds": 1}}}
    new = {"message": {"message": "x"}, "kij": {"accounts": SPENT}}
    pods = [pod(json.dumps(new)), pod(json.dumps(old)), pod("no JSON"), pod('{"kij": {}}'), {}]
    history = accounts_at_the_end(pods)
    assert history is not None
    assert history.rounds == 3
    assert accounts_at_the_end([]) is None


def test_the_verdict_has_them_last() -> None:
    verdict = Verdict(JobState.RUNNING, "it trains", accounts=History(SPENT))
    assert verdict.text().splitlines() == ["it trains", "", f"  {History(SPENT)}"]
    assert as_json(verdict)["accounts"] == {
        "trainingSeconds": 90.0,
        "waitingSeconds": 5.0,
        "restartingSeconds": 5.0,
        "goodput": 0.9,
        "againSeconds": None,
        "step": None,
        "restarts": 2,
        "failures": 1,
        "blame": [{"node": "gpu-node-7", "restarts": 2, "seconds": 4.0}],
    }
    spent = History({**SPENT, "step": 900, "again_s": 30.0})
    told: Any = as_json(Verdict(JobState.RUNNING, "it trains", accounts=spent))["accounts"]
    assert (told["againSeconds"], told["step"]) == (30.0, 900)
    assert as_json(Verdict(JobState.RUNNING, "it trains"))["accounts"] is None
