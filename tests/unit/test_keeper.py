"""The first process of a local node: nothing that its command starts outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from kij_train.pod.gang import processes

DAEMONS = """
import os, subprocess, sys
subprocess.Popen(["/usr/bin/env", "-i", "/bin/sleep", "600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve("/bin/sleep", ["sleep", "600"], {})
print("ready", flush=True)
"""
SLEEPS = DAEMONS + "import time; time.sleep(600)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")


@contextmanager
def kept(code: str, grace_s: float = 30) -> Iterator[subprocess.Popen[str]]:
    """A Python with this code, and its keeper, when it says that it is ready."""
    argv = [sys.executable, "-I", "-S", processes.__file__, "PARENT", str(grace_s), "none"]
    with subprocess.Popen(
        [*argv, sys.executable, "-c", code],
        env={**os.environ, "PARENT": str(os.getpid())},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "ready\n"
            yield keeper
        finally:
            keeper.kill()


def below(keeper: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(keeper.pid).children(recursive=True)


def test_what_a_command_leaves_behind_ends_with_it() -> None:
    code = SLEEPS.replace("time.sleep(600)", "sys.stdin.close(); time.sleep(1); sys.exit(7)")
    with kept(code) as keeper:
        left = below(keeper)
        assert len(left) >= 3
        assert keeper.wait(30) == 7
        assert not any(process.is_running() for process in left)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_keeper_ends_by_the_signal_that_ended_its_command(signum: signal.Signals) -> None:
    with kept(SLEEPS) as keeper:
        left = below(keeper)
        psutil.Process(keeper.pid).children()[0].send_signal(signum)
        assert keeper.wait(30) == -signum
        assert not any(process.is_running() for process in left)


@pytest.mark.parametrize("signum", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_signals_are_passed_on_as_they_are(signum: str) -> None:
    code = (
        "import signal, sys, time\n"
        f"signal.signal(signal.{signum}, lambda n, _: sys.exit(n + 50))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    number = getattr(signal, signum)
    with kept(code) as keeper:
        keeper.send_signal(number)
        assert keeper.wait(30) == number + 50


def test_a_command_that_ignores_the_death_of_its_launcher_is_killed_after_the_grace() -> None:
    code = f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPS}"
    launcher = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', {processes.__file__!r}, 'PARENT', '1',\n"
        "    '', sys.executable, '-c', sys.argv[1]], env={'PARENT': str(os.getpid())})\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher, code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        left = psutil.Process(parent.pid).children(recursive=True)
        assert len(left) >= 4
        parent.kill()
    deadline = time.monotonic() + 30
    while any(process.is_running() for process in left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [process for process in left if process.is_running()] == []


LAUNCHER = """
import os, subprocess, sys, time
folder, keeper, names = sys.argv[1], sys.argv[2], sys.argv[3:]
for name in names:
    subprocess.Popen([sys.executable, "-I", "-S", keeper, "PARENT", "1", os.path.join(folder, name),
        sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"],
        env={"PARENT": str(os.getpid())})
time.sleep(600)
"""


def test_the_last_keeper_removes_the_folder_of_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """And no other folder, and not what a link of it leads to."""
    for name in ("kij-train-run", "kij-train-another", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "node-0.json").touch()
    (tmp_path / "kij-train-run" / "link").symlink_to(tmp_path / "mine")
    names = ["kij-train-run"] * 3 + ["mine"]
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), processes.__file__, *names],
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        for _ in names:
            assert launcher.stdout.readline() == "ready\n"
        keepers = psutil.Process(launcher.pid).children()
        keepers[0].children()[0].kill()
        deadline = time.monotonic() + 30
        while keepers[0].status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "kij-train-run/node-0.json").exists()
        launcher.kill()
        assert launcher.stdout.read() == ""  # until the last of them has ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kij-train-another", "mine"]
    assert (tmp_path / "mine/node-0.json").exists()
