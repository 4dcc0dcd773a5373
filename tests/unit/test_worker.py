"""A rank: the script sees what `python SCRIPT` shows it, and ends as that would end it."""

from __future__ import annotations

import json
import os
import py_compile
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kij_train import pod
from kij_train.diagnosis import parse_record
from kij_train.pod import bootstrap, contract, lines, records, stacks, worker

from tests.mainprogram import CONTAINERS, MODULES, SCRIPTS, make_project, pythons


def run(
    folder: Path, *line: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line,
        cwd=folder,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_rank(
    folder: Path, *argv: str, python: str = sys.executable, record: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = {"RANK": "3"}
    if record:
        env["TORCHELASTIC_ERROR_FILE"] = str(record)
    return run(folder, python, "-u", worker.__file__, contract.WORKER, *argv, env=env)


def run_python(
    folder: Path, *argv: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    return run(folder, python, "-u", *argv, env={"RANK": "3"})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The same program in every form that Python takes."""
    return make_project(tmp_path)


@pytest.mark.parametrize("form", SCRIPTS + CONTAINERS + MODULES)
def test_a_script_sees_what_python_shows_it(project: Path, form: str) -> None:
    plain = run_python(project, *form.split(), "--lr", "a b")
    assert plain.returncode == 0, plain.stderr
    rank = run_rank(project, *form.split(), "--lr", "a b")
    facts, late = rank.stdout.split("\n", 1)
    expected, expected_late = plain.stdout.split("\n", 1)
    assert json.loads(facts) == json.loads(expected)
    assert (late, rank.stderr) == (expected_late, plain.stderr)
    assert late == "thread True True\natexit True True\n"
    seen = json.loads(facts)
    assert Path(seen["file"]).is_absolute() or form == "app.pyz"
    assert "class Batch" in seen["source"]


@pytest.mark.parametrize("form", ["sub/train.py", "sub/folder", "-m pkg.train"])
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name)
def test_other_pythons_show_the_same(project: Path, form: str, python: str) -> None:
    plain = run_python(project, *form.split(), "x", python=python)
    rank = run_rank(project, *form.split(), "x", python=python)
    assert (rank.returncode, plain.returncode) == (0, 0), rank.stderr
    facts, expected = (json.loads(each.stdout.split("\n", 1)[0]) for each in (rank, plain))
    if "3.8" in python:  # which gives places as they were given, lost after a chdir
        for said in (facts, expected):
            for name in ("file", "source", "path", "warned", "helper"):
                del said[name]
            del said["values"]["__file__"], said["values"]["__loader__"]
    assert facts == expected
    assert rank.stdout.split("\n")[1:] == plain.stdout.split("\n")[1:]


def test_a_compiled_script_runs(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(__file__, __loader__.__class__.__name__, __cached__)")
    py_compile.compile(str(tmp_path / "a.py"), str(tmp_path / "a.pyc"))
    plain, rank = run_python(tmp_path, "a.pyc"), run_rank(tmp_path, "a.pyc")
    assert (rank.stdout, rank.stderr) == (plain.stdout, plain.stderr)
    assert "SourcelessFileLoader" in rank.stdout


@pytest.mark.parametrize("flags", [["-W", "error"], ["-O"], ["-X", "utf8"]])
def test_flags_of_python_hold(project: Path, flags: list[str]) -> None:
    line = (sys.executable, "-u", *flags)
    plain = run(project, *line, "train.py")
    rank = run(project, *line, worker.__file__, contract.WORKER, "train.py")
    assert (rank.returncode, rank.stdout) == (plain.returncode, plain.stdout)
    assert rank.stderr == plain.stderr


@pytest.mark.parametrize("safe", ["PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE"])
def test_variables_of_python_hold(project: Path, safe: str) -> None:
    (project / "elsewhere/also.py").touch()
    env = {safe: "1", "PYTHONPATH": str(project / "elsewhere")}
    plain = run(project, sys.executable, "-u", "sub/train.py", env=env)
    rank = run(
        project, sys.executable, "-u", worker.__file__, contract.WORKER, "sub/train.py", env=env
    )
    assert (rank.stdout, rank.stderr) == (plain.stdout, plain.stderr)


def test_functions_of_the_script_can_be_spawned(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import multiprocessing as mp, pickle\n"
        "class A: pass\n"
        "def work(q): q.put(type(pickle.loads(pickle.dumps(A()))).__module__)\n"
        "if __name__ == '__main__':\n"
        "    import os; os.chdir('/')\n"
        "    c = mp.get_context('spawn'); q = c.Queue()\n"
        "    p = c.Process(target=work, args=(q,)); p.start(); print(q.get()); p.join()\n"
    )
    for form in (["a.py"], ["-m", "a"]):
        env = {"PYTHONPATH": str(tmp_path), "RANK": "0"}
        line = [sys.executable, "-u", worker.__file__, contract.WORKER, *form]
        result = run(tmp_path, *line, env=env)
        assert (result.stdout, result.returncode) == ("__mp_main__\n", 0), result.stderr


ENDS = {
    "exception": "def f():\n    raise ValueError('bad batch')\nf()",
    "chain": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
    "syntax": "def f(:",
    "encoding": "# coding: latin-1\nprint('\xe9')",
    "cancelled": "import asyncio\nraise asyncio.CancelledError('stop')",
    "cancelled task": "import asyncio\nasync def f():\n    asyncio.current_task().cancel()\n"
    "    await asyncio.sleep(9)\nasyncio.run(f())",
    "generator exit": "raise GeneratorExit",
    "interrupt": "raise KeyboardInterrupt",
    "sigint": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)",
    "own": "class Stop(BaseException): pass\nraise Stop('of our own')",
    "hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno)\n1 / 0",
    "last": "import atexit, sys, traceback\n"
    "def late():\n"
    "    print(sys.last_type, sys.excepthook is sys.__excepthook__)\n"
    "    traceback.print_tb(sys.last_traceback)\n"
    "atexit.register(late)\n1 / 0",
    "thread": "import threading, time\ndef f():\n    time.sleep(.1)\n    1 / 0\n"
    "threading.Thread(target=f, name='t').start()\nraise ValueError('first')",
    "exit in a thread": "import sys, threading\n"
    "threading.Thread(target=sys.exit, args=(3,)).start()",
    "exit in atexit": "import atexit, os\natexit.register(os._exit, 7)",
    "words": "raise SystemExit('no data')",
    "no words": "raise SystemExit('')",
    "number": "raise SystemExit(0.0)",
    "minus one": "import sys\nsys.exit(-1)",
    "256": "import sys\nsys.exit(256)",
    "large": "import sys\nsys.exit(2**40)",
    "huge": "import sys\nsys.exit(-2**70)",
    "true": "import sys\nsys.exit(True)",
    "false": "import sys\nsys.exit(False)",
    "none": "raise SystemExit",
    "137": "import sys\nsys.exit(137)",
    "kill": "import os\nos.kill(os.getpid(), 9)",
    "abort": "import os\nos.abort()",
    "child": "import os\nif os.fork() == 0: raise ValueError\nos.wait()",
    "print": "import os\nprint('calling the kernel ...', end='')\nos.kill(os.getpid(), 11)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends_as_python_ends_it(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.py").write_bytes(ENDS[end].encode("latin-1"))
    plain, rank = run_python(tmp_path, "a.py"), run_rank(tmp_path, "a.py")
    assert rank.returncode == plain.returncode
    assert (rank.stdout, rank.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.parametrize("form", [["none.py"], ["-m", "none"], ["-m", "pkg.none"], ["empty"]])
def test_what_is_not_there_is_told_as_python_tells_it(tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    plain = run_python(tmp_path, *form)
    rank = run_rank(tmp_path, *form, record=tmp_path / "record")
    assert (rank.returncode, rank.stderr) == (plain.returncode, plain.stderr)
    failure = parse_record((tmp_path / "record").read_text(), index=0)
    assert failure is not None
    assert failure.message in rank.stderr


RECORDS = {
    "exception": ("ValueError: bad batch", None),
    "cancelled": ("asyncio.exceptions.CancelledError: stop", None),
    "generator exit": ("GeneratorExit", None),
    "interrupt": ("KeyboardInterrupt", None),
    "own": ("Stop: of our own", None),
    "syntax": ("  File", None),
    "words": ("no data", 1),
    "no words": ("rank 3 exited with code 1", 1),
    "number": ("0.0", 1),
    "minus one": ("rank 3 exited with code 255", 255),
    "huge": ("rank 3 exited with code 255", 255),
    "true": ("rank 3 exited with code 1", 1),
    "137": ("rank 3 exited with code 137", 137),
}


@pytest.mark.parametrize("end", RECORDS)
def test_what_ended_the_script_is_recorded(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.py").write_text(ENDS[end])
    run_rank(tmp_path, "a.py", record=tmp_path / "record")
    failure = parse_record((tmp_path / "record").read_text(), index=0)
    assert failure is not None
    message, code = RECORDS[end]
    assert failure.message.startswith(message.strip())
    assert (failure.rank, failure.exit_code) == (3, code)
    assert "worker.py" not in failure.callstack + failure.message
    assert "runpy" not in failure.callstack
    assert bool(failure.callstack) == (code is None and end != "syntax")  # whose message is all


@pytest.mark.parametrize("end", ["256", "large", "false", "none", "child"])
def test_a_good_end_has_no_record(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.py").write_text(ENDS[end])
    assert run_rank(tmp_path, "a.py", record=tmp_path / "record").returncode == 0
    assert not (tmp_path / "record").exists()


def test_a_record_is_there_even_where_python_aborts_after_sys_exit(tmp_path: Path) -> None:
    """As with threads of a process group that is not ended."""
    (tmp_path / "a.py").write_text(
        "import sys, os, atexit; atexit.register(os.abort); os.environ.clear(); sys.exit(3)"
    )
    run_rank(tmp_path, "a.py", record=tmp_path / "record")
    assert records.read_record(str(tmp_path / "record"))["kij"]["exit_code"] == 3


ODD_EXCEPTION = """
class Odd(Exception):
    {odd}
def f():
    raise Odd('x')
f()
"""
ODD_CODE = """
import sys
class Odd{base}:
    {odd}
try:
    raise ValueError('handled')
except ValueError:
    sys.exit(Odd({value}))
"""
RAISES = "def {}(self, *args): raise ValueError('odd')"
EXITS = "def {}(self, *args): raise SystemExit(0)"


def odd_code(odd: str, base: str = "", value: str = "") -> str:
    return ODD_CODE.format(odd=odd, base=base, value=value)


ODD = {
    "str": (ODD_EXCEPTION.format(odd=RAISES.format("__str__")), "Odd: <"),
    "str exits": (ODD_EXCEPTION.format(odd=EXITS.format("__str__")), "Odd: <"),
    "str raises itself": (ODD_EXCEPTION.format(odd="def __str__(self): raise self"), "Odd: <"),
    "repr": (
        ODD_EXCEPTION.format(odd=RAISES.format("__repr__") + "\n    __str__ = __repr__"),
        "Odd: <",
    ),
    "traceback": (ODD_EXCEPTION.format(odd="__traceback__ = property(lambda s: 1 / 0)"), "Odd: x"),
    "traceback none": (ODD_EXCEPTION.format(odd="__traceback__ = None"), "Odd: x"),
    "class": (ODD_EXCEPTION.format(odd="__class__ = property(lambda self: 1 / 0)"), "Odd: x"),
    "cannot be set": (ODD_EXCEPTION.format(odd=RAISES.format("__setattr__")), "Odd: x"),
    "syntax error": ("raise SyntaxError('x', ('f', 'a', 'b', 'c'))", "SyntaxError: x"),
    "huge": ("raise ValueError('x' * 5_000_000)", "ValueError: xxx"),
    "subclass of str": (
        "class S(str):\n    def strip(self, *a): 1 / 0\n    rstrip = endswith = strip\n"
        "class Odd(Exception):\n    __str__ = lambda self: S('x')\nraise Odd",
        "Odd: x",
    ),
    "code without text": (odd_code(RAISES.format("__str__")), "rank 3 exited with code 1"),
    "code that exits": (odd_code(EXITS.format("__str__")), "rank 3 exited with code 1"),
    "code of a subclass of str": (
        odd_code(
            "def __bool__(self): 1 / 0\n    strip = __len__ = __eq__ = __bool__", "(str)", "'x'"
        ),
        "x",
    ),
    "code of a subclass of int": (
        odd_code(
            "def __and__(self, n): 1 / 0\n    __le__ = __lt__ = __str__ = __and__", "(int)", "3"
        ),
        "ValueError: handled\nrank 3 then exited with code 3",
    ),
    "exit without code": (
        "class Odd(SystemExit):\n    code = property(lambda self: 1 / 0)\nraise Odd(3)",
        "3",
    ),
    "exit without attributes": (
        "class Odd(SystemExit):\n    def __getattribute__(self, name): 1 / 0\nraise Odd(3)",
        "3",
    ),
    "exit without cause": (
        "class Odd(SystemExit):\n    __cause__ = __context__ = property(lambda self: 1 / 0)\n"
        "    __suppress_context__ = __cause__\n    __eq__ = lambda *a: 1 / 0\n    __hash__ = None\n"
        "try:\n    raise Odd(2)\nexcept Odd:\n    raise Odd(3)",
        "rank 3 exited with code 3",
    ),
    "cause": (
        "class Odd(Exception):\n    __traceback__ = property(lambda self: 1 / 0)\n"
        "    __str__ = __bool__ = lambda self: 1 / 0\n"
        "try:\n    raise Odd\nexcept Odd:\n    raise SystemExit(3)",
        "Odd: <",
    ),
}
"""Scripts, and how the messages of their records begin."""


@pytest.mark.parametrize("end", ODD)
def test_what_cannot_be_asked_about_is_recorded_as_python_prints_it(
    tmp_path: Path, end: str
) -> None:
    script, message = ODD[end]
    (tmp_path / "a.py").write_text(script)
    plain = run_python(tmp_path, "a.py")
    rank = run_rank(tmp_path, "a.py", record=tmp_path / "record")
    assert (rank.returncode, rank.stdout) == (plain.returncode, plain.stdout)
    if not end.startswith("code "):  # after which Python 3.13 stumbles at its own end
        assert rank.stderr == plain.stderr
    assert "worker.py" not in rank.stderr
    failure = parse_record((tmp_path / "record").read_text(), index=0)
    assert failure is not None
    assert failure.message.startswith(message)
    assert "worker.py" not in failure.callstack + failure.message


def test_an_exception_that_python_can_only_dump_is_recorded(tmp_path: Path) -> None:
    """Python prints its address; so does a rank, of another one."""
    (tmp_path / "a.py").write_text(ODD_EXCEPTION.format(odd=RAISES.format("__getattribute__")))
    rank = run_rank(tmp_path, "a.py", record=tmp_path / "record")
    assert rank.returncode == 1
    assert "worker.py" not in rank.stderr
    failure = parse_record((tmp_path / "record").read_text(), index=0)
    assert failure is not None
    assert failure.message == "Odd: x"
    assert "line 5, in f" in failure.callstack


HANDLED = "def f(): raise ValueError('bad batch')\ntry:\n    f()\nexcept ValueError:\n    "
PARSER = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', type=float)\n"


@pytest.mark.parametrize(
    ("script", "message", "line"),
    [
        # As Hydra does it.
        (HANDLED + "raise SystemExit(1)", "ValueError: bad batch", "line 1, in f"),
        (HANDLED + "import sys; sys.exit(3)", "ValueError: bad batch", "line 1, in f"),
        (
            HANDLED
            + "try:\n        raise SystemExit(1)\n    finally:\n        raise SystemExit(2)",
            "ValueError: bad batch",
            "line 1, in f",
        ),
        (HANDLED + "raise SystemExit('it failed')", "it failed", "line 1, in f"),
        (HANDLED + "raise SystemExit(4) from None", "rank 3 exited with code 4", ""),
        (HANDLED + "pass\nraise SystemExit(4)", "rank 3 exited with code 4", ""),
        (PARSER + "p.parse_args(['--lr', 'x'])", "argument --lr: invalid float value: 'x'", "line"),
    ],
)
def test_an_exception_that_became_an_exit_code_is_the_cause(
    tmp_path: Path, script: str, message: str, line: str
) -> None:
    (tmp_path / "a.py").write_text(script)
    run_rank(tmp_path, "a.py", record=tmp_path / "record")
    failure = parse_record((tmp_path / "record").read_text(), index=0)
    assert failure is not None
    assert message in failure.message.splitlines()[0]
    assert ("rank 3 then exited with code" in failure.message) == ("Error" in failure.message)
    assert line in failure.callstack
    assert bool(failure.callstack) == bool(line)


# --- a crash --------------------------------------------------------------------------------------

CRASH = """
import os, signal, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
{more}
def kernel():
    os.kill(os.getpid(), signal.{name})
def step():
    kernel()
step()
"""


def crash(folder: Path, name: str, more: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "a.py").write_text(CRASH.format(name=name, more=more))
    line = [sys.executable, "-u", worker.__file__, contract.WORKER, "a.py"]
    env = {"RANK": "3", "LOCAL_RANK": "0", contract.ENV_RANKS_DIR: str(folder)}
    return run(folder, *line, env=env)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
def test_a_rank_that_crashes_leaves_its_stack(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crash(tmp_path, name).returncode == -signal.Signals[name]
    left = stacks.crash_file(str(tmp_path), 0)
    frames = [
        f'  File "{tmp_path}/a.py", line {n}, in {f}' for n, f in [(9, "<module>"), (8, "step")]
    ]
    assert stacks.stack_of_a_crash(left) == "\n".join(
        [*frames, f'  File "{tmp_path}/a.py", line 6, in kernel']
    )
    stacks.show_crash(left)
    said = capsys.readouterr().err
    assert "Fatal Python error" in said
    assert "in kernel" in said
    assert "worker.py" not in said
    assert '"sys"' not in said


def test_a_script_may_use_faulthandler_itself(tmp_path: Path) -> None:
    result = crash(tmp_path, "SIGSEGV", "import faulthandler; faulthandler.enable()")
    assert "in kernel" in result.stderr
    assert stacks.stack_of_a_crash(stacks.crash_file(str(tmp_path), 0)) == ""


def test_no_crash_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stacks.stack_of_a_crash(str(tmp_path / "none")) == ""
    stacks.show_crash(str(tmp_path / "none"))
    assert capsys.readouterr().err == ""


# --- the lines of several ranks -------------------------------------------------------------------

NODE = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from kij_train.pod import lines
script, folder, ranks = sys.argv[2:5]
with lines.Lines(folder, int(ranks)):
    started = [
        subprocess.Popen(
            [sys.executable, "-u", lines.__file__.replace("lines", "worker"), "--worker", script],
            env={**os.environ, "RANK": str(n), "LOCAL_RANK": str(n), "KIJ_RANKS_DIR": folder},
        )
        for n in range(int(ranks))
    ]
    codes = [each.wait() for each in started]
print("ended", codes, file=sys.stderr)
"""


def node(tmp_path: Path, script: str, ranks: int = 2, **options: Any) -> tuple[str, str]:
    (tmp_path / "a.py").write_text(script)
    (tmp_path / "pipes").mkdir()
    root = str(Path(worker.__file__).parent.parent.parent)
    line = [sys.executable, "-c", NODE, root, "a.py", str(tmp_path / "pipes"), str(ranks)]
    options.setdefault("stderr", subprocess.PIPE)
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        out, err = process.communicate(timeout=60)
    return out, err or ""


def test_lines_of_several_ranks_stay_whole(tmp_path: Path) -> None:
    script = "import os\nfor n in range(3000): print(os.environ['RANK'] * 20, n)\n"
    out, _ = node(tmp_path, script, 3)
    expected = [f"{rank * 20} {n}" for rank in "012" for n in range(3000)]
    assert sorted(out.splitlines()) == sorted(expected)
    for rank in "012":
        assert [line for line in out.splitlines() if line[0] == rank] == [
            line for line in expected if line[0] == rank
        ]


def test_what_several_ranks_have_not_ended_is_there_when_they_crash(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "sys.stdout.write('calling the kernel ' + os.environ['RANK'])\n"
        "sys.stderr.write('no newline')\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    out, err = node(tmp_path, script)
    assert sorted(out.splitlines()) == ["calling the kernel 0", "calling the kernel 1"]
    assert err.count("no newline") == 2
    assert "ended [-11, -11]" in err


def test_dots_come_one_by_one(tmp_path: Path) -> None:
    """While the ranks wait for a file that is made when the first two dots are there."""
    script = (
        "import os, time\n"
        "if os.environ['RANK'] == '0':\n"
        "    print('..', end='')\n"
        "    while not os.path.exists('go'): time.sleep(.01)\n"
        "    print('.')\n"
    )
    (tmp_path / "a.py").write_text(script)
    (tmp_path / "pipes").mkdir()
    root = str(Path(worker.__file__).parent.parent.parent)
    line = [sys.executable, "-c", NODE, root, "a.py", str(tmp_path / "pipes"), "2"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b".."
        (tmp_path / "go").touch()
        assert process.communicate(timeout=30)[0] == b".\n"


def test_a_line_of_another_rank_does_not_go_into_one_that_is_open(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "if os.environ['RANK'] == '0':\n"
        "    print('open', end=''); open('begun', 'w').close()\n"
        "    while not os.path.exists('go'): time.sleep(.01)\n"
        "else:\n"
        "    while not os.path.exists('begun'): time.sleep(.01)\n"
        "    time.sleep(.5); print('whole'); open('go', 'w').close()\n"
    )
    out, _ = node(tmp_path, script)
    assert out.splitlines() == ["open", "whole"]


def test_streams_that_are_one_keep_their_order(tmp_path: Path) -> None:
    script = (
        "import sys\nfor n in range(500):\n    print(n)\n    print(n, 'err', file=sys.stderr)\n"
    )
    out, _ = node(tmp_path, script, 1, stderr=subprocess.STDOUT)
    expected = [line for n in range(500) for line in (str(n), f"{n} err")]
    assert out.splitlines()[:-1] == expected


def test_a_rank_does_not_wait_for_a_node_that_reads_no_more(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('here')")
    for stream in (1, 2):
        os.mkfifo(lines.pipe_path(str(tmp_path), "0", stream))
    line = [sys.executable, "-u", worker.__file__, contract.WORKER, "a.py"]
    env = {"RANK": "0", "LOCAL_RANK": "0", contract.ENV_RANKS_DIR: str(tmp_path)}
    assert run(tmp_path, *line, env=env).stdout == "here\n"


def test_ranks_whose_reader_is_gone_end_as_any_program_does(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("for n in range(10**7): print(n)")
    (tmp_path / "pipes").mkdir()
    root = str(Path(worker.__file__).parent.parent.parent)
    line = [sys.executable, "-c", NODE, root, "a.py", str(tmp_path / "pipes"), "2"]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=30) == 0
    assert said.count("BrokenPipeError") == 2
    assert "ended [1, 1]" in said


def test_what_lies_beside_the_bootstrap_is_all_that_it_needs(tmp_path: Path) -> None:
    """As in a pod, where the files are links into one folder, and there is no kij-train."""
    (tmp_path / "..data").mkdir()
    for file in (Path(bootstrap.__file__), *pod.BESIDE):
        (tmp_path / "..data" / file.name).write_bytes(file.read_bytes())
        (tmp_path / file.name).symlink_to(f"..data/{file.name}")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("import sys; print(sys.argv, sys.path)")
    line = [sys.executable, "-S", "-u"]
    plain = run(tmp_path / "code", *line, "a.py")
    rank = run(tmp_path / "code", *line, str(tmp_path / "worker.py"), contract.WORKER, "a.py")
    assert (rank.stdout, rank.stderr) == (plain.stdout, "")
