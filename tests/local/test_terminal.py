"""What a shell and a terminal do with a local run: pipes, prompts, signals, helpers left behind.

Most of it is the same with torchrun, which takes seconds to start, so it is tried without.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kij_train import api

ME = [sys.executable, "-m", "kij_train", "launch", "--local"]
PLAIN = [*ME, "--no-torchrun"]


def write(folder: Path, text: str) -> None:
    (folder / "train.py").write_text(text)


def shell(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; $ME is the launch, $PLAIN that without torchrun. Ends are as written."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env={**os.environ, "ME": " ".join(ME), "PLAIN": " ".join(PLAIN), **env},
        capture_output=True,
        timeout=240,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def at_terminal(folder: Path, argv: list[str], *talk: tuple[str, str]) -> tuple[int, str]:
    """A command on a terminal of its own: its exit code, and all that is seen.

    `talk` are texts to wait for, and what is typed then.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(argv[0], argv)
    seen, ahead = "", list(talk)
    while True:
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:  # the last process that had it is gone
            break
        if ahead and ahead[0][0] in seen:
            os.write(terminal, ahead.pop(0)[1].encode())
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ahead == [], seen
    return code, seen.replace("\r\n", "\n")


# --- output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", ["", "2>&1"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_ends_when_the_reader_of_its_output_has_left(
    tmp_path: Path, nodes: int, redirect: str
) -> None:
    write(tmp_path, "import os\nprint(os.getpid())\nwhile True: print('chatty')")
    done = shell(tmp_path, f"$PLAIN --nodes {nodes} train.py {redirect} | head -n 8")
    assert done.returncode == 128 + signal.SIGPIPE
    assert len(done.stdout.splitlines()) == 8
    if not redirect:
        assert "nobody reads its output any more; nothing of it is left running" in done.stderr
    assert "Traceback" not in done.stderr
    pids = [int(word) for word in done.stdout.split() if word.isdigit() and len(word) > 1]
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise ValueError('bad batch')", 1)])
def test_a_full_disk_below_the_output_takes_no_verdict(tmp_path: Path, end: str, code: int) -> None:
    write(tmp_path, f"for n in range(1000): print(n)\n{end}")
    done = shell(tmp_path, "$PLAIN --nodes 2 train.py > /dev/full")
    assert done.returncode == code
    assert "standard output cannot be written, what comes is lost: No space left" in done.stderr
    assert ("succeeded in" if code == 0 else "failed after") in done.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in done.stderr


def test_what_nobody_can_show_is_shown_otherwise(tmp_path: Path) -> None:
    text = "'\u20ac \U0001f642'.encode() + b' \\xff\\n'"
    write(tmp_path, f"import sys\nsys.stdout.buffer.write({text})")
    done = shell(tmp_path, "PYTHONIOENCODING=latin-1 $PLAIN train.py")
    assert (done.returncode, done.stdout) == (0, "\\u20ac \\U0001f642 \\ufffd\n")
    assert shell(tmp_path, "$PLAIN train.py >&- 2>&-").returncode == 0


BAR = """
import sys
print("begins")
for step in range(66):
    sys.stderr.write(f"\\r{step}/65 " + "#" * step)
    sys.stderr.flush()
sys.stderr.write("\\n")
print("ends")
"""


def test_a_progress_bar_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, BAR)
    done = shell(tmp_path, "$PLAIN train.py 2>&1 | tail -n 4 | head -n 3")
    assert done.stdout == f"begins\n65/65 {'#' * 65}\nends\n"


IN_ORDER = """
import sys
for n in range(300):
    print(n, file=sys.stderr if n % 3 else sys.stdout, flush=True)
"""


def test_stdout_and_stderr_keep_their_order_where_they_go_to_one_place(tmp_path: Path) -> None:
    write(tmp_path, IN_ORDER)
    done = shell(tmp_path, "$PLAIN train.py 2>&1")
    numbers = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert numbers == [str(n) for n in range(300)]
    apart = shell(tmp_path, "$PLAIN train.py")
    assert apart.stdout.split() == [str(n) for n in range(0, 300, 3)]


def test_the_lines_of_a_run_from_python_are_in_order(tmp_path: Path) -> None:
    write(tmp_path, IN_ORDER)
    run = api.launch(api.job("train.py", torchrun=False), local=True, cwd=tmp_path)
    run.wait(180)
    lines = [line.text for line in run.logs() if line.text.isdigit()]
    assert lines == [str(n) for n in range(300)]


# --- input ----------------------------------------------------------------------------------------

ASKS = """
import sys
print("hello", input("name? "), sys.stdin.isatty(), sys.stdout.isatty())
breakpoint()
print("goes on")
"""


def test_a_single_rank_has_the_terminal(tmp_path: Path) -> None:
    write(tmp_path, ASKS)
    talk = [("name? ", "Bob\n"), ("(Pdb) ", "p 6 * 7\n"), ("42\r\n", "c\n")]
    code, seen = at_terminal(tmp_path, [*ME, "train.py"], *talk)
    assert code == 0, seen
    assert "hello Bob True True\n" in seen
    assert "goes on\n" in seen


def test_a_prompt_is_seen_through_a_pipe(tmp_path: Path) -> None:
    write(tmp_path, 'print("hello", input("name? "))')
    line = ["/bin/sh", "-c", f"{' '.join(PLAIN)} train.py 2>&1 | cat"]
    code, seen = at_terminal(tmp_path, line, ("name? ", "Bob\n"))
    assert code == 0
    assert "hello Bob\n" in seen


@pytest.mark.parametrize(("nodes", "seen"), [(1, "'data'"), (2, "''")])
def test_a_file_is_the_input_of_a_single_rank_alone(tmp_path: Path, nodes: int, seen: str) -> None:
    write(tmp_path, "import sys; print(repr(sys.stdin.read()))")
    done = shell(tmp_path, f"printf data | $PLAIN --nodes {nodes} train.py")
    assert done.returncode == 0
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [seen] * nodes


# --- signals --------------------------------------------------------------------------------------

SAVES = """
import time
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    open("saved", "w").close()
"""


@pytest.mark.parametrize("flags", [["--no-torchrun"], [], ["--restart", "gang"]])
def test_ctrl_c_is_a_keyboard_interrupt_to_the_script(tmp_path: Path, flags: list[str]) -> None:
    write(tmp_path, SAVES)
    code, seen = at_terminal(tmp_path, [*ME, *flags, "train.py"], ("ready\r\n", "\x03"))
    assert code == 130, seen
    assert "nothing of it is left running" in seen
    assert (tmp_path / "saved").exists()


IGNORED = """
import os, signal, sys, time
print([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2)], flush=True)
os.kill(int(sys.argv[1] if len(sys.argv) > 1 else os.environ["LAUNCHER"]), signal.SIGHUP)
os.kill(int(sys.argv[1] if len(sys.argv) > 1 else os.environ["LAUNCHER"]), signal.SIGINT)
time.sleep(1)
print("ends well", os.environ.get("PET_MAX_RESTARTS"), os.environ.get("KIJ_NODES"))
"""


@pytest.mark.parametrize("launch", ["$PLAIN", "$ME", "$ME --restart gang"])
def test_what_nohup_and_the_background_ignore_stays_ignored(tmp_path: Path, launch: str) -> None:
    """And no variable of another run of torchrun, or of ours, reaches the script."""
    write(tmp_path, IGNORED)
    line = f'trap "" HUP INT; LAUNCHER=$$ exec {launch} train.py'
    done = shell(tmp_path, line, PET_MAX_RESTARTS="2", KIJ_NODES="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[True, True]\nends well None None\n"


# --- what is left behind --------------------------------------------------------------------------

LEAVES = """
import os, subprocess, sys, time
child = subprocess.Popen(["/usr/bin/env", "-i", "/bin/sleep", "600"], start_new_session=True)
print("left", child.pid, os.getppid(), flush=True)
if "stay" in sys.argv:
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
@pytest.mark.parametrize("killed", ["nobody", "node", "launcher"])
def test_a_helper_that_left_and_forgot_its_environment_ends_too(
    tmp_path: Path, killed: str
) -> None:
    write(tmp_path, LEAVES)
    argv = [*PLAIN, "train.py", *(["stay"] if killed != "nobody" else [])]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        helper, node = map(int, process.stdout.readline().split()[1:])
        if killed == "node":
            os.kill(node, signal.SIGKILL)
        elif killed == "launcher":
            process.kill()
        process.wait(180)
    deadline = time.monotonic() + 90
    while psutil.pid_exists(helper) and killed == "launcher" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(helper)


def test_a_pipe_that_a_stranger_holds_is_not_waited_for(tmp_path: Path) -> None:
    """A process that is none of the run's, and got the pipe nevertheless."""
    write(tmp_path, "import os\nprint(f'/proc/{os.getpid()}/fd/1', flush=True)\nopen('go').read()")
    os.mkfifo(tmp_path / "go")
    with subprocess.Popen(
        [*PLAIN, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        with open(process.stdout.readline().strip(), "w") as held:  # noqa: PTH123
            (tmp_path / "go").write_text("now")
            assert process.wait(180) == 0
            assert held.writable()
