"""An attached launch, interrupted: it detaches, and the job goes on."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kube import Namespace, eventually


@pytest.fixture
def line(ns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("print(1)\n")
    monkeypatch.chdir(tmp_path / "project")
    command = [sys.executable, "-m", "kij_train", "launch", "--kubeconfig", ns.kubeconfig]
    # A selector that no node has: the pods stay pending.
    return [*command, "-n", ns.name, "--name", "a", "--node-selector", "no=where", "train.py"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_it_detaches_and_says_how_to_go_on(
    ns: Namespace, line: list[str], signum: signal.Signals
) -> None:
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "pending 1" not in process.stderr.readline():
            pass
        process.send_signal(signum)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 128 + signum
    assert "error" not in err
    assert "a goes on without us" in err
    assert f"kij-train delete a -n {ns.name}" in err
    assert ns.batch.read_namespaced_job("a", ns.name).spec.suspend is False


def on_a_terminal(line: list[str], answer: bytes) -> tuple[int, str]:
    """Run on a pseudo terminal, press Ctrl-C once pods are pending, answer the question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(line[0], line, {**os.environ, "TERM": "xterm"})
    seen, sent = "", 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:  # the other side is gone
            break
        if sent == 0 and re.search(r"pending\W.*\b1\b", seen):
            os.write(terminal, b"\x03")
            sent = 1
        elif sent == 1 and "[c]ancel" in seen:
            os.write(terminal, answer)
            sent = 2
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


@pytest.mark.parametrize(("answer", "ends"), [(b"d\n", 0), (b"\n", 0), (b"\x03", 130)])
def test_on_a_terminal_it_asks_and_detaches(
    ns: Namespace, line: list[str], answer: bytes, ends: int
) -> None:
    code, seen = on_a_terminal(line, answer)
    assert code == ends, seen
    assert "goes on without us" in seen
    assert f"kij-train attach a -n {ns.name}" in seen
    assert "error" not in seen
    assert ns.batch.read_namespaced_job("a", ns.name).spec.suspend is False


def test_on_a_terminal_attach_asks_and_cancels(ns: Namespace, line: list[str]) -> None:
    subprocess.run([*line[:-1], "--detach", line[-1]], check=True, capture_output=True)
    attach = ["attach", "--kubeconfig", ns.kubeconfig, "-n", ns.name, "a"]
    code, seen = on_a_terminal([*line[:3], *attach], b"c\n")
    assert code == 130, seen
    assert "error" not in seen
    assert "a is cancelled" in seen
    assert ns.batch.read_namespaced_job("a", ns.name).spec.suspend is True
    assert eventually(lambda: not any(n.startswith("pods/") for n in ns.left()), 30)


def test_a_job_deleted_underneath_ends_it_with_exit_code_4(ns: Namespace, line: list[str]) -> None:
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "pending 1" not in process.stderr.readline():
            pass
        ns.delete_job("a")
        _, err = process.communicate(timeout=180)
    assert process.returncode == 4
    assert "job a was deleted while we watched" in err
