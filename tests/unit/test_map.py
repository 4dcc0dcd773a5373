"""`kij-train map` from outside: dry runs, and what is refused before anything is made."""

from __future__ import annotations

import fcntl
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kij_train
import pytest
import yaml
from kij_train.cli import main
from kij_train.errors import RequestError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a.py").write_text("print(1)\n")
    monkeypatch.chdir(folder)
    yield folder


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["map", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_array_that_runs_here_is_not_replaced_by_one_on_a_cluster(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    """And nothing is made: no cluster is asked for."""
    lock = project / ".kij-train/arrays/arr/attempt-0/lock"
    lock.parent.mkdir(parents=True)
    argv = ["--replace", "--name", "arr", "--range", "0:2", "--kubeconfig", "nowhere", "a.py"]
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = run(capsys, *argv)
    assert (code, "arr runs on this machine at this moment, and is not replaced" in err) == (
        2,
        True,
    )
    assert run(capsys, *argv)[0] == 4


def test_a_dry_run_shows_which_index_has_which_items(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    argv = ["--dry-run", "plan", "--range", "0:10", "--chunk", "4", "a.py", "{item}"]
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert out.split() == [
        "INDEX",
        "ITEMS",
        "KEYS",
        "0",
        "4",
        "0",
        "…",
        "3",
        "1",
        "4",
        "4",
        "…",
        "7",
        "2",
        "2",
        "8",
        "9",
    ]
    assert "10 items in 3 indexes; nothing was created" in err
    code, out, _ = run(capsys, "-o", "json", *argv)
    assert json.loads(out)[2] == {"index": 2, "keys": ["8", "9"]}
    code, out, _ = run(capsys, "--local", "-o", "yaml", *argv)
    assert yaml.safe_load(out)[0] == {"index": 0, "keys": ["0", "1", "2", "3"]}
    assert not (project / ".kij-train").exists()


def test_a_dry_run_of_a_client_prints_the_objects_and_the_same_ones_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--dry-run", "client", "--range", "0:10", "a.py", "{item}"]
    code, out, _ = run(capsys, *argv)
    objects = list(yaml.safe_load_all(out))
    others = [body["kind"] for body in objects if body["kind"] != "ConfigMap"]
    assert (code, others) == (0, ["NetworkPolicy", "Job"])
    assert run(capsys, *argv)[1] == out
    assert run(capsys, *argv[:3], "0:11", *argv[4:])[1] != out


@pytest.mark.parametrize(
    "words",
    [
        ["map", "--items", "not-there.txt"],
        ["map", "--local", "--range", "0:3"],
        ["sweep", "-p", "lr=1,2", "--min", "loss"],
        ["eval", "--data", "not-there.jsonl"],
    ],
)
def test_a_dry_run_of_the_config_shows_each_value_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    (project / "kij-train.toml").write_text("retries = 2\n")
    monkeypatch.setenv("KIJ_PARALLELISM", "7")
    argv = [*words, "--dry-run", "config", "--memory", "2Gi"]
    code = main([*argv, "-o", "json", "a.py", "{item}"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads(captured.out)
    assert found["retries"] == {"value": 2, "from": "kij-train.toml:1"}
    assert found["memory"] == {"value": "2Gi", "from": "--memory"}
    assert found["parallelism"] == {"value": 7, "from": "KIJ_PARALLELISM"}
    assert found["args"] == {"value": ["{item}"], "from": "command line"}
    assert found["max_failed"] == {"value": None, "from": "default"}
    assert main([*argv, "a.py"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["parallelism", "7", "KIJ_PARALLELISM"] in rows


def test_a_list_comes_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\ny\n")))
    code, out, _ = run(capsys, "--dry-run", "plan", "--items", "-", "a.py")
    assert (code, out.split()[3:]) == (0, ["0", "1", "x", "1", "1", "y"])


REFUSED: list[tuple[str, str]] = [
    ("a.py", "nothing to map over"),
    ("--range 0:5", "nothing to run: name a script"),
    ("--range 0:5 b.py", "script b.py: no such file"),
    ("--range 5:0 a.py", "--range 5:0 is empty"),
    ("--range 0:5 --chunk 0 a.py", "--chunk 0 must be at least 1"),
    ("--range 0:5 --chunk 2 --indexes 2 a.py", "--indexes 2 conflicts with chunk 2"),
    ("--range 0:5 --items x a.py", "conflicts with items"),
    ("--range 0:5000 a.py", "--chunk 5"),
    ("--range 0:5 a.py {name}", "{name} is unknown: the item at --range 0:5[0]"),
    ("--range 0:5 --slice a.py {item}", "with --slice a process has all items"),
    ("--items nothing.txt a.py", "--items nothing.txt: No such file"),
    ("--items - -f - a.py", "both read standard input"),
    ("--glob *.csv a.py", "--glob *.csv matches no file"),
    ("--range 0:5 --nodes 2 a.py", "No such option '--nodes'"),
    ("--range 0:5 --gate acc>=1 a.py", "No such option '--gate'"),
    ("--range 0:5 --name A a.py", "--name A must be lower-case"),
    ("--range 0:5 --dry-run a.py", "'a.py' is not one of 'config', 'plan', 'client', 'server'"),
    ("--range 0:5 --as-shipped a.py", "--as-shipped goes with --local"),
    ("--local --detach --range 0:5 a.py", "--detach does not go with --local"),
    ("--local --dry-run client --range 0:5 a.py", "--dry-run client does not go with --local"),
    ("--local --range 0:5 --no-python ./none", "program ./none: no such program"),
    ("--local --range 0:5 -m none.such", "finds no none"),
    ("--local --range 0:5 --function none:f", "finds no none"),
    ("--range 0:5 a.py --help", "stands behind a.py"),
]


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_a_wrong_request_is_one_error_and_makes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    project: Path,
    line: str,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"script: a.py\n")))
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (project / ".kij-train").exists()


def test_a_list_of_what_is_alike_is_refused_with_both_places(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / "list.txt").write_text("a\nB\nb\n")
    code, _, err = run(capsys, "--dry-run", "plan", "--items", "list.txt", "a.py")
    assert code == 2
    assert 'list.txt:3: "b" and "B" at list.txt:2 differ only by case' in err


def test_results_stay_at_home(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    kept = project / ".kij-train/arrays/old/attempt-0/part-00000.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}\n")
    assert main(["render", "--list-code"]) == 0
    assert capsys.readouterr().out.split() == ["a.py"]


def test_a_folder_that_keeps_no_results_is_told_before_a_cluster_is_asked(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / ".kij-train").write_text("")
    code, _, err = run(capsys, "--local", "--range", "0:5", "a.py")
    assert code == 2
    assert "cannot write .kij-train/arrays" in err.replace(f"{project}/", "")


# --- from Python ----------------------------------------------------------------------------------


def of_this_module(item: Any) -> Any:
    return item


@pytest.mark.parametrize(
    ("target", "fields", "said"),
    [
        (lambda item: item, {}, "cannot be imported by its name"),
        (3, {}, "map takes a script or a function, not int"),
        ("none.py", {}, "no such file"),
        ("a.py", {"chunk": 0}, "chunk 0 must be at least 1"),
        ("a.py", {"range": "0:4"}, "items are given, and range names others"),
        (of_this_module, {"args": ["x"]}, "does not go with function"),
    ],
)
def test_what_python_cannot_map_is_refused(target: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        kij_train.map(target, ["a"], local=True, **fields)
    assert said in caught.value.message


def test_items_that_are_no_list_are_refused() -> None:
    with pytest.raises(RequestError, match="must be a list of items"):
        kij_train.map("a.py", "a.csv", local=True)
    with pytest.raises(RequestError, match="nothing to map over"):
        kij_train.map("a.py", local=True)


@pytest.mark.parametrize("command", ["results", "report", "rerun --failed", "replay --key 1"])
def test_an_array_that_is_neither_here_nor_on_a_cluster_is_said_to_be_in_its_own_folder(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    project: Path,
    command: str,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(project / "nowhere"))
    assert main([*command.split(), "nope"]) == 4
    err = capsys.readouterr().err
    assert "there is no array nope" in err
    assert "in the folder that it was started in" in err
    assert "--local" not in err


def test_a_function_whose_module_is_not_there_is_told_where_it_is_looked_for(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    code, _, err = run(capsys, "--local", "--range", "0:3", "--function", "nomod:f")
    assert (code, "finds no nomod" in err, "--code-dir DIR" in err) == (2, True, True)
    assert "without -m" not in err


@pytest.mark.parametrize(
    ("content", "is_refused"),
    [
        ("def half(item): ...\n", True),
        ("import numpy\nclass All:\n    halve = 1\n", True),
        ("def halve(item): ...\n", False),
        ("halve = str\n", False),
        ("from other import halve\n", False),
        ("from other import *\n", False),
        ("globals()['hal' + 've'] = str\n", False),
        ("print 'of another Python'\n", False),
    ],
)
def test_a_function_that_its_module_has_not_is_told_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], project: Path, content: str, is_refused: bool
) -> None:
    (project / "jobs.py").write_text(content)
    argv = ["--dry-run", "plan", "--range", "0:3", "--function", "jobs:halve"]
    code, _, err = run(capsys, *argv)
    assert code == (2 if is_refused else 0)
    assert ("jobs.py has no halve" in err) is is_refused
    assert ("did you mean jobs:half?" in err) is ("def half(" in content)


def test_what_is_to_be_preloaded_and_is_not_here_is_told_before_a_local_start(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / "mine.py").write_text("1 / 0")
    argv = ["--local", "--range", "0:3", "--preload", "mine", "--preload", "no_such.module"]
    code, _, err = run(capsys, *argv, "a.py")
    assert (code, "--preload no_such.module" in err, "finds no no_such" in err) == (2, True, True)
    assert "-m pip install no_such" in err
    assert not (project / ".kij-train").exists()


@pytest.mark.parametrize(
    "items", ["line\n" + "x" * 2**20, '{"id": 1}\n{"id": 2, "text": "' + "x" * 2**20 + '"}']
)
def test_an_item_of_a_mebibyte_is_one_error_that_names_it(
    capsys: pytest.CaptureFixture[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    items: str,
) -> None:
    content = io.TextIOWrapper(io.BytesIO(items.encode()))
    monkeypatch.setattr(sys, "stdin", content)
    code, _, err = run(capsys, "--items", "-", "a.py")
    assert (code, err.count("error: ")) == (2, 1)
    assert "standard input:2: the item has 1,0" in err
    assert "100,000 is the most that a program takes in a variable" in err
    assert "put what is long into files, and list those" in err
    with pytest.raises(RequestError, match=r"items\[1\]: the item has 1,048,578 bytes"):
        kij_train.map("a.py", ["a", "x" * 2**20], image="img")
