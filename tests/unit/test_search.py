"""A search: points that Optuna chooses, what is told, and what a pod knows of the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import optuna
import pytest
from kij_train import extras
from kij_train.arrays.axes import parse_axis
from kij_train.arrays.objective import Objective
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.points import Point, Space, key_of
from kij_train.arrays.search import Search, check_space, steps_of
from kij_train.arrays.sweeps import Row, sweep_of
from kij_train.cli import sweep_search
from kij_train.errors import InterruptedByUserError, RequestError
from kij_train.pod.itemrecords import Run
from kij_train.pod.itemstudy import ENV_STUDY_FILE, ENV_TRIAL, MOST_STEPS, Study, reported
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

LOSS = Objective("loss")


def space(*axes: str, rows: tuple[Point, ...] = ()) -> Space:
    return Space(tuple(parse_axis(axis) for axis in axes), rows)


SPACE = space("lr=log(1e-5,1e-1)", "depth=2..8", "step=range(0.1,0.8,0.1)", "kind=a,2,1.10")


def opened(path: Path, where: Space = SPACE, *, seed: int = 0, repeat: int = 1) -> Search:
    return Search.open(path / "study.journal", where, LOSS, seed=seed, repeat=repeat)


def rows(
    points: dict[str, Point], *records: dict[str, Any], state: State = State.DONE
) -> list[Row]:
    outcomes = [
        (Outcome(0, key, 0, state, records=(record,) if state is State.DONE else ()), point)
        for (key, point), record in zip(points.items(), records * len(points), strict=False)
    ]
    return list(sweep_of(outcomes, LOSS).rows)


def searched(path: Path, batches: int, *, reopens: bool) -> list[str]:
    """Keys of points, in the order that they were chosen."""
    search, found = opened(path), list[str]()
    for _ in range(batches):
        search = opened(path) if reopens else search
        search.ask(4)
        waiting = search.waiting()
        found += waiting
        outcomes = [
            (Outcome(0, key, 0, State.DONE, records=({"loss": float(point["lr"])},)), point)
            for key, point in waiting.items()
        ]
        assert search.tell(sweep_of(outcomes, LOSS).rows, {}) == 4
    return found


def test_a_search_that_goes_on_chooses_what_it_would_have_chosen(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = searched(tmp_path / "a", 5, reopens=False)
    assert whole == searched(tmp_path / "b", 5, reopens=True)
    assert len(set(whole)) == 20


def test_results_draw_the_search_to_where_they_are_good(tmp_path: Path) -> None:
    keys = searched(tmp_path, 10, reopens=False)
    rates = [float(key.split("lr=")[1].split(",")[0]) for key in keys]
    assert sorted(rates[20:])[10] < sorted(rates[:10])[5] / 3


def test_points_are_values_of_the_axes_as_they_were_written(tmp_path: Path) -> None:
    where = space("n=range(9,1,-2)", "x=range(0.1,0.8,0.1)", "kind=007,2", "u=uniform(0,1)")
    search = opened(tmp_path, where)
    search.ask(40)
    for key, point in search.waiting().items():
        assert point["n"] in (9, 7, 5, 3)
        assert point["x"] in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        assert point["kind"] in ("007", 2)
        assert 0 <= float(point["u"]) <= 1
        assert len(repr(point["u"])) <= 8
        assert key == key_of(point)


def test_points_of_a_file_are_searched_with_the_axes(tmp_path: Path) -> None:
    lines: tuple[Point, ...] = ({"lr": 0.1, "layers": 2}, {"lr": 0.2, "layers": 4})
    search = opened(tmp_path, space("b=1..3", rows=lines))
    search.ask(5)
    found = list(search.waiting().values())
    assert all({"lr": one["lr"], "layers": one["layers"]} in lines for one in found)
    assert len({key_of(one) for one in found}) == 5


def test_every_point_of_a_small_space_is_found_and_none_twice(tmp_path: Path) -> None:
    search = opened(tmp_path, space("a=1..4", "b=1..5"))
    for _ in range(19):
        search.ask(1)
        [(key, point)] = search.waiting().items()
        loss = float(point["a"])
        search.tell(rows({key: point}, {"loss": loss}), {})
    assert search.count == 19
    with pytest.raises(RequestError, match="there are only 20 points"):
        check_space(space("a=1..4", "b=1..5"), 20)


@pytest.mark.parametrize(
    ("record", "state", "told"),
    [
        ({"loss": 0.5}, State.DONE, "COMPLETE"),
        ({"loss": None, "nan": ["loss"]}, State.DONE, "FAIL"),
        ({}, State.DONE, "FAIL"),
        ({}, State.FAILED, "FAIL"),
        ({}, State.MISSING, "FAIL"),
        ({"loss": 0.5, "pruned": True}, State.DONE, "PRUNED"),
    ],
)
def test_a_point_without_a_number_has_failed_and_is_no_value(
    tmp_path: Path, record: dict[str, Any], state: State, told: str
) -> None:
    search = opened(tmp_path)
    search.ask(1)
    found = rows(search.waiting(), record, state=state)
    assert search.tell(found, {found[0].key: {1: 0.9, 2: float("nan")}}) == (told != "FAIL")
    assert not search.waiting()
    [trial] = study_in(tmp_path / "study.journal").trials
    assert trial.state.name == told
    assert trial.intermediate_values[1] == 0.9


def study_in(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))


def test_what_was_chosen_and_not_told_is_still_waiting(tmp_path: Path) -> None:
    search = opened(tmp_path)
    search.ask(3)
    waiting = search.waiting()
    study = study_in(tmp_path / "study.journal")
    study.ask()  # the end came before its key was kept
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code": 6, "worker')
    again = opened(tmp_path)
    assert again.waiting() == waiting
    again.ask(1)
    assert again.count == 4


@pytest.mark.parametrize(
    ("where", "seed", "repeat", "objective", "said"),
    [
        (space("lr=1,2,3"), 0, 1, LOSS, "it has another parameter depth, another parameter kind"),
        (SPACE, 1, 1, LOSS, "it has another seed"),
        (SPACE, 0, 2, LOSS, "it has another repeat"),
        (SPACE, 0, 1, Objective("acc"), "it has another metric"),
        (space(*("lr=log(1e-5,1e-1)",), rows=({"x": 1},)), 0, 1, LOSS, "points of the file"),
    ],
)
def test_another_search_does_not_go_on_with_the_study(
    tmp_path: Path, where: Space, seed: int, repeat: int, objective: Objective, said: str
) -> None:
    opened(tmp_path)
    with pytest.raises(RequestError, match=said):
        Search.open(tmp_path / "study.journal", where, objective, seed=seed, repeat=repeat)


def test_a_file_that_is_no_study_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("no journal\nat all\n")
    with pytest.raises(RequestError, match="is no study of Optuna"):
        opened(tmp_path)


def test_without_optuna_the_error_tells_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "has", lambda package: package != "optuna")
    with pytest.raises(RequestError, match="--sampler tpe needs optuna") as error:
        opened(tmp_path)
    assert error.value.hints[0].endswith("-m pip install 'kij-train[optuna]'")


# --- in the pod -----------------------------------------------------------------------------------


def test_a_trial_is_pruned_by_optuna_in_its_pod_and_its_steps_come_back(tmp_path: Path) -> None:
    search = opened(tmp_path)
    search.ask(5)
    found = rows(search.waiting(), {"loss": 0.1})
    search.tell(found, {row.key: {1: 0.1, 2: 0.05} for row in found})
    search.ask(1)
    [key] = search.waiting()
    pod = Study((tmp_path / "study.journal").read_bytes(), str(tmp_path))
    env = pod.begin(f"{key}#2")
    storage = JournalStorage(JournalFileBackend(env[ENV_STUDY_FILE]))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    study = optuna.load_study(study_name=None, storage=storage, pruner=pruner)
    trial = optuna.Trial(study, int(env[ENV_TRIAL]))
    assert key_of_trial(trial) == key
    trial.report(0.09, 1)
    assert not trial.should_prune()
    trial.report(7, 2)
    assert trial.should_prune()
    trial.report(float("nan"), 3)
    failed = Run(0, 0, 1.0, 1, "here", "optuna.exceptions.TrialPruned: enough")
    run, fields = pod.end(failed)
    assert (run.exit_code, run.error) == (0, "")
    assert fields == {"intermediate": [[1, 0.09], [2, 7.0], [3, None]], "pruned": True}
    assert not Path(env[ENV_STUDY_FILE]).exists()
    assert json.loads(json.dumps(fields)) == fields
    outcome = Outcome(0, key, 0, State.DONE, records=({"key": key, **fields},))
    steps = steps_of([outcome])[key]
    assert (steps[1], steps[2]) == (0.09, 7)


def key_of_trial(trial: optuna.Trial) -> Any:
    return trial.user_attrs["key"]


def test_a_trial_that_the_study_does_not_have_runs_without_it(tmp_path: Path) -> None:
    pod = Study(b"", str(tmp_path))
    run = Run(0, 0, 1.0, 1, "here", "ValueError: no")
    assert pod.begin("lr=1") == {}
    assert pod.end(run) == (run, {})


def test_of_very_many_steps_some_come_back_with_the_last_one() -> None:
    lines = [
        json.dumps({"trial_id": 3, "step": step, "intermediate_value": step / 2})
        for step in range(5 * MOST_STEPS)
    ]
    found = reported("\n".join(lines).encode(), 3)
    assert len(found) == MOST_STEPS
    assert found[-1] == [5 * MOST_STEPS - 1, (5 * MOST_STEPS - 1) / 2]
    assert reported(b'{"trial_id": 3, "step": 1, "intermediate_va', 3) == []


@pytest.mark.parametrize("value", [7, "x", [[1]], [["a", "b"]], [3, [1, 2, 3]], None])
def test_a_field_of_that_name_that_is_something_else_is_left_alone(value: Any) -> None:
    outcome = Outcome(0, "a=1", 0, State.DONE, records=({"intermediate": value},))
    assert steps_of([outcome]) == {}


def test_a_search_that_is_interrupted_between_its_batches_says_how_it_goes_on() -> None:
    words = ["sweep", "-p", "lr=uniform(0, 1)", "--replace", "a.py"]
    with (
        click.Context(click.Command("sweep"), obj=words),
        pytest.raises(InterruptedByUserError) as caught,
        sweep_search._going_on("s"),
    ):
        raise KeyboardInterrupt
    again = "go on with it: kij-train sweep --name s -p 'lr=uniform(0, 1)' a.py"
    assert caught.value.hints == ("what there is: kij-train report s", again)
    assert caught.value.exit_code == 130
