"""What a job that restarts has spent its time on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kij_train.diagnosis import (
    JobState,
    JobView,
    Verdict,
    accounts_at_the_end,
    accounts_now,
    as_json,
    of_rounds,
)
from kij_train.pod.gang import History
from kij_train.pod.gang.history import Who

from tests.unit.test_why import situation

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
    verdict = Verdict(JobState.RUNNING, "it trains", accounts=History(**SPENT))
    assert verdict.text().splitlines() == ["it trains", "", f"  {History(**SPENT)}"]
    assert as_json(verdict)["accounts"] == {
        "trainingSeconds": 90.0,
        "waitingSeconds": 5.0,
        "restartingSeconds": 5.0,
        "goodput": 0.9,
        "againSeconds": None,
        "step": None,
        "restarts": 2,
        "failures": 1,
        "places": [],
        "blame": [{"node": "gpu-node-7", "restarts": 2, "seconds": 4.0}],
        "slow": [],
    }
    spent = History(**{**SPENT, "step": 900, "again_s": 30.0})
    told: Any = as_json(Verdict(JobState.RUNNING, "it trains", accounts=spent))["accounts"]
    assert (told["againSeconds"], told["step"]) == (30.0, 900)
    assert as_json(Verdict(JobState.RUNNING, "it trains"))["accounts"] is None


RECORD = {
    "message": {
        "message": "ValueError: bad batch " + "x" * 5000,
        "extraInfo": {"py_callstack": "File a.py, line 1\n" * 500},
    },
    "kij": {"rank": 3, "exit_code": 1, "time": 1090.0},
}


def test_a_job_that_fails_in_every_round_shows_its_newest_failure() -> None:
    told = History(**SPENT)
    told.fail(Who(1, "uid", "10.0.0.1", "job-1-abcde", "gpu-node-7"), RECORD)
    news = json.dumps({"history": told.as_json(), "state": "restarting", "since": 1100.0})
    history = accounts_now(news, 1100.0)
    assert history is not None
    job = JobView(situation("running")["job"])
    (finding,) = of_rounds(job, history, now=1100.0)
    assert finding.kind == "round-failed"
    who = "2 rounds failed, the newest 10 s ago, rank 3 (index 1, pod job-1-abcde): ValueError: "
    assert finding.summary.startswith(who)
    assert "File a.py, line 1" in finding.evidence[-1]
    assert len(news) < 6000
    assert history.brief()["newest_failure"] == {}
    assert of_rounds(job, History(**SPENT), now=1100.0) == []


def test_a_hang_of_nobody_in_particular_is_a_failure_too() -> None:
    history = History()
    history.fail(
        None, {"message": {"message": "no sign of life for 10.0 s"}, "kij": {"hung": True}}
    )
    (finding,) = of_rounds(JobView(situation("running")["job"]), history, now=1100.0)
    assert finding.summary == "1 round failed, the newest: no sign of life for 10.0 s"
