"""The runner of an array: slices, second pods, faults of the machine, runners of this machine."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kij_train.pod import BESIDE, ITEMS, bootstrap, itemplan, results
from kij_train.pod.contract import EXIT_CODE, EXIT_CONTRACT, EXIT_FAILED
from kij_train.pod.itemrecords import dumps

from tests.itemrunner import Array, keys, until
from tests.mainprogram import pythons

# --- slices ---------------------------------------------------------------------------------------

SLICE = """
import json, os, sys
items = [json.loads(line) for line in open(os.environ["KIJ_ITEMS_FILE"])]
print([(each["key"], each["item"], type(each["seed"]).__name__) for each in items],
      "KIJ_KEY" in os.environ, flush=True)
with open(os.environ["KIJ_RESULT_FILE"], "a", buffering=1) as file:
    for each in items:
        {fault}
        print(json.dumps({{"key": each["key"], "x": each["item"]}}), file=file)
"""


def test_a_slice_is_one_process_with_its_items_in_a_file(tmp_path: Path) -> None:
    array = Array(tmp_path, [("a", 1), ("b", 2), ("c", 3)], indexes=1, slice=True)
    array.script(SLICE.format(fault="pass"))
    result = array.run("a.py", "{item}")
    assert result.output == "[('a', 1, 'int'), ('b', 2, 'int'), ('c', 3, 'int')] False\n"
    found = [(record["key"], record["x"]) for record in result.logged.records]
    assert found == [("a", 1), ("b", 2), ("c", 3)]
    assert result.returncode == 0


def test_a_slice_that_fails_runs_again_over_what_is_left(tmp_path: Path) -> None:
    array = Array(tmp_path, [("a", 1), ("b", 2), ("c", 3)], slice=True, retries=1)
    fault = "if each['key'] == 'b' and not os.path.exists('once'): open('once', 'w'); sys.exit(3)"
    array.script(SLICE.format(fault=fault))
    result = array.run("a.py")
    assert result.output.splitlines()[1] == "[('b', 2, 'int'), ('c', 3, 'int')] False"
    assert sorted(keys(result.logged.records)) == ["a", "b", "c"]
    assert (result.returncode, result.account.failed) == (0, 0)


def test_items_without_a_line_of_a_slice_that_failed_have_failed(tmp_path: Path) -> None:
    array = Array(tmp_path, [("a", 1), ("b", 2), ("c", 3)], slice=True)
    array.script(SLICE.format(fault="if each['key'] == 'b': raise ValueError('at b')"))
    result = array.run("a.py")
    assert [record.get("error") for record in result.logged.records] == [
        None,
        "ValueError: at b",
        "ValueError: at b",
    ]
    assert result.returncode == itemplan.EXIT_ITEMS
    assert result.account.failed_items == "1-2"


def test_a_slice_that_ends_badly_after_its_last_line_is_a_failed_index(tmp_path: Path) -> None:
    array = Array(tmp_path, [("a", 1)], slice=True)
    array.script(SLICE.format(fault="pass") + "sys.exit(7)")
    result = array.run("a.py")
    assert result.returncode == itemplan.EXIT_ITEMS
    assert (result.account.done, result.account.failed) == (1, 0)
    assert result.account.error == {
        "key": "",
        "message": "the script exited with code 7",
        "exit_code": 1,
    }


def test_a_slice_that_is_told_to_end_keeps_its_lines(tmp_path: Path) -> None:
    array = Array(tmp_path, [("a", 1), ("b", 2)], slice=True)
    fault = "if each['key'] == 'b': open('began', 'w'); __import__('time').sleep(600)"
    array.script(SLICE.format(fault=fault))
    runner = array.start("a.py")
    until((tmp_path / "began").exists)
    result = array.end(runner, signal.SIGTERM)
    assert result.returncode == 143
    a, b = result.logged.records
    assert ("error" in a, b["error"]) == (False, "ended by SIGTERM")


# --- programs -------------------------------------------------------------------------------------


def test_programs_end_with_their_exit_code_and_last_words(tmp_path: Path) -> None:
    array = Array(tmp_path, ["true", "echo first >&2; echo last >&2; exit 3", "kill -9 $$"])
    result = array.run("--no-python", "sh", "-c", "{item}")
    well, badly, killed = result.logged.records
    assert "error" not in well
    assert (badly["exit_code"], badly["error"]) == (3, "exit code 3: last")
    assert (killed["exit_code"], killed["error"]) == (137, "killed by SIGKILL")


def test_a_program_has_the_signals_of_a_shell_s_and_no_descriptor_of_ours(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"])
    result = array.run("--no-python", "sh", "-c", "grep SigIgn /proc/self/status; ls /proc/$$/fd")
    ignored, *descriptors = result.output.split()[1:]
    assert not int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    assert descriptors == ["0", "1", "2"]


def test_a_program_that_is_not_there_fails_before_any_item(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"])
    result = array.run("--no-python", "./none.sh", "{item}")
    assert result.returncode == EXIT_CODE
    assert "./none.sh: no such program" in result.failure["message"]
    assert "item 1" not in result.err


def test_programs_that_are_items_fail_one_by_one(tmp_path: Path) -> None:
    array = Array(tmp_path, ["./none", "./text", "true"])
    (tmp_path / "text").write_text("echo no first line\n")
    (tmp_path / "text").chmod(0o755)
    none, text, well = array.run("--no-python", "{item}").logged.records
    assert (none["exit_code"], none["error"]) == (
        127,
        "./none: cannot be run: No such file or directory",
    )
    assert "first line" in text["error"] or text["error"].startswith("exit code")
    assert well["exit_code"] == 0


# --- what is preloaded ----------------------------------------------------------------------------


def test_a_module_is_imported_once_for_all_items_from_where_the_script_is(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("slow", "json.tool"))
    (tmp_path / "sub").mkdir()
    array.script("with open('imports', 'a') as f: f.write('x')", "sub/slow.py")
    array.script("import slow, sys; print('json.tool' in sys.modules, sys.path[:2])", "sub/a.py")
    result = array.run("sub/a.py")
    plain = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.path[1])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert result.output.splitlines() == [f"True {[str(tmp_path / 'sub'), plain]}"] * 2
    assert (tmp_path / "imports").read_text() == "x"


@pytest.mark.parametrize(
    ("module", "said"),
    [("none", "ModuleNotFoundError"), ("broken", "ZeroDivisionError"), ("leaves", "SystemExit")],
)
def test_a_module_that_cannot_be_imported_fails_before_any_item(
    tmp_path: Path, module: str, said: str
) -> None:
    array = Array(tmp_path, ["a"], preload=(module,))
    array.script("1 / 0", "broken.py")
    array.script("import sys; sys.exit(3)", "leaves.py")
    array.script("print('ran')")
    result = array.run("a.py")
    assert result.returncode == EXIT_CODE
    assert f"cannot import {module}, which is to be preloaded: {said}" in result.failure["message"]
    assert result.output == ""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("jobs:nothere", "--function jobs:nothere: jobs has no nothere"),
        ("jobs:Box.nothere", "jobs has no Box.nothere"),
        ("jobs:number", "number of jobs is no function: 3"),
    ],
)
def test_a_function_that_is_not_there_is_told_before_any_item(
    tmp_path: Path, function: str, said: str
) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("jobs",))
    array.script("number = 3\nclass Box: pass\n", "jobs.py")
    result = array.run("--function", function)
    assert result.returncode == EXIT_CODE
    assert said in result.failure["message"]
    assert result.out == b""  # no item ran: it would have left a record


def test_items_draw_random_numbers_of_their_own(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("random",))
    array.script("import random; print(random.random())")
    first, second = array.run("a.py").output.split()
    assert first != second


def test_what_an_item_does_to_its_interpreter_is_gone_with_it(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("json",))
    array.script(
        "import json, os, signal, sys\n"
        "print(hasattr(json, 'mine'), 'MINE' in os.environ, os.getcwd() == '/', len(sys.path),\n"
        "      signal.getsignal(signal.SIGTERM), 'new' in sys.modules)\n"
        "json.mine = os.environ['MINE'] = 'x'\n"
        "os.chdir('/'); sys.path.append('x'); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.modules['new'] = json\n"
    )
    first, second = array.run("a.py").output.splitlines()
    assert first == second


def test_a_module_that_an_item_has_written_can_be_imported_by_the_next(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("json",))
    array.script(
        "import sys\n"
        "try: import later; print('found')\n"
        "except ImportError: open('later.py', 'w').close()\n"
    )
    assert array.run("a.py").output == "found\n"


# --- the next pod of an index ---------------------------------------------------------------------

COUNTS = """
import os, sys, time
with open("runs", "a") as f: f.write(sys.argv[1])
with open(os.environ["KIJ_RESULT_FILE"], "w") as f: f.write('{"x": 1}')
if sys.argv[1] == "c" and not os.path.exists("again"):
    open("began", "w").close()
    time.sleep(600)
if sys.argv[1] == "a" and not os.path.exists("again"): sys.exit(5)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_pod_runs_only_what_is_left(tmp_path: Path, signum: int) -> None:
    array = Array(tmp_path, "abcd", results_dir=str(tmp_path / "results"))
    array.script(COUNTS)
    runner = array.start("a.py", "{item}")
    until((tmp_path / "began").exists)
    array.end(runner, signum)
    assert not (array.results / "part-00000.jsonl").exists()
    (tmp_path / "again").touch()
    result = array.run("a.py", "{item}")
    assert result.returncode == 0
    assert (tmp_path / "runs").read_text() == "abc" + "acd"  # b was done; a failed, c was cut short
    assert "4 items, 1 of them done before" in result.err
    assert sorted(keys(array.part())) == ["a", "b", "c", "d"]
    data = (array.results / "part-00000.jsonl").read_bytes()
    assert not results.read_part(data, result.account).damage
    assert [path.name for path in array.results.iterdir()] == ["part-00000.jsonl"]


def test_a_pod_of_an_index_that_is_done_runs_nothing(tmp_path: Path) -> None:
    array = Array(tmp_path, "ab", results_dir=str(tmp_path / "results"))
    array.script("print('ran')")
    first = array.run("a.py")
    data = (array.results / "part-00000.jsonl").read_bytes()
    second = array.run("a.py")
    assert (second.returncode, second.output) == (0, "")
    assert second.message == first.message
    assert (array.results / "part-00000.jsonl").read_bytes() == data


def line(key: str, **more: object) -> str:
    record = {"key": key, "index": 0, "attempt": 0, "seconds": 1, "exit_code": 0, "machine": "m"}
    return dumps({**record, **more})


@pytest.mark.parametrize(
    ("left", "runs"),
    [
        (line("a") + "\n" + line("b")[:30], "bc"),
        (line("a") + "\n" + line("b") + "\n", "c"),
        (line("a") + "\n" + line("b", line=0) + "\n", "bc"),  # of how many?
        (line("a", line=0) + "\n" + line("a", line=1) + "\n" + line("b") + "\n", "c"),
        (line("a") + "\n\x00\x00\x00\n" + line("c"), "b"),
        (line("a", error="x") + "\n" + line("b", exit_code=3), "abc"),
        ("", "abc"),
    ],
)
def test_of_half_a_part_only_what_is_whole_is_taken(tmp_path: Path, left: str, runs: str) -> None:
    array = Array(tmp_path, "abc", results_dir=str(tmp_path / "results"))
    array.script("import sys; open('runs', 'a').write(sys.argv[1])")
    array.results.mkdir()
    (array.results / ".part-00000.jsonl.tmp-0-otherpod-1").write_text(left)
    (array.results / ".part-00000.jsonl.tmp-1-otherattempt-1").write_text(line("c"))
    assert array.run("a.py", "{item}").returncode == 0
    assert (tmp_path / "runs").read_text() == runs
    assert sorted(set(keys(array.part()))) == ["a", "b", "c"]
    assert {path.name for path in array.results.iterdir()} == {
        "part-00000.jsonl",
        ".part-00000.jsonl.tmp-1-otherattempt-1",
    }


def test_two_pods_of_an_index_at_once_do_not_write_to_one_file(tmp_path: Path) -> None:
    """As when a machine is not heard of, but goes on."""
    array = Array(tmp_path, "ab", results_dir=str(tmp_path / "results"))
    array.script(
        "import os, sys, time\n"
        "open('began-' + os.environ['WHO'] + sys.argv[1], 'w').close()\n"
        "while sys.argv[1] == 'b' and not os.path.exists('go'): time.sleep(.01)\n"
    )
    runners = [array.start("a.py", "{item}", env={"WHO": who}) for who in "xy"]
    until(lambda: all((tmp_path / f"began-{who}b").exists() for who in "xy"))
    assert len(list(array.results.iterdir())) == 2
    (tmp_path / "go").touch()
    assert [array.end(runner).returncode for runner in runners] == [0, 0]
    assert keys(array.part()) == ["a", "b"]


# --- faults of the machine ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_is_written(tmp_path: Path, small_disk: Path) -> None:
    array = Array(tmp_path, "abcd", results_dir=str(small_disk / "results"))
    array.script(
        "import os, sys\n"
        "open('runs', 'a').write(sys.argv[1])\n"
        "size = 40_000 if not os.path.exists('again') else 10\n"
        "open(os.environ['KIJ_RESULT_FILE'], 'w').write('\"' + 'x' * size + '\"')\n"
    )
    result = array.run("a.py", "{item}")
    assert result.returncode == EXIT_FAILED  # which Kubernetes tries again
    said = f"cannot write results to {array.results}: No space left on device"
    assert result.failure["message"] == said
    assert f"error: {said}\n" in result.err
    (tmp_path / "again").touch()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    again = array.run("a.py", "{item}")
    assert (tmp_path / "runs").read_text() == "ab" + "bcd"
    assert again.returncode == 0, again.err
    assert keys(array.part()) == ["a", "b", "c", "d"]


def test_a_folder_that_cannot_be_made_is_a_failure_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = str(tmp_path / "file/below")
    for array in (
        Array(tmp_path, ["a"], results_dir=below),
        Array(tmp_path, ["a"], run_dir=below),
    ):
        array.script("print('ran')")
        result = array.run("a.py")
        assert result.returncode == EXIT_FAILED
        assert below in result.failure["message"]
        assert result.output == ""


def test_an_item_that_empties_the_temporary_folder_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    array = Array(tmp_path, ["a", "b"])
    array.script(
        "import os, shutil, sys\n"
        "if sys.argv[1] == 'a': shutil.rmtree('tmp'); os.mkdir('tmp'); sys.exit()\n"
        "open(os.environ['KIJ_RESULT_FILE'], 'w').write('{\"x\": 1}')\n"
    )
    result = array.run("a.py", "{item}", env={"TMPDIR": str(tmp_path / "tmp")})
    assert result.returncode == 0, result.err
    assert result.logged.records[1]["x"] == 1


def test_a_plan_or_settings_that_are_damaged_are_a_failure_before_any_item(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"])
    array.script("print('ran')")
    packed = (tmp_path / "items.xz").read_bytes()
    for damaged, said in ((packed[:-9], "cannot read"), (b"x", "is not what was launched")):
        (tmp_path / "items.xz").write_bytes(damaged)
        result = array.run("a.py")
        assert result.returncode == EXIT_CODE
        assert said in result.failure["message"]
    (tmp_path / "items.xz").write_bytes(packed)
    for env in ({"KIJ_ARRAY": "{}"}, {"JOB_COMPLETION_INDEX": "1"}, {"JOB_COMPLETION_INDEX": "x"}):
        result = array.run("a.py", env=env)
        assert result.returncode == EXIT_CONTRACT
        assert result.output == ""
        assert "Traceback" not in result.err


# --- a rerun --------------------------------------------------------------------------------------


def test_a_rerun_has_the_duty_of_the_first_attempt(tmp_path: Path) -> None:
    array = Array(tmp_path, [f"i{n}" for n in range(12)], indexes=4)
    selection = itemplan.encode_selection(1, [(1, [4]), (3, [9, 11])])
    (tmp_path / "selection.xz").write_bytes(itemplan.compress(selection))
    array.settings = array.settings._replace(
        attempt=1,
        selection=True,
        selection_file=str(tmp_path / "selection.xz"),
        results_dir=str(tmp_path / "attempt-1"),
    )
    array.script(
        "import os; print(*(os.environ[n] for n in\n"
        "    ('JOB_COMPLETION_INDEX', 'KIJ_INDEX', 'KIJ_COUNT', 'KIJ_ATTEMPT', 'KIJ_SEED')))"
    )
    result = array.run("a.py", index=1)
    seeds = [itemplan.seed_of(0, key) for key in ("i9", "i11")]
    assert result.output.splitlines() == [f"3 3 4 1 {seed}" for seed in seeds]
    found = [(record["key"], record["index"], record["attempt"]) for record in array.part(3)]
    assert found == [("i9", 3, 1), ("i11", 3, 1)]
    assert (result.account.index, result.account.attempt) == (3, 1)


# --- runners of this machine ----------------------------------------------------------------------


def serve(array: Array, *argv: str) -> tuple[subprocess.Popen[bytes], int]:
    """A runner that takes indexes, and where it answers."""
    answers, theirs = os.pipe()
    runner = array.start("--serve", str(theirs), *argv, stdin=subprocess.PIPE, pass_fds=[theirs])
    os.close(theirs)
    return runner, answers


def ask(runner: subprocess.Popen[bytes], *numbers: int) -> None:
    assert runner.stdin is not None
    runner.stdin.write(b"".join(b"%d\n" % number for number in numbers))
    runner.stdin.flush()


def test_a_runner_serves_many_indexes_from_one_interpreter(tmp_path: Path) -> None:
    array = Array(
        tmp_path, "abcdef", indexes=3, results_dir=str(tmp_path / "results"), preload=("json",)
    )
    array.script("import os, sys; print(os.getppid())\nif sys.argv[1] == 'c': sys.exit(1)")
    runner, answers = serve(array, "a.py", "{item}")
    with os.fdopen(answers) as lines:
        ask(runner, 2, 0)
        found = [json.loads(lines.readline()) for _ in range(2)]
        ask(runner, 1)
        found.append(json.loads(lines.readline()))
        assert runner.stdin is not None
        runner.stdin.close()
        assert lines.read() == ""
    result = array.end(runner)
    assert result.returncode == 0
    assert [(each["number"], each["exit_code"]) for each in found] == [(2, 0), (0, 0), (1, 120)]
    account = results.decode_account(json.dumps(found[2]["account"]))
    assert account is not None
    assert (account.index, account.failed_items) == (1, "0")
    assert len(set(result.output.split())) == 1
    assert [keys(array.part(index)) for index in range(3)] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert not result.message


def test_a_runner_that_serves_answers_for_what_it_is_told_to_leave(tmp_path: Path) -> None:
    array = Array(tmp_path, "abc", indexes=3, results_dir=str(tmp_path / "results"))
    array.script("import sys, time; open('began', 'w'); time.sleep(600)")
    runner, answers = serve(array, "a.py")
    ask(runner, 0, 1, 2)
    until((tmp_path / "began").exists)
    runner.send_signal(signal.SIGINT)
    with os.fdopen(answers) as lines:
        found = [json.loads(line) for line in lines]
    assert [(each["number"], each["exit_code"]) for each in found] == [(0, 130)]
    assert array.end(runner).returncode == 130
    assert runner.stdin is not None
    runner.stdin.close()


def test_a_runner_without_work_can_be_told_to_end(tmp_path: Path) -> None:
    array = Array(tmp_path, "a")
    array.script("")
    runner, answers = serve(array, "a.py")
    ask(runner, 0)
    with os.fdopen(answers) as lines:
        lines.readline()
        runner.send_signal(signal.SIGTERM)
        assert lines.read() == ""
    assert array.end(runner).returncode == 143
    assert runner.stdin is not None
    runner.stdin.close()


# --- in a pod -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ITEMS, ids=lambda file: file.name)
def test_python_3_8_reads_it(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    "python", [sys.executable, *pythons()[:1]], ids=lambda path: Path(path).parent.parent.name
)
def test_what_a_pod_has_is_all_that_a_runner_needs(tmp_path: Path, python: str) -> None:
    """The files are links in one folder, and there is no kij-train."""
    bundle = tmp_path / "bundle"
    (bundle / "..data").mkdir(parents=True)
    for file in (Path(bootstrap.__file__), *BESIDE, *ITEMS):
        (bundle / "..data" / file.name).write_bytes(file.read_bytes())
        (bundle / file.name).symlink_to(f"..data/{file.name}")
    array = Array(tmp_path, ["a"])
    array.script("import sys, items_of_mine; print(sys.path[0], 'kij_train' in sys.modules)")
    array.script("", "items_of_mine.py")
    result = array.run("a.py", python=python, runner=str(bundle / "items.py"))
    assert (result.returncode, result.output) == (0, f"{tmp_path} False\n"), result.err


def test_an_item_that_writes_too_much_or_lost_its_file_has_failed_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    array = Array(tmp_path, ["a", "b", "gone.csv"], results_dir=str(tmp_path / "results"))
    array.script(
        "import os, sys\n"
        "result = open(os.environ['KIJ_RESULT_FILE'], 'w')\n"
        "if sys.argv[1] == 'a': result.truncate(257 * 2**20)\n"
        "if sys.argv[1] == 'gone.csv': open(sys.argv[1])\n"
    )
    array.run("a.py", "{item}")
    large, well, gone = array.part()
    assert "269,484,032 bytes of results; an item may write 268,435,456" in large["error"]
    assert "error" not in well
    # A file that was there when it was listed.
    assert (gone["key"], "No such file or directory: 'gone.csv'" in gone["error"]) == (
        "gone.csv",
        True,
    )
