"""Points of a sweep: the grid, keys, arguments, and files of parameters."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import points
from kij_train.arrays.axes import Value, parse_axis
from kij_train.errors import RequestError
from kij_train.pod import trials

from tests.badinput import FILES

LAUGHS = FILES["aliases that grow"].decode()

VALUES = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)


def space(*axes: str, rows: list[points.Point] | None = None) -> points.Space:
    return points.space_of(list(map(parse_axis, axes)), rows or [])


def test_the_grid_is_the_product_and_the_last_axis_changes_fastest() -> None:
    assert points.grid(space("lr=0.1,0.2", "batch=8,16")) == [
        {"lr": 0.1, "batch": 8},
        {"lr": 0.1, "batch": 16},
        {"lr": 0.2, "batch": 8},
        {"lr": 0.2, "batch": 16},
    ]


def test_every_point_of_a_file_goes_with_every_value_of_an_axis() -> None:
    both = space("seed=0,1", rows=[{"lr": 0.1}, {"lr": 0.2}])
    assert both.names == ["lr", "seed"]
    assert both.count == 4
    assert points.grid(both)[1] == {"lr": 0.1, "seed": 1}


def test_an_axis_that_comes_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="lr is there already, as an axis of its own"):
        space("lr=1", "lr=2")
    with pytest.raises(RequestError, match="lr is there already, in the file"):
        space("lr=1", rows=[{"lr": 2}])


def test_a_sweep_without_parameters_is_refused() -> None:
    with pytest.raises(RequestError, match="a sweep needs parameters"):
        space()


def test_a_grid_of_ten_million_is_refused_with_its_factors_before_it_is_made() -> None:
    with pytest.raises(RequestError, match="10,000,000 points") as raised:
        points.grid(space("a=1..1000", "b=1..10000"))
    assert "a 1,000 × b 10,000" in raised.value.message
    with pytest.raises(RequestError, match="points"):
        points.grid(space("a=1..1000000000000", "b=1..1000000000000"))


def test_how_large_a_grid_is_can_be_read() -> None:
    with pytest.raises(
        RequestError, match=r"the grid has about 10\^300 points \(lr about 10\^300\)"
    ):
        points.check_count(space("lr=range(0,1,1e-300)"))


def test_a_grid_of_an_axis_without_end_is_refused() -> None:
    with pytest.raises(RequestError, match="numbers without end") as raised:
        points.grid(space("lr=log(1e-5,1e-2)"))
    assert "draw points: --sample 64" in raised.value.hints


@given(st.dictionaries(st.sampled_from("abcdef"), VALUES, min_size=1), st.randoms())
def test_a_key_does_not_depend_on_the_order(point: points.Point, rng) -> None:  # type: ignore[no-untyped-def]
    names = list(point)
    rng.shuffle(names)
    assert points.key_of({name: point[name] for name in names}) == points.key_of(point)


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text("a,b=\" '#\\1", max_size=5))))
def test_different_points_have_different_keys(found: list[points.Point]) -> None:
    keys = {json.dumps(point, sort_keys=True): points.key_of(point) for point in found if point}
    assert len(set(keys.values())) == len(keys)


def test_keys_are_short_and_the_first_repeat_has_the_key_of_the_point() -> None:
    key = points.key_of({"lr": 0.001, "batch": 8, "opt": "a b"})
    assert key == 'batch=8,lr=0.001,opt="a b"'
    assert [points.repeated_key("a=1", i) for i in range(3)] == ["a=1", "a=1#2", "a=1#3"]


def test_arguments_are_flags_and_what_begins_with_a_dash_is_joined_to_its_flag() -> None:
    point: points.Point = {"lr": 0.001, "shift": -1e-05, "name": "-x", "model.width": 8}
    assert trials.arguments(point, "flags") == [
        "--lr",
        "0.001",
        "--shift=-1e-05",
        "--name=-x",
        "--model.width",
        "8",
    ]


@given(st.lists(VALUES.filter(lambda v: "\0" not in str(v)), min_size=1, max_size=4))
def test_argparse_reads_back_what_arguments_say(values: list[Value]) -> None:
    import argparse

    point = {f"p{i}": value for i, value in enumerate(values)}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, value in point.items():
        parser.add_argument(f"--{name}", type=type(value))
    assert vars(parser.parse_args(trials.arguments(point, "flags"))) == point


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "x=0.001"),
        ("adam", "x=adam"),
        ("[1,2]", "x=[1,2]"),
        ("a b", "x='a b'"),
        ("a,b", "x='a,b'"),
        ("it's", r"x='it\'s'"),
        ("", "x=''"),
    ],
)
def test_hydra_gets_overrides(value: Value, text: str) -> None:
    assert trials.arguments({"x": value}, "hydra") == [text]


def test_json_lines_are_a_point_each() -> None:
    text = '{"lr": 0.001, "opt": "adam", "bias": true, "dims": [1, 2]}\n\n'
    text += '{"opt": "sgd", "lr": 1e-2, "bias": false, "dims": []}\n'
    axes, rows = points.read_file(text, "p.jsonl")
    assert not axes
    assert rows[0] == {"lr": 0.001, "opt": "adam", "bias": "true", "dims": "[1, 2]"}
    assert rows[1]["lr"] == 0.01


def test_yaml_is_a_mapping_of_axes_or_a_list_of_points() -> None:
    axes, _ = points.read_file("lr: [1e-3, 0.01]\nversion: [1.10]\ndepth: 2..4\n", "p.yaml")
    assert points.grid(points.space_of(axes, []))[0] == {"lr": 0.001, "version": "1.10", "depth": 2}
    _, rows = points.read_file("- {lr: 0.1, on: yes}\n- {lr: 0.2, on: '1'}\n", "p.yml")
    assert rows == [{"lr": 0.1, "on": "yes"}, {"lr": 0.2, "on": "1"}]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("p.txt", "", "p.txt: the name of a file of parameters ends with"),
        ("p.jsonl", '{"a": 1}\n{"a": }\n', "p.jsonl:2:7: no valid JSON"),
        ("p.jsonl", '{"a": NaN}', "p.jsonl:1: no valid JSON: NaN is no number"),
        ("p.jsonl", '{"a": 1, "a": 2}', '"a" is there twice'),
        ("p.jsonl", "[1]", "must be an object"),
        ("p.jsonl", "\n", "p.jsonl has no points"),
        ("p.jsonl", "{}", "every point needs the same parameters"),
        ("p.jsonl", '{"a": 1}\n{"b": 1}', "p.jsonl:2: every point needs the same parameters: a"),
        ("p.jsonl", '{"a": 1}\n{"a": 1}', "p.jsonl:2: the same point as p.jsonl:1: a=1"),
        ("p.jsonl", '{"a b": 1}', "p.jsonl:1: the name of a parameter"),
        ("p.yaml", "a: [1\n", "p.yaml:2: no valid YAML"),
        ("p.yaml", "just text", "p.yaml: must be a mapping of axes or a list of points"),
        ("p.yaml", "", "p.yaml: must be a mapping of axes or a list of points"),
        ("p.yaml", "a: 1\na: 2\n", "p.yaml:2: a is there twice"),
        ("p.yaml", "a: [1, 2, 1]\n", "a has 1 twice"),
        ("p.yaml", "a: log(0,1)\n", "p.yaml:1: both ends of log"),
        ("p.yaml", "a: {b: 1}\n", "a must be a value or a list of values"),
        ("p.yaml", "- 1\n", "a point must be a mapping"),
        ("p.yaml", "- {a: &x [*x]}\n", "an alias"),
        (
            "p.yaml",
            LAUGHS,
            "p.yaml: its aliases (*) stand for more than 100,000 values",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(path: str, text: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        points.read_file(text, path)
    assert message in raised.value.message


@given(st.text(max_size=40), st.sampled_from([".yaml", ".jsonl"]))
def test_any_file_is_read_or_refused(text: str, suffix: str) -> None:
    try:
        axes, rows = points.read_file(text, "p" + suffix)
    except RequestError:
        return
    assert axes or rows or not text.strip()


def test_a_point_can_be_pasted_into_a_shell() -> None:
    words = trials.arguments({"name": "it's $HOME `x`", "n": 1}, "flags")
    code = "import sys; print(ascii(sys.argv[1:]))"
    line = shlex.join([sys.executable, "-c", code, *words])
    done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ascii(words)


def test_all_keys_of_a_grid_differ() -> None:
    grid = points.grid(space("a=1..9", "b=0.1,0.2", "c=x,y"))
    assert len({points.key_of(point) for point in grid}) == len(grid) == 36
    assert all(p != q for p, q in itertools.pairwise(grid))
