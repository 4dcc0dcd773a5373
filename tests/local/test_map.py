"""`kij-train map --local`: every item once, with its results; interrupted and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import kij_train
import psutil
import pytest
from kij_train.errors import JobFailedError, TimedOutError

from tests import commandline
from tests.kube import ROOT, eventually

SQUARE = (ROOT / "train_examples/square.py").read_text()
SAY = """
import json, os, sys
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"said": sys.argv[1:], "pid": os.getppid()}), file=file)
"""
WAIT = """
import os, sys, time
open(f"began-{sys.argv[1]}-{os.getpid()}", "w").close()
while not os.path.exists("go"):
    time.sleep(0.05)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "square.py").write_text(SQUARE)
    (folder / "say.py").write_text(SAY)
    (folder / "wait.py").write_text(WAIT)
    return folder


MAP = ["map", "--local", "--name", "a"]


def mapped(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return commandline.run(folder, *MAP, *argv)


def running(folder: Path, *argv: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return commandline.running(folder, *MAP, *argv)


def records(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / ".kij-train/arrays/a/attempt-0").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def begun(folder: Path, item: str = "*") -> list[int]:
    """Processes of items that have begun, so far."""
    return [int(path.name.rpartition("-")[2]) for path in folder.glob(f"began-{item}-*")]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]


# --- well and badly -------------------------------------------------------------------------------


def test_every_item_is_run_once_and_the_one_that_fails_is_named(project: Path) -> None:
    result = mapped(project, "--range", "0:20", "--chunk", "4", "square.py", "{item}")
    assert result.returncode == 1, result.stderr
    found = records(project)
    assert sorted(int(record["key"]) for record in found) == list(range(20))
    good = [record for record in found if "error" not in record]
    assert {record["key"]: record["square"] for record in good} == {
        str(number): number**2 for number in range(20) if number != 13
    }
    (bad,) = (record for record in found if "error" in record)
    assert (bad["key"], bad["index"], bad["error"]) == ("13", 3, "ValueError: 13 brings bad luck")
    assert "ValueError: 13 brings bad luck" in result.stderr
    assert "kij-train rerun a --failed" in result.stderr
    assert "3/13 |   File" in result.stdout
    assert "2/9 | 9 squared is 81, by index 2" in result.stdout
    again = mapped(project, "--range", "0:3", "square.py", "{item}")
    assert again.returncode == 2
    assert again.stderr.startswith("error: there is an array a in this folder already")
    assert len(records(project)) == 20
    replaced = mapped(project, "--replace", "--range", "0:3", "square.py", "{item}")
    assert (replaced.returncode, len(records(project))) == (0, 3), replaced.stderr


def test_items_of_any_name_arrive_as_they_are(project: Path) -> None:
    names = ["a b", "'q' \"r\"", "$(NODE_RANK) $HOME `x`", "{braces} {{x}}", "-rf", "naïve", " x "]
    (project / "list.txt").write_text("".join(f"{name}\n" for name in names))
    script = ["say.py", "--to={item}", "{key}", "{{key}}", '{"a": {}}']
    result = mapped(project, "--items", "list.txt", "--indexes", "2", *script)
    assert result.returncode == 0, result.stderr
    assert {record["key"]: record["said"] for record in records(project)} == {
        name: [f"--to={name}", name, "{key}", '{"a": {}}'] for name in names
    }


def test_fields_of_json_and_programs_and_files_are_items_as_well(project: Path) -> None:
    (project / "todo.jsonl").write_text('{"key": "x", "n": 1}\n{"key": "y", "n": [2, "z"]}\n')
    argv = ["--items", "todo.jsonl", "--no-python", sys.executable, "say.py", "{n}", "{index}"]
    result = mapped(project, *argv)
    assert result.returncode == 0, result.stderr
    assert {record["key"]: record["said"] for record in records(project)} == {
        "x": ["1", "0"],
        "y": ['[2,"z"]', "1"],
    }
    (project / "new\nline.csv").touch()
    result = mapped(project, "--replace", "--glob", "*.csv", "say.py", "{item}")
    assert result.returncode == 0, result.stderr
    assert records(project)[0]["said"] == ["new\nline.csv"]


def test_too_many_failed_indexes_end_the_rest(project: Path) -> None:
    argv = ["--range", "0:200", "--parallelism", "1", "--max-failed", "1"]
    result = mapped(project, *argv, "--no-python", "false")
    assert result.returncode == 1
    assert 2 <= len(records(project)) < 200
    assert "missing" in result.stderr


def test_a_deadline_ends_with_exit_code_5_and_keeps_what_was_done(project: Path) -> None:
    argv = ["--range", "0:2", "--timeout", "2s", "--grace", "1s", "--parallelism", "2"]
    result = mapped(project, *argv, "wait.py", "{item}")
    assert result.returncode == 5, result.stderr
    assert "did not end within its --timeout of 2.0 s" in result.stderr
    assert alive(begun(project)) == []


def test_what_every_index_would_meet_is_told_once(project: Path) -> None:
    (project / "broken.py").write_text("1 / 0")
    argv = ["--range", "0:50", "--parallelism", "1", "--preload", "broken"]
    result = mapped(project, *argv, "square.py", "{item}")
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
    assert result.stdout.count("error: cannot import broken") == 1


def test_a_rehearsal_runs_a_copy_of_what_ships(project: Path) -> None:
    (project / "write.py").write_text("open('made', 'w'); open('.env').read()")
    (project / ".env").write_text("A=b")
    result = mapped(project, "--as-shipped", "--range", "0:1", "write.py")
    assert result.returncode == 1
    assert not (project / "made").exists()
    assert "No such file or directory: '.env'" in result.stderr


# --- in the middle --------------------------------------------------------------------------------


def test_ctrl_c_ends_all_of_it_and_keeps_what_was_done(project: Path) -> None:
    (project / "some.py").write_text(
        "import sys\nif sys.argv[1] != '0':\n" + WAIT.replace("\n", "\n ")
    )
    argv = ["--range", "0:4", "--chunk", "1", "--parallelism", "1", "some.py", "{item}"]
    with running(project, *argv) as process:
        assert eventually(lambda: bool(begun(project, "1")), 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "kij-train rerun a --failed" in err
    assert alive(begun(project)) == []
    assert [record["key"] for record in records(project)] == ["0"]


def test_nothing_outlives_a_launcher_that_is_killed(project: Path) -> None:
    argv = ["--range", "0:2", "--parallelism", "2", "--grace", "1s", "wait.py", "{item}"]
    with running(project, *argv) as process:
        assert eventually(lambda: len(begun(project)) == 2, 60)
        process.kill()
    assert eventually(lambda: alive(begun(project)) == [], 30)


@pytest.mark.parametrize("retries", [0, 1])
def test_an_index_whose_runner_is_killed_is_run_again_as_often_as_is_said(
    project: Path, retries: int
) -> None:
    argv = ["--range", "0:3", "--chunk", "3", "--retries", str(retries), "wait.py", "{item}"]
    with running(project, *argv) as process:
        assert eventually(lambda: bool(begun(project, "0")), 60)
        (item,) = begun(project, "0")
        # The process that items are forked from is a fork of the runner, and looks like it.
        *_, runner = (
            each for each in psutil.Process(item).parents() if "items.py" in str(each.cmdline())
        )
        runner.kill()
        (project / "go").touch()
        _, err = process.communicate(timeout=180)
    assert process.returncode == (0 if retries else 1), err
    assert len(records(project)) == 3 * retries
    assert ("killed by signal 9" in err) == (retries == 0)
    assert alive(begun(project)) == []


def test_a_reader_that_leaves_ends_it(project: Path) -> None:
    argv = ["--range", "0:5000", "--chunk", "50", "square.py", "{item}"]
    with subprocess.Popen(
        [*commandline.KIJ_TRAIN, *MAP, *argv],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(timeout=180) == 141, err
    assert "nobody reads its output any more" in err


# --- from Python ----------------------------------------------------------------------------------


def test_results_come_while_it_runs(project: Path) -> None:
    (project / "some.py").write_text(
        "import sys\nif sys.argv[1] != '0':\n" + WAIT.replace("\n", "\n ")
    )
    run = kij_train.map(
        "some.py", range(3), args=["{item}"], chunk=1, parallelism=1, local=True, cwd=project
    )
    found = run.results()
    assert next(found)["key"] == "0"
    with pytest.raises(TimedOutError):
        run.wait(0.1)
    (project / "go").touch()
    assert [record["key"] for record in found] == ["1", "2"]
    run.wait()
    assert run.why() == f"{run.name}: all items are done"


def test_a_function_is_mapped_and_an_error_says_of_which_item(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "functions_of_mine.py").write_text(
        "import kij_train\n"
        "class Of:\n"
        "    @staticmethod\n"
        "    def mine(item):\n"
        "        return {'half': 6 // item['n']}\n"
        "def plain(item):\n"
        "    print('got', item)\n"
        "    return [item] if item else None\n"
    )
    monkeypatch.syspath_prepend(str(project))
    import functions_of_mine  # type: ignore[import-not-found]

    items = [{"key": f"k{number}", "n": number} for number in (0, 1, 2)]
    run = kij_train.map(functions_of_mine.Of.mine, items, local=True, cwd=project, indexes=1)
    with pytest.raises(JobFailedError, match=r"item 'k0' .*ZeroDivisionError"):
        run.wait()
    assert [record.get("half") for record in run.results()] == [None, 6, 3]
    run = kij_train.map(functions_of_mine.plain, ["x", ""], local=True, cwd=project, indexes=1)
    run.wait()
    assert [record.get("value") for record in run.results()] == [["x"], None]
    assert any(line.text.endswith("got x") for line in run.logs())
    sys.modules.pop("functions_of_mine")


@pytest.mark.parametrize("preload", [[], ["maps_itself"]])
def test_a_script_that_maps_its_own_function_unguarded_does_not_start_itself_again(
    project: Path, preload: list[str]
) -> None:
    (project / "maps_itself.py").write_text(
        "import kij_train\n"
        "def f(item): return item\n"
        f"kij_train.map(f, ['x'], local=True, preload={preload}).wait()\n"
    )
    command = [sys.executable, "maps_itself.py"]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1
    assert "JobFailedError" in ended.stderr
    assert "under if __name__ == '__main__':" in ended.stderr
    assert len(list((project / ".kij-train" / "arrays").iterdir())) == 1


def test_a_run_can_be_cancelled(project: Path) -> None:
    run = kij_train.map("wait.py", ["a"], args=["{item}"], local=True, cwd=project)
    assert eventually(lambda: bool(begun(project)), 60)
    began = time.monotonic()
    run.cancel()
    assert time.monotonic() - began < 20
    assert alive(begun(project)) == []
    with pytest.raises(JobFailedError, match="was cancelled"):
        run.wait()
