"""Who was first."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kij_train.diagnosis import (
    Failure,
    accounts_at_the_end,
    failures_of_pods,
    first_failure,
    parse_record,
    verdict,
)
from kij_train.diagnosis.failures import traceback_tail

INDEX = "batch.kubernetes.io/job-completion-index"


def failure(index: int, message: str, time: float, rank: int | None = None) -> Failure:
    return Failure(index, rank, message, "", 1, time)


GLOO = "RuntimeError: [/pytorch/gloo/pair.cc:561] Connection closed by peer [10.0.0.3]:49388"


def test_the_earliest_failure_is_the_cause() -> None:
    found = first_failure([failure(0, "ValueError: b", 2.0), failure(1, "ValueError: a", 1.0)])
    assert found is not None
    assert found.index == 1


def test_a_lost_connection_is_never_the_cause_while_there_is_another() -> None:
    found = first_failure([failure(0, GLOO, 1.0), failure(3, "ValueError: bad batch", 1.2)])
    assert found is not None
    assert found.index == 3


def test_where_all_lost_their_connections_the_first_is_reported() -> None:
    found = first_failure([failure(0, GLOO, 2.0), failure(1, GLOO, 1.0)])
    assert found is not None
    assert found.index == 1
    assert first_failure([]) is None


def test_a_record_of_torchs_own_is_read_too() -> None:
    text = json.dumps(
        {
            "message": {
                "message": "ValueError: x",
                "extraInfo": {"py_callstack": "Traceback", "timestamp": "1700000000"},
                "errorCode": 1,
            }
        }
    )
    found = parse_record(text, index=2, pod="p")
    assert found == Failure(2, None, "ValueError: x", "Traceback", None, 1700000000.0, "p")


def test_text_that_is_no_record_gives_none() -> None:
    for text in ("", "{", "[]", "3", '{"message": "x"}', '{"message": {"extraInfo": {"t": 1}}, '):
        assert parse_record(text, index=0) is None
    wrong = '{"message": {"message": "x"}, "kij": {"rank": "many"}}'
    assert parse_record(wrong, index=0) is None


def test_a_hang_is_no_failure_of_who_was_first() -> None:
    hung = replace(failure(1, "no sign of life", 2.0), rank=1, final=True, hung=True)
    assert verdict("a", "1 s", [hung]).startswith("a failed after 1 s · rank 1 (index 1) hung\n")
    nobody = replace(hung, rank=None)
    assert verdict("a", "1 s", [nobody]).startswith("a failed after 1 s · its ranks hung\n")
    record = '{"message": {"message": "x"}, "kij": {"hung": true}}'
    found = parse_record(record, index=1)
    assert found is not None
    assert found.hung


def test_what_a_job_survived_is_not_its_cause() -> None:
    survived = failure(0, "rank 0 was killed by SIGKILL", 1.0)
    last = replace(failure(1, "ValueError: bad", 2.0), final=True)
    told = replace(failure(2, "index 1 failed", 1.5), final=True, rank=None, exit_code=143)
    assert first_failure([survived, last, told]) is last
    assert verdict("a", "1 s", [survived, last, told]).endswith("ValueError: bad")
    record = '{"message": {"message": "x"}, "kij": {"rank": 1, "final": true}}'
    found = parse_record(record, index=1)
    assert found is not None and found.final


def test_a_termination_message_may_hold_anything() -> None:
    for text in ("[" * 4000, "9" * 4096):
        ended = pod(0, exitCode=1, message=text)
        assert failures_of_pods([ended])[0].exit_code == 1
        assert accounts_at_the_end([ended]) is None


def pod(index: int, **terminated: object) -> dict[str, Any]:
    return {
        "metadata": {"name": f"job-{index}-abcde", "labels": {INDEX: str(index)}},
        "status": {"containerStatuses": [{"state": {"terminated": terminated}}]},
    }


def test_pods_without_a_record_are_reported_by_reason_and_exit_code() -> None:
    pods = [
        pod(0, exitCode=0, reason="Completed"),
        pod(1, exitCode=137, reason="OOMKilled", finishedAt="2026-11-23T10:00:00Z"),
        {"metadata": {"name": "job-2-x", "labels": {INDEX: "2"}}, "status": {}},
    ]
    found = failures_of_pods(pods)
    assert [(f.index, f.message) for f in found] == [(1, "OOMKilled, exit code 137")]


def test_the_verdict_names_rank_exception_line_and_followers() -> None:
    cause = Failure(
        index=3,
        rank=13,
        message="ValueError: bad batch",
        callstack='Traceback\n  File "train.py", line 6, in step\nValueError: bad batch\n',
        exit_code=1,
        time=1.0,
        pod="train-3-2nqzd",
    )
    text = verdict("train", "4m11s", [failure(0, GLOO, 1.1, 2), cause])
    assert text.splitlines()[0] == (
        "train failed after 4m11s · rank 13 (index 3, pod train-3-2nqzd) was first"
    )
    assert '    File "train.py", line 6, in step' in text
    assert text.count("ValueError: bad batch") == 1
    assert text.endswith("1 other node failed after it")


def test_a_long_message_is_shortened_and_the_frame_is_still_there() -> None:
    keys = ", ".join(f"layer{number}" for number in range(500))
    message = "\n".join([f"RuntimeError: missing keys: {keys}.", *"abcdefgh"])
    stack = 'Traceback\n  File "train.py", line 6, in load'
    text = verdict("train", "1 s", [Failure(0, 3, message, stack, 1, 1.0)])
    assert "  RuntimeError: missing keys: layer0, " in text
    assert "layer499." in text
    assert "  … all of it is in the output of rank 3\n" in text
    assert max(map(len, text.splitlines())) < 400
    assert text.endswith('    File "train.py", line 6, in load')


def test_no_word_from_any_node_is_said_and_nothing_guessed() -> None:
    assert verdict("a", "1 s", []) == "a failed after 1 s, and no node left a word about why"


def test_a_long_traceback_keeps_its_end() -> None:
    assert traceback_tail("\n".join(str(n) for n in range(100)), "")[-1] == "99"
    assert len(traceback_tail("\n" * 100 + "x", "")) <= 12
