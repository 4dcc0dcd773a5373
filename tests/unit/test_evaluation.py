"""Evaluations: data, baseline, scores, reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml
from kij_train.arrays import evalreport, evaluation, gates, junit
from kij_train.arrays.gates import Verdict
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.report import Report
from kij_train.arrays.summary import summary_of
from kij_train.cli import main
from kij_train.errors import RequestError

IDS = [f"q{number}" for number in range(200)]


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def outcome(name: str, state: State = State.DONE, **fields: Any) -> Outcome:
    record = {"key": name, "id": name, "index": 0, "seconds": 0.1, "exit_code": 0, **fields}
    records = (record,) if state is State.DONE else ()
    return Outcome(IDS.index(name), name, 0, state, records=records)


def evaluated(
    outcomes: list[Outcome], *texts: str, baseline: bytes | None = None
) -> evaluation.Evaluation:
    before = None if baseline is None else evaluation.read_baseline(baseline, "main.jsonl", IDS)
    wanted = [gates.parse_gate(text) for text in texts]
    gates.check(wanted, before)
    scored = evaluation.scores_of(outcomes)
    return evaluation.evaluate(
        scored, wanted, before, lambda positions: [outcomes[at] for at in positions]
    )


ALL_RIGHT = [outcome(name, acc=True, answer=f"answer of {name}") for name in IDS]


# --- data -----------------------------------------------------------------------------------------


def test_data_are_json_lines_with_ids() -> None:
    found = evaluation.read_data(lines({"id": "a", "q": 1}, {"id": 7}), "data.jsonl")
    assert list(found.keys) == ["a", "7"]
    assert next(iter(found)) == ("a", {"id": "a", "q": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data.jsonl has no rows"),
        (b"\n\n", "data.jsonl has no rows"),
        (lines({"id": "a"}, {"q": 1}), 'data.jsonl:2: must be an object of JSON with an "id"'),
        (lines({"id": "a"}, {"id": None}), 'data.jsonl:2: its "id" must be'),
        (lines({"id": "a"}, [1]), 'data.jsonl:2: must be an object of JSON with an "id"'),
        (lines({"id": "a"}, {"id": "b"}, {"id": "a"}), 'data.jsonl:3: "a" is at data.jsonl:1'),
        (b'{"id": "a"}\n{"id": }\n', "data.jsonl:2:8: no JSON"),
    ],
)
def test_data_without_sound_ids_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        evaluation.read_data(content, "data.jsonl")
    assert message in raised.value.message


def test_lines_of_text_are_no_data() -> None:
    with pytest.raises(RequestError, match=r"data.txt:1: must be an object of JSON with an .id"):
        evaluation.read_data(b"just text\n", "data.txt")


def test_a_baseline_of_other_data_is_refused_with_ids() -> None:
    content = lines({"id": "a", "acc": 1}, {"key": "x", "acc": 1})
    with pytest.raises(RequestError) as raised:
        evaluation.read_baseline(content, "main.jsonl", ["a", "b"])
    assert raised.value.message == (
        "--baseline main.jsonl is of other data: the data lacks 1 of its ids (x) and it lacks 1 of "
        "the data's (b)"
    )
    for wrong in (b"x", b"[1]", b'{"acc": 1}'):
        with pytest.raises(RequestError, match=r"--baseline main.jsonl:1"):
            evaluation.read_baseline(wrong, "main.jsonl", ["a"])


def test_failed_records_of_a_baseline_are_no_values() -> None:
    content = lines({"id": "a", "acc": 1}, {"id": "b", "acc": 0, "exit_code": 1, "error": "x"})
    scores = evaluation.read_baseline(content, "main.jsonl", ["a", "b"])
    assert scores.without("acc") == ["b"]
    with pytest.raises(RequestError, match="the baseline cannot be compared with"):
        gates.check([gates.parse_gate("acc drop <= 0.1")], scores)


# --- verdicts -------------------------------------------------------------------------------------


def test_all_right_passes() -> None:
    found = evaluated(ALL_RIGHT, "acc >= 0.9")
    assert found.verdict is Verdict.PASS
    assert evalreport.headline(found) == "pass: 1 gate on 200 ids"
    assert [metric.name for metric in found.metrics] == ["acc"]


@pytest.mark.parametrize("state", [State.FAILED, State.MISSING, State.PENDING])
def test_a_shard_that_died_fails_whatever_the_rest_says(state: State) -> None:
    outcomes = [*ALL_RIGHT[:190], *(outcome(name, state) for name in IDS[190:])]
    for texts in ((), ("acc >= 0.5",)):
        found = evaluated(outcomes, *texts)
        assert found.verdict is Verdict.FAIL
        assert evalreport.headline(found) == (
            "fail: not every id was evaluated: "
            + ", ".join(sorted(["190 done", f"10 {state.value}"], key=lambda t: "done" not in t))
            + " of 200"
        )


def test_an_id_without_the_metric_fails_and_is_named() -> None:
    outcomes = [*ALL_RIGHT[:199], outcome(IDS[199], acc=None, nan=["acc"])]
    found = evaluated(outcomes, "acc >= 0.5")
    assert found.verdict is Verdict.FAIL
    assert "1 value is no number" in evalreport.headline(found)
    header, rows = evalreport.metrics_table(found)
    assert rows[0][header.index("lacks")] == "1 NaN, 1 ids"


def test_the_worst_examples_are_those_that_fell() -> None:
    outcomes = [outcome(n, acc=float(at % 2), answer=f"so: {n}") for at, n in enumerate(IDS)]
    content = lines(*({"id": n, "acc": float(at % 2 or at < 6)} for at, n in enumerate(IDS)))
    found = evaluated(outcomes, "acc drop <= 0.5", baseline=content)
    assert found.verdict is Verdict.PASS
    assert [(one.id, one.value, one.before) for one in found.worst[:4]] == [
        ("q0", 0.0, 1.0),
        ("q2", 0.0, 1.0),
        ("q4", 0.0, 1.0),
        ("q6", 0.0, 0.0),
    ]
    assert evalreport.worst_table(found)[1][0] == ["q0", "0", "1", "answer: so: q0"]
    _, [row] = evalreport.metrics_table(found)
    assert row[4:6] == ["0.515", "-0.015"]


def test_of_a_metric_with_a_limit_above_the_largest_are_the_worst() -> None:
    outcomes = [outcome(name, loss=float(at)) for at, name in enumerate(IDS)]
    assert evaluated(outcomes, "loss <= 500").worst[0].id == IDS[-1]


# --- forms ----------------------------------------------------------------------------------------


def test_the_markdown_has_the_verdict_in_its_first_line_and_fits_a_comment() -> None:
    outcomes = [
        outcome(n, acc=at % 2, answer="<img src=x> @all | " + "long " * 2000)
        for at, n in enumerate(IDS)
    ]
    text = evalreport.as_markdown(
        evaluated(outcomes, "acc >= 0.9"), "my_eval", rest="rest\n" * 20_000
    )
    assert text.startswith("## ❌ my\\_eval: fail: acc >= 0.9: acc is 0.5")
    assert len(text) < 65_536
    assert "<img" not in text
    assert "@all" not in text
    assert "The worst 10 examples" in text


def test_junit_tells_a_gate_that_failed_from_one_that_is_undecided(tmp_path: Path) -> None:
    outcomes = [outcome(n, acc=at % 10 < 8) for at, n in enumerate(IDS)]
    found = evaluated(outcomes, "acc >= 0.5", "acc >= 0.8", "acc >= 0.9", "f1 >= 0")
    about = Report("e", "this machine", 1, 1, "ended", summary_of(outcomes))
    path = tmp_path / "junit.xml"
    path.write_text("".join(junit.pieces(about, outcomes, evalreport.checks(found))), "utf-8")
    read = JUnitXml.fromfile(str(path))
    assert (read.tests, read.failures, read.errors) == (200 + 5, 2, 1)
    gates_suite, _ = read
    said = {
        case.name: [(type(one).__name__, one.type) for one in case.result] for case in gates_suite
    }
    assert said == {
        "every id is evaluated": [],
        "acc >= 0.5": [],
        "acc >= 0.8": [("Error", "undecided")],
        "acc >= 0.9": [("Failure", "fail")],
        "f1 >= 0": [("Failure", "fail")],
    }


def test_junit_has_a_failure_where_ids_are_missing_also_without_a_gate() -> None:
    found = evaluated([*ALL_RIGHT[:-1], outcome(IDS[-1], State.MISSING)])
    [whole] = evalreport.checks(found)
    assert (whole.word, whole.said) == (
        "failure",
        "fail: not every id was evaluated: 199 done, 1 missing of 200",
    )


def test_the_json_is_json_also_of_what_is_infinite() -> None:
    found = evaluated(
        [outcome("q0", f1=0.5), *(outcome(n, State.FAILED) for n in IDS[1:])], "f1 >= 0"
    )
    told = json.loads(json.dumps(evalreport.as_json(found), allow_nan=False))
    assert told["verdict"] == "fail"
    assert told["gates"][0]["estimate"]["low"] is None


def test_ids_that_are_done_and_whose_numbers_have_not_come_fail() -> None:
    done = [replace(one, records=()) for one in ALL_RIGHT]
    found = evaluated(done)
    assert found.verdict is Verdict.FAIL
    assert evalreport.headline(found) == (
        "fail: the numbers of 200 ids have not come from their volume"
    )
    some = evaluated([*done[:-1], outcome(IDS[-1], State.FAILED)])
    assert evalreport.headline(some) == (
        "fail: not every id was evaluated: 199 done, 1 failed of 200; "
        "the numbers of 199 ids have not come from their volume"
    )


def test_the_noise_of_two_runs_is_told_for_each_metric() -> None:
    first = evaluation.scores_of(ALL_RIGHT)
    second = evaluation.scores_of([outcome(name, acc=at >= 5) for at, name in enumerate(IDS)])
    [noise] = evaluation.noise_of(first.scores, second.scores)
    assert (noise.metric, noise.changed, noise.ids) == ("acc", 5, 200)
    assert noise.change.mean == pytest.approx(-0.025)
    [same] = evaluation.noise_of(first.scores, first.scores)
    assert same.changed == 0


def test_the_table_of_how_often_a_drop_is_noticed_is_the_one_that_was_measured() -> None:
    root = Path(__file__).parents[2]
    measured = (root / "benchmarks/results/eval.md").read_text()
    assert measured in (root / "docs/evaluations.md").read_text()


@pytest.mark.parametrize("field", ["preload: [json]", "item_timeout: 5s", "range: '0:5'"])
def test_what_goes_with_items_alone_is_refused_in_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    field: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_bytes(lines({"id": "a"}))
    (tmp_path / "score.py").write_text("")
    (tmp_path / "eval.yaml").write_text(f"script: score.py\n{field}\n")
    argv = ["eval", "--local", "--dry-run", "plan", "--data", "data.jsonl", "-f", "eval.yaml"]
    assert main(argv) == 2
    name = field.partition(":")[0]
    assert f"eval.yaml:2: {name} does not go with an evaluation" in capsys.readouterr().err


def test_results_that_stay_on_a_volume_are_refused_for_they_could_not_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_bytes(lines({"id": "a"}))
    (tmp_path / "score.py").write_text("")
    argv = ["eval", "--dry-run", "client", "--data", "data.jsonl", "--results", "pvc:x:/out"]
    assert main([*argv, "score.py"]) == 2
    assert "results on a volume cannot be judged from here" in capsys.readouterr().err
    assert main([*argv, "--aggregate-in-cluster", "--image", "x", "score.py"]) == 0
    assert r"\"aggregate\":true" in capsys.readouterr().out
    # With --local they are here anyway.
    argv = ["eval", "--local", "--dry-run", "plan", "--data", "data.jsonl", "--results"]
    assert main([*argv, "pvc:x:/out", "score.py"]) == 0
