"""What a sweep has found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import sweepplots, sweeps
from kij_train.arrays.axes import parse_axis
from kij_train.arrays.objective import Objective
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.points import Point, Space, grid, key_of, repeated_key
from kij_train.errors import RequestError
from kij_train.pod.trials import point_key
from PIL import Image

from tests import sweeppicture

LOSS = Objective("loss")


def outcome(key: str, loss: Any, state: State = State.DONE) -> Outcome:
    record = {} if loss is ... else {"loss": loss}
    if loss is None:
        record["nan"] = ["loss"]
    return Outcome(0, key, 0, state, seconds=2.0, records=(record,) if state is State.DONE else ())


def swept(losses: dict[str, tuple[Point, list[Any]]], objective: Objective = LOSS) -> sweeps.Sweep:
    """Points by key, each with the metric of its repeats; "failed" and "pending" for those."""
    found = []
    for key, (point, values) in losses.items():
        for number, value in enumerate(values):
            state = State(value) if isinstance(value, str) else State.DONE
            found.append((outcome(repeated_key(key, number), value, state), point))
    return sweeps.sweep_of(found, objective)


def test_trials_are_every_repeat_of_every_point() -> None:
    trials = sweeps.trials_of(grid(Space((parse_axis("lr=0.1,0.2"),))), 2)
    assert trials == [
        ("lr=0.1", {"lr": 0.1}),
        ("lr=0.1#2", {"lr": 0.1}),
        ("lr=0.2", {"lr": 0.2}),
        ("lr=0.2#2", {"lr": 0.2}),
    ]


@given(st.text(max_size=10), st.integers(0, 3))
def test_a_trial_leads_to_its_point(text: str, repeat: int) -> None:
    [*_, (key, point)] = sweeps.trials_of([{"a": text}], repeat + 1)
    assert point_key(key) == key_of(point)


def test_points_are_sorted_and_repeats_averaged() -> None:
    found = swept({"a=1": ({"a": 1}, [3.0, 5.0]), "a=2": ({"a": 2}, [2.0, 2.5])})
    assert [row.key for row in found.rows] == ["a=2", "a=1"]
    assert found.best is not None
    assert found.best.values.mean == 2.25
    assert found.best.values.error == pytest.approx(0.25)
    header, rows = sweeps.table(found)
    assert header == ["a", "loss", "± error", "trials", ""]
    assert rows[0] == ["2", "2.25", "± 0.25", "2", ""]
    largest = swept({"a=1": ({"a": 1}, [3.0]), "a=2": ({"a": 2}, [4.0])}, Objective("loss", True))
    assert [row.key for row in largest.rows] == ["a=2", "a=1"]


def test_a_point_that_lacks_a_number_is_never_the_best() -> None:
    found = swept(
        {
            "a=1": ({"a": 1}, [0.1, None]),
            "a=2": ({"a": 2}, [9.0, 9.0]),
            "a=3": ({"a": 3}, [0.1, "failed"]),
            "a=4": ({"a": 4}, [..., 0.2]),
            "a=5": ({"a": 5}, [0.1, "pending"]),
            "a=6": ({"a": 6}, ["failed", "missing"]),
        }
    )
    assert found.best is not None
    assert found.best.key == "a=2"
    assert {row.key: sweeps.lacks(row) for row in found.rows} == {
        "a=1": "1 NaN",
        "a=2": "",
        "a=3": "1 failed",
        "a=4": "1 without it",
        "a=5": "1 pending",
        "a=6": "2 failed",
    }
    assert found.rows[-1].key == "a=6"
    assert swept({"a=1": ({"a": 1}, [None])}).best is None


def test_effects_tell_which_parameter_matters() -> None:
    space = Space(tuple(map(parse_axis, ("lr=0.1,0.2", "batch=8,16", "opt=adam"))))
    points = {key_of(point): point for point in grid(space)}
    found = swept({k: (p, [float(p["lr"]) * 100 + float(p["batch"])]) for k, p in points.items()})
    assert [effect.name for effect in found.effects] == ["lr", "batch"]
    assert [(g.label, g.mean, g.best, g.points) for g in found.effects[0].groups] == [
        ("0.1", 22.0, 18.0, 2),
        ("0.2", 32.0, 28.0, 2),
    ]
    _, rows = sweeps.effects_table(found)
    assert [row[0] for row in rows] == ["lr", "", "batch", ""]


def test_many_values_are_put_into_bands() -> None:
    found = swept({f"a={n}": ({"a": n / 2}, [float(n)]) for n in range(100)})
    assert [(g.label, g.points) for g in found.effects[0].groups] == [
        ("0.0 … 12.0", 25),
        ("12.5 … 24.5", 25),
        ("25.0 … 37.0", 25),
        ("37.5 … 49.5", 25),
    ]


def test_the_json_holds_all_and_nothing_that_json_lacks() -> None:
    found = swept({"a=1": ({"a": 1}, [1.0, None]), "a=2": ({"a": 2}, [2.0, 3.0])})
    told = json.loads(json.dumps(sweeps.as_json(found), allow_nan=False))
    assert told["best"]["key"] == "a=2"
    assert [point["nan"] for point in told["points"]] == [0, 1]
    assert told["direction"] == "min"


def test_metrics_of_all_trials_are_counted() -> None:
    assert swept({"a=1": ({"a": 1}, [1.0, None, ...])}).metrics == {"loss": 2}


def test_the_pictures_are_png_and_svg(tmp_path: Path) -> None:
    space = Space(tuple(map(parse_axis, ("lr=1e-5,1e-3,0.1", "batch=8,16", "opt=adam,sgd"))))
    points = {key_of(point): point for point in grid(space)}
    found = swept({k: (p, [float(p["batch"]), float(p["lr"])]) for k, p in points.items()})
    png, svg = sweepplots.write(found, list(points), tmp_path / "sweep")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert "<svg" in text
    assert sweepplots.svg(found, list(points)).startswith("<svg")


def test_a_sweep_without_a_number_has_no_picture() -> None:
    with pytest.raises(RequestError, match="no point has the metric loss to plot"):
        sweepplots.figure(swept({"a=1": ({"a": 1}, [None])}), ["a=1"])


def test_the_picture_of_the_readme_is_of_the_command_beside_it() -> None:
    with Image.open(sweeppicture.PICTURE) as image:
        assert image.info[sweeppicture.COMMAND] == sweeppicture.command()
