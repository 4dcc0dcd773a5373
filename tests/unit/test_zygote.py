"""The process that items are forked from: whose fork it is, and what of the runner it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.itemrunner import Array

PARENT = (
    "import os, sys\n"
    "print(sys.argv[1], open(f'/proc/{os.getppid()}/cmdline').read().split('\\0')[2])\n"
    "if sys.argv[1] == 'kills': os.kill(os.getppid(), 9)\n"
)


def parents(output: str) -> list[tuple[str, str]]:
    """Items, and the file that their parent was started with."""
    words = [line.split() for line in output.splitlines()]
    return [(item, Path(file).name) for item, file in words]


def test_items_are_forked_from_the_first_process_and_from_a_new_one_once_that_fork_is_killed(
    tmp_path: Path,
) -> None:
    array = Array(tmp_path, ["a", "kills", "b", "c"])
    array.script(PARENT)
    result = array.run("a.py", "{item}")
    files = [("a", "items.py"), ("kills", "items.py"), ("b", "zygote.py"), ("c", "zygote.py")]
    assert parents(result.output) == files
    assert [record["exit_code"] for record in result.logged.records] == [0, 137, 0, 0]


def test_what_python_finds_once_the_pod_is_ready_is_there_for_items(tmp_path: Path) -> None:
    """Python reads sitecustomize when it starts: the first process was there before it."""
    array = Array(tmp_path, ["a"])
    array.script("import sys; print(sys.customized)")
    env = {
        "PYTHONPATH": str(tmp_path / "late"),
        "KIJ_SETUP_COMMAND": "mkdir late; echo 'import sys; sys.customized = 7' > "
        "late/sitecustomize.py",
    }
    result = array.run("a.py", env=env)
    assert (result.output, result.returncode) == ("7\n", 0), result.err


SIGNALS_AND_DESCRIPTORS = (
    "import os, signal, sys\n"
    "handlers = [str(signal.getsignal(number)) for number in (1, 2, 3, 13, 15, 17)]\n"
    "fds = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]\n"
    "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    "print(handlers, fds, signal.set_wakeup_fd(-1), blocked, os.getsid(0) == os.getpid())\n"
)


@pytest.mark.parametrize("again", [False, True], ids=["forked", "started anew"])
def test_an_item_has_no_descriptor_and_no_handler_of_the_runner(
    tmp_path: Path, again: bool
) -> None:
    array = Array(tmp_path, ["kills", "a"] if again else ["a"], results_dir=str(tmp_path / "r"))
    array.script(
        "import os, sys\nif sys.argv[1] == 'kills': os.kill(os.getppid(), 9)\n"
        + SIGNALS_AND_DESCRIPTORS
    )
    result = array.run("a.py", "{item}")
    plain = subprocess.run(
        [sys.executable, "-u", "a.py", "a"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert result.output.splitlines()[-1:] == plain.splitlines()


TAKEN_APART = "import json\nclass A:\n    def __del__(self): print('taken apart')\njson.a = A()\n"


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("", ""),
        ("import ctypes\nctypes.CDLL(None).getpid()\n", ""),
        ("import ctypes\nctypes.CDLL('./library.so')\n", "taken apart\n"),
    ],
    ids=["no library", "one that is there already", "a library of its own"],
)
def test_python_ends_an_item_with_a_library_of_its_own(
    tmp_path: Path, script: str, output: str
) -> None:
    """Such a library may have something to do at the end of the process."""
    import _ctypes

    array = Array(tmp_path, ["a"])
    (tmp_path / "library.so").write_bytes(Path(_ctypes.__file__).read_bytes())
    array.script(script + TAKEN_APART)
    result = array.run("a.py")
    assert (result.output, result.returncode) == (output, 0), result.err
