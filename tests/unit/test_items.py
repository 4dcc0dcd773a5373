"""The runner of an array: every item once, in its own process, with a record of how it went."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kij_train.pod import itemplan, results
from kij_train.pod.status import ItemStarts

from tests.itemrunner import Array, Result, is_running, keys, until
from tests.mainprogram import CONTAINERS, MODULES, SCRIPTS, make_project, pythons

WRITES = "import json, os, sys\nwith open(os.environ['KIJ_RESULT_FILE'], 'a') as f: f.write({})\n"


def test_every_item_runs_once_in_order_and_leaves_a_record(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b c", "d"], indexes=2)
    array.script("import sys\nprint('ran', sys.argv[1:])\n" + WRITES.format("json.dumps({'x': 1})"))
    first, second = (array.run("a.py", "{item}", index=index) for index in (0, 1))
    assert (first.returncode, second.returncode) == (0, 0), first.err + second.err
    assert first.output == "ran ['a']\n"
    assert second.output == "ran ['b c']\nran ['d']\n"
    records = second.logged.records
    assert [(r["key"], r["index"], r["attempt"], r["exit_code"], r["x"]) for r in records] == [
        ("b c", 1, 0, 0, 1),
        ("d", 1, 0, 0, 1),
    ]
    assert all(record["seconds"] > 0 and record["machine"] for record in records)
    account = second.account
    assert (account.index, account.done, account.failed, account.records) == (1, 2, 0, 2)
    short = account.part()
    assert short is not None and short.data == second.logged.data
    assert not second.logged.damage


def test_before_each_item_a_line_says_what_runs_with_its_seed(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a\nb\x1b[31m"])
    array.script("")
    said = array.run("a.py", "{item}").err
    seed = itemplan.seed_of(0, "a\nb\x1b[31m")
    key = "a\\nb\\x1b[31m"
    line = f"kij-train: index 0, item 1 of 1, seed {seed}, key {key}: python a.py '{key}'"
    assert line in said.split("\n")
    found = ItemStarts.read(line)
    assert found is not None
    assert (found.index, found.place, found.items, "kij-train: " + found.text()) == (0, 1, 1, line)
    assert [ItemStarts.read(each) is not None for each in said.split("\n")].count(True) == 1


SEES = """
import json, os, sys
names = sorted(n for n in os.environ if n.startswith("KIJ_") or n == "JOB_COMPLETION_INDEX")
print(json.dumps({n: os.environ[n] for n in names}), "TORCHELASTIC_ERROR_FILE" in os.environ)
"""


def test_an_item_finds_its_duty_in_its_environment(tmp_path: Path) -> None:
    array = Array(tmp_path, [("k", {"url": "x", "n": 1})], seed=5, attempt=2)
    array.script(SEES)
    text, has_error_file = array.run("a.py").output.strip().rsplit(" ", 1)
    found = json.loads(text)
    assert Path(found.pop("KIJ_RESULT_FILE")).is_absolute()
    assert json.loads(found.pop("KIJ_ITEM")) == {"url": "x", "n": 1}
    assert found == {
        "JOB_COMPLETION_INDEX": "0",
        "KIJ_INDEX": "0",
        "KIJ_COUNT": "1",
        "KIJ_KEY": "k",
        "KIJ_SEED": str(itemplan.seed_of(5, "k")),
        "KIJ_ATTEMPT": "2",
        "KIJ_RUN_DIR": str(tmp_path / "run/0"),
    }
    assert has_error_file == "False"
    assert (tmp_path / "run/0").is_dir()


@pytest.mark.parametrize(
    "value", ["$(X) `id` $HOME;", "a'b\"c\\", " x ", "{key} {{n}}", "-n", "\u00e9"]
)
@pytest.mark.parametrize("flag", [[], ["--no-python"]], ids=["python", "program"])
def test_an_item_reaches_its_command_as_it_is(tmp_path: Path, flag: list[str], value: str) -> None:
    array = Array(tmp_path, [value])
    line = [*flag, "printf", "<%s>"] if flag else ["a.py"]
    array.script("import sys; print('<' + sys.argv[1] + '>', end='')")
    assert array.run(*line, "{item}").output == f"<{value}>\n"


def test_fields_of_an_object_fill_the_command(tmp_path: Path) -> None:
    array = Array(tmp_path, [("k", {"url": "u v", "n": 1}), ("odd", {"url": "w"})])
    array.script("import sys; print(sys.argv[1:])")
    result = array.run("a.py", "--url={url}", "{n}", "{index}", "{{n}}")
    assert result.output == "['--url=u v', '1', '0', '{n}']\n"
    assert result.returncode == itemplan.EXIT_ITEMS
    assert result.logged.records[1]["error"].startswith("{n} is none of {item}, {key}")


# --- as Python runs it ----------------------------------------------------------------------------


def seen(text: str) -> tuple[dict[str, Any], list[str]]:
    first, *late = text.strip().split("\n")
    facts = json.loads(first)
    del facts["environ"]
    return facts, late


def run_python(folder: Path, *argv: str, python: str = sys.executable) -> Any:
    line = [python, "-u", *argv]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("forms", [SCRIPTS + CONTAINERS, MODULES], ids=["scripts", "modules"])
def test_a_script_sees_what_python_shows_it(tmp_path: Path, forms: list[str]) -> None:
    """All forms from one interpreter: what one of them has done is nothing to the next."""
    project = make_project(tmp_path)
    array = Array(project, [form.rpartition(" ")[2] for form in forms])
    flags = forms[0].split()[:-1]
    result = array.run(*flags, "{item}", "--lr", "a b")
    assert result.returncode == 0, result.err
    outputs = result.output.split("atexit True True\n")[:-1]
    assert len(outputs) == len(forms)
    for form, output in zip(forms, outputs, strict=True):
        plain = run_python(project, *form.split(), "--lr", "a b")
        assert seen(output + "atexit True True\n") == seen(plain.stdout), form


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name)
def test_other_pythons_run_items_as_well(tmp_path: Path, python: str) -> None:
    project = make_project(tmp_path)
    array = Array(project, ["sub/train.py", "sub/folder"], results_dir=str(tmp_path / "results"))
    result = array.run("{item}", "x", python=python)
    assert result.returncode == 0, result.err
    assert keys(array.part()) == ["sub/train.py", "sub/folder"]
    output = result.output.split("atexit True True\n")[0] + "atexit True True\n"
    facts, late = seen(output)
    expected, expected_late = seen(run_python(project, "sub/train.py", "x", python=python).stdout)
    if "3.8" in python:  # which gives places as they were given, lost after a chdir
        for said in (facts, expected):
            for name in ("file", "source", "path", "warned", "helper"):
                del said[name]
            del said["values"]["__file__"], said["values"]["__loader__"]
    assert (facts, late) == (expected, expected_late)


ENDS = {
    "well": ("pass", 0, None),
    "exception": ("def f():\n    raise ValueError('bad batch')\nf()", 1, "ValueError: bad batch"),
    "lines": ("raise ValueError('several\\nlines')", 1, "ValueError: several · lines"),
    "syntax": ("def f(:", 1, "SyntaxError: "),
    "code": ("import sys\nsys.exit(3)", 3, "the script exited with code 3"),
    "words": ("import sys\nsys.exit('no data')", 1, "no data"),
    "zero": ("import sys\nsys.exit(0)", 0, None),
    "_exit": ("import os\nos._exit(5)", 5, "exit code 5"),
    "_exit well": ("import os\nos._exit(0)", 0, None),
    "exec": ("import os\nos.execvp('sh', ['sh', '-c', 'echo shell; exit 6'])", 6, "exit code 6"),
    "exec well": ("import os\nos.execvp('true', ['true'])", 0, None),
    "interrupt": ("raise KeyboardInterrupt", 130, "killed by SIGINT"),
    "term": ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", 143, "killed by SIGTERM"),
    "kill": ("import os\nos.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
    "segv": ("import os\nos.kill(os.getpid(), 11)", 139, "killed by SIGSEGV"),
    "abort": ("import os\nos.abort()", 134, "killed by SIGABRT"),
    "thread": ("import threading\nthreading.Thread(target=lambda: 1 / 0).start()", 0, None),
    "atexit": ("import atexit, os\natexit.register(os._exit, 7)", 7, "exit code 7"),
    "child": ("import os\nif os.fork() == 0: raise ValueError\nos.wait()", 0, None),
    "async": ("import asyncio\nasyncio.run(asyncio.sleep(0))", 0, None),
    "hook": ("import sys\nsys.excepthook = lambda *a: print('hook', a[0])\n1 / 0", 1, "ZeroDivis"),
    "closes stdout": ("import os\nos.close(1); os.close(2)", 0, None),
    "closes all": ("import os\nos.closerange(0, 100)", 0, None),
    "none": (None, 2, "can't open file"),
    "handler": (
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda *a: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)",
        0,
        None,
    ),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, Result]:
    """All of ENDS in one runner, one after another."""
    folder = tmp_path_factory.mktemp("ends")
    array = Array(folder, [f"{n}.py" for n in range(len(ENDS))])
    for number, (script, _, _) in enumerate(ENDS.values()):
        if script is not None:
            array.script(script, f"{number}.py")
    return array, array.run("{item}")


@pytest.mark.parametrize("number", range(len(ENDS)), ids=list(ENDS))
def test_a_script_ends_as_python_ends_it(ends: tuple[Array, Result], number: int) -> None:
    array, result = ends
    script, code, said = list(ENDS.values())[number]
    record = result.logged.records[number]
    assert record["key"] == f"{number}.py"
    assert record["exit_code"] == code
    assert (said in record["error"]) if said else "error" not in record
    if script is None or "closes" in list(ENDS)[number]:
        return
    plain = run_python(array.folder, f"{number}.py")
    assert code == (plain.returncode if plain.returncode >= 0 else 128 - plain.returncode)
    began = result.err.index(f"key {number}.py: python")
    own = result.err[began:].split("\n", 1)[1].partition("kij-train: ")[0]
    assert own == plain.stderr


def test_the_runner_goes_on_after_items_that_fail(ends: tuple[Array, Result]) -> None:
    _, result = ends
    bad = [n for n, (_, code, _) in enumerate(ENDS.values()) if code]
    assert result.returncode == itemplan.EXIT_ITEMS
    assert result.account.failed == len(bad)
    assert result.account.done == len(ENDS) - len(bad)
    assert result.account.failed_items == itemplan.compress_numbers(bad)
    assert result.account.error == {
        "key": "1.py",
        "message": "ValueError: bad batch",
        "exit_code": 1,
    }
    assert "shell\n" in result.output and "heard\n" in result.output
    assert not result.logged.damage


def test_an_item_has_no_input(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"])
    array.script("import sys; print(repr(sys.stdin.read()))")
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as other:
        runner = array.start("a.py", stdin=other.stdout)
        assert array.end(runner).output == "''\n"
        other.kill()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_item_may_use_multiprocessing(tmp_path: Path, method: str) -> None:
    array = Array(tmp_path, ["2", "3"])
    array.script(
        "import multiprocessing as mp, sys\n"
        "import beside\n"
        "if __name__ == '__main__':\n"
        f"    with mp.get_context('{method}').Pool(2) as pool:\n"
        "        print(sum(pool.map(beside.square, range(int(sys.argv[1])))))\n"
    )
    array.script("def square(n): return n * n\n", "beside.py")
    result = array.run("a.py", "{item}")
    assert (result.output, result.returncode) == ("1\n5\n", 0), result.err


def test_output_passes_through_and_records_have_lines_of_their_own(tmp_path: Path) -> None:
    array = Array(tmp_path, ["big", "half", "binary", "both"])
    array.script(
        "import os, sys\n"
        "if sys.argv[1] == 'big':\n"
        "    for _ in range(100): sys.stdout.write(('x' * 1023 + '\\n') * 1024)\n"
        "elif sys.argv[1] == 'half': os.write(1, b'no end'); os.write(2, b'nor here')\n"
        "elif sys.argv[1] == 'binary': os.write(1, bytes(range(256)))\n"
        "else: print('out'); print('err', file=sys.stderr)\n"
    )
    result = array.run("a.py", "{item}")
    assert result.returncode == 0
    big, rest = result.out[: 100 << 20], result.out[100 << 20 :]
    expected = hashlib.sha256((b"x" * 1023 + b"\n") * 1024 * 100)
    assert hashlib.sha256(big).digest() == expected.digest()
    own = [line for line in rest.split(b"\n") if not line.startswith(results.LINE_PREFIX.encode())]
    assert b"\n".join(own) == b"no end\n" + bytes(range(256)) + b"\nout\n"
    assert keys(
        results.read_part(
            b"".join(
                line.split(b" ", 4)[4] + b"\n"
                for line in rest.split(b"\n")
                if line.startswith(results.LINE_PREFIX.encode())
            )
        ).records
    ) == ["big", "half", "binary", "both"]
    assert "nor here\nkij-train: " in result.err
    assert "err\nkij-train: " in result.err


def test_stdout_and_stderr_that_are_one_keep_their_order(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"], results_dir=str(tmp_path / "results"))
    array.script(
        "import sys\nfor n in range(300):\n    print(n)\n    print(n, 'err', file=sys.stderr)\n"
    )
    runner = array.start("a.py", stderr=subprocess.STDOUT)
    lines = array.end(runner).out.decode().splitlines()
    own = [line for line in lines if not line.startswith("kij-train: ")]
    assert own == [line for n in range(300) for line in (str(n), f"{n} err")]


LEAVES = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        with open("pids", "a") as f: print(os.getpid(), file=f)
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists("pids"): time.sleep(.01)
with open("pids", "a") as f: print(child.pid, file=f)
child.returncode = 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("flag", [[], ["--no-python", sys.executable]], ids=["python", "program"])
def test_nothing_that_an_item_has_started_outlives_it(tmp_path: Path, flag: list[str]) -> None:
    array = Array(tmp_path, ["a", "b"])
    array.script(LEAVES, "leaves.py")
    array.script(
        "import os, sys\n"
        "if sys.argv[1] == 'a': exec(open('leaves.py').read())\n"
        "else:\n"
        "    pids = open('pids').read().split()\n"
        "    print(len(pids), [os.path.exists('/proc/' + pid) for pid in pids])\n"
    )
    result = array.run(*flag, "a.py", "{item}")
    assert result.output == "2 [False, False]\n", result.err
    assert result.returncode == 0


# --- results --------------------------------------------------------------------------------------


def test_what_a_script_writes_wrongly_makes_its_item_a_failed_one(tmp_path: Path) -> None:
    array = Array(tmp_path, ["half", "nan", "big", "many", "folder", "good"])
    array.script(
        "import os, sys\n"
        "path = os.environ['KIJ_RESULT_FILE']\n"
        "if sys.argv[1] == 'folder': os.mkdir(path); sys.exit()\n"
        "with open(path, 'w') as f:\n"
        "    f.write({'half': '{\"a\": 1}\\n{\"a\": ', 'nan': '{\"a\": NaN}\\n',\n"
        "             'big': '\"' + 'x' * 70_000 + '\"',\n"
        "             'many': ('\"' + 'x' * 300 + '\"\\n') * 12_000,\n"
        "             'good': '{\"a\": 2}'}[sys.argv[1]])\n"
    )
    result = array.run("a.py", "{item}")
    half, nan, big, many, folder, good = result.logged.records
    assert half["error"] == 'result line 2 is no JSON: {"a":'
    assert half["a"] == 1
    assert (nan["a"], nan["nan"]) == (None, ["a"]) and "error" not in nan
    assert "the log takes 65,536" in big["error"] and "--results" in big["error"]
    assert "the log takes 4,194,304" in many["error"] and "--results" in many["error"]
    assert folder["error"] == "the result file is no file any more"
    assert good["a"] == 2
    assert result.account.failed_items == "0,2-4"
    assert result.returncode == itemplan.EXIT_ITEMS


def test_a_part_file_holds_what_the_log_would_and_more(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], results_dir=str(tmp_path / "new/results"))
    array.script(WRITES.format("json.dumps({'x': sys.argv[1] * 70_000})"))
    result = array.run("a.py", "{item}")
    assert result.returncode == 0, result.err
    assert [record["x"] for record in array.part()] == ["a" * 70_000, "b" * 70_000]
    data = (array.results / "part-00000.jsonl").read_bytes()
    assert not results.read_part(data, result.account).damage
    assert results.LINE_PREFIX not in result.out.decode()
    assert [path.name for path in array.results.iterdir()] == ["part-00000.jsonl"]


def test_a_result_of_an_item_before_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"])
    array.script(
        "import os, sys\n"
        "if sys.argv[1] == 'a': open(os.environ['KIJ_RESULT_FILE'], 'w').write('{\"x\": 1}')\n"
    )
    assert ["x" in record for record in array.run("a.py", "{item}").logged.records] == [True, False]


# --- retries --------------------------------------------------------------------------------------

FLAKY = """
import os, sys
with open("tries", "a") as f: f.write(sys.argv[1])
if sys.argv[1] == "b" and open("tries").read().count("b") < 3: sys.exit(4)
if sys.argv[1] == "d": raise ValueError("never")
"""


def test_only_what_failed_is_tried_again_after_the_others(tmp_path: Path) -> None:
    array = Array(tmp_path, "abcde", retries=2)
    array.script(FLAKY)
    result = array.run("a.py", "{item}")
    assert (tmp_path / "tries").read_text() == "abcdebdbd"
    assert result.returncode == itemplan.EXIT_ITEMS
    assert sorted(keys(result.logged.records)) == ["a", "b", "c", "d", "e"]
    assert (result.account.failed_items, result.account.done) == ("3", 4)


def test_without_retries_each_item_runs_once(tmp_path: Path) -> None:
    array = Array(tmp_path, "abd")
    array.script(FLAKY)
    array.run("a.py", "{item}")
    assert (tmp_path / "tries").read_text() == "abd"


# --- timeouts and signals -------------------------------------------------------------------------

SLOW = """
import os, signal, sys, time
{handler}
open("began-" + sys.argv[1], "w").close()
if sys.argv[1] != "quick": time.sleep(600)
"""
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
EXITS_WELL = "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))"
SAYS = "signal.signal(signal.SIGTERM, lambda n, f: sys.exit('saved'))"


@pytest.mark.parametrize("handler", ["", IGNORES, EXITS_WELL], ids=["none", "ignores", "exits"])
def test_an_item_that_takes_too_long_is_ended_and_the_next_one_runs(
    tmp_path: Path, handler: str
) -> None:
    array = Array(tmp_path, ["slow", "quick"], item_timeout_s=2, grace_s=0.2)
    array.script(SLOW.format(handler=handler))
    result = array.run("a.py", "{item}")
    slow, quick = result.logged.records
    assert (slow["exit_code"], slow["error"]) == (124, "took longer than 2 s")
    assert quick["exit_code"] == 0


@pytest.mark.parametrize(
    ("handler", "signum", "code", "error"),
    [
        ("", signal.SIGTERM, 143, "ended by SIGTERM"),
        ("", signal.SIGINT, 130, "ended by SIGINT"),
        (SAYS, signal.SIGTERM, 1, "ended by SIGTERM"),
        (IGNORES, signal.SIGTERM, 137, "ended by SIGTERM, not until SIGKILL"),
        (EXITS_WELL, signal.SIGTERM, 0, None),
    ],
)
def test_a_runner_that_is_told_to_end_records_what_is_done(
    tmp_path: Path, handler: str, signum: int, code: int, error: str | None
) -> None:
    array = Array(tmp_path, ["quick", "slow", "never"], grace_s=0.5)
    array.script(SLOW.format(handler=handler))
    runner = array.start("a.py", "{item}")
    until((tmp_path / "began-slow").exists)
    result = array.end(runner, signum)
    assert result.returncode == 128 + signum
    quick, slow = result.logged.records
    assert (quick["exit_code"], slow["exit_code"], slow.get("error")) == (0, code, error)
    assert not (tmp_path / "began-never").exists()
    assert result.account.done == (1 if error else 2)
    assert not result.logged.damage


def test_what_failed_before_the_end_came_is_recorded_too(tmp_path: Path) -> None:
    array = Array(tmp_path, ["bad", "slow"], retries=3)
    array.script("import sys\nif sys.argv[1] == 'bad': sys.exit(9)\n" + SLOW.format(handler=""))
    runner = array.start("a.py", "{item}")
    until((tmp_path / "began-slow").exists)
    result = array.end(runner, signal.SIGTERM)
    assert result.returncode == 143
    assert {r["key"]: r["exit_code"] for r in result.logged.records} == {"bad": 9, "slow": 143}


def test_a_runner_that_waits_for_its_turn_can_be_told_to_end(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a"], jitter_s=100_000)
    array.script("open('began', 'w')")
    runner = array.start("a.py")
    # Its handler is there once it has hidden SIGTERM's own action.
    caught = 1 << (signal.SIGTERM - 1)
    path = Path(f"/proc/{runner.pid}/status")
    until(lambda: int(path.read_text().split("SigCgt:")[1].split()[0], 16) & caught)
    result = array.end(runner, signal.SIGTERM)
    assert result.returncode == 143
    assert not (tmp_path / "began").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("flag", [[], ["--no-python", sys.executable]], ids=["python", "program"])
def test_an_item_does_not_outlive_a_runner_that_is_killed(tmp_path: Path, flag: list[str]) -> None:
    array = Array(tmp_path, ["a"])
    array.script("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    runner = array.start(*flag, "a.py")
    until(lambda: (tmp_path / "out").read_text().endswith("\n"))
    item = int((tmp_path / "out").read_text())
    assert is_running(item)
    assert array.end(runner, signal.SIGKILL).returncode == -signal.SIGKILL
    until(lambda: not is_running(item))


@pytest.mark.parametrize("flag", [[], ["--no-python", sys.executable]], ids=["python", "program"])
def test_an_item_that_kills_what_started_it_has_failed_and_the_next_one_runs(
    tmp_path: Path, flag: list[str]
) -> None:
    array = Array(tmp_path, ["a", "b"])
    array.script(
        "import os, sys, time\nif sys.argv[1] == 'a': os.kill(os.getppid(), 9); time.sleep(600)\n"
    )
    result = array.run(*flag, "a.py", "{item}")
    first, second = result.logged.records
    assert first["error"] == "the process that started it was killed"
    assert second["exit_code"] == 0
    assert result.account.done == 1
