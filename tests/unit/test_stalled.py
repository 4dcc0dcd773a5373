"""A local run whose reader stands still, without having left: signals end it all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHATTY = """
import os, pathlib, signal, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("pid").write_text(str(os.getpid()))
n = 0
while "ends" not in sys.argv or n < 100_000:
    n += 1
    print("chatty", file=sys.stderr if "stderr" in sys.argv else sys.stdout)
"""
LAUNCH = [sys.executable, "-m", "kij_train", "launch", "--local", "--no-torchrun"]


def await_stall(launcher: subprocess.Popen[bytes]) -> None:
    """Until the launcher, whose nodes print, has not read for a while: its reader does not."""
    me, last, since = psutil.Process(launcher.pid), -1, time.monotonic()
    while time.monotonic() - since < 1:
        written = me.io_counters().write_bytes + me.io_counters().write_chars
        if written != last or not me.children():
            last, since = written, time.monotonic()
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("stalled", "argv", "signals"),
    [
        ("stdout", [], ["SIGINT", "SIGINT"]),
        ("stdout", ["stubborn"], ["SIGTERM", "SIGTERM"]),
        ("stderr", ["stderr"], ["SIGTERM", "SIGINT"]),
        ("both", [], ["SIGTERM"]),
    ],
)
def test_a_run_whose_reader_stands_still_ends_by_signals(
    tmp_path: Path, stalled: str, argv: list[str], signals: list[str]
) -> None:
    (tmp_path / "train.py").write_text(CHATTY)
    unread, pipe = os.pipe()
    elsewhere = subprocess.DEVNULL
    with subprocess.Popen(
        [*LAUNCH, "--grace", "2s", "train.py", *argv],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=elsewhere if stalled == "stderr" else pipe,
        stderr=elsewhere if stalled == "stdout" else pipe,
        start_new_session=True,
    ) as launcher:
        os.close(pipe)
        try:
            await_stall(launcher)
            for number, name in enumerate(signals):
                time.sleep(0.2 if number else 0)  # two at once may be heard as one
                launcher.send_signal(getattr(signal, name))
            assert launcher.wait(timeout=60) == 128 + getattr(signal, signals[0])
        finally:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
            os.close(unread)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not list(tmp_path.glob("kij-train-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_run_that_has_ended_waits_for_its_reader(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(CHATTY)
    with subprocess.Popen(
        [*LAUNCH, "train.py", "ends"], cwd=tmp_path, stdout=subprocess.PIPE
    ) as launcher:
        await_stall(launcher)
        assert launcher.communicate(timeout=60)[0].count(b"chatty\n") == 100_000
        assert launcher.returncode == 0
