"""Real torchrun on this machine: passing, failing, hanging and interrupted, and nothing left."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, redirect_stderr
from pathlib import Path

import psutil
import pytest
from kij_train.cli import main

from tests import commandline

ROOT = Path(__file__).parent.parent.parent

RANKS = """
import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()])
dist.all_reduce(total)
print("rank", dist.get_rank(), "node", os.environ["NODE_RANK"], "total", total.item(), sys.argv[1:])
dist.destroy_process_group()
"""

FAIL = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
def step(rank):
    if rank == dist.get_world_size() - 1:
        raise ValueError("bad batch")
dist.barrier()
step(dist.get_rank())
dist.all_reduce(torch.ones(1))
"""

HANG = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("hanging", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def launch(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return commandline.run(folder, "launch", "--local", *argv)


def running(folder: Path, *argv: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return commandline.running(folder, "launch", "--local", *argv)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]


def gone(pids: list[int], within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(pids)


@pytest.mark.parametrize(
    ("nodes", "nproc"), [(1, 1), (2, 2), pytest.param(4, 1, marks=pytest.mark.slow)]
)
def test_all_ranks_take_part_and_ranks_follow_the_nodes(
    tmp_path: Path, nodes: int, nproc: int
) -> None:
    (tmp_path / "train.py").write_text(RANKS)
    result = launch(
        tmp_path, "--nodes", str(nodes), "--nproc-per-node", str(nproc), "train.py", "--lr", "1"
    )
    assert result.returncode == 0, result.stderr
    world = nodes * nproc
    seen = {
        int(rank): int(node)
        for rank, node in re.findall(
            rf"rank (\d+) node (\d+) total {sum(range(world))} ", result.stdout
        )
    }
    assert seen == {rank: rank // nproc for rank in range(world)}
    assert "['--lr', '1']" in result.stdout
    assert "succeeded in" in result.stderr
    if nodes > 1:
        lines = re.findall(r"^node (\d+) \| rank \d+ node (\d+) ", result.stdout, re.MULTILINE)
        assert len(lines) == world
        assert all(prefix == node for prefix, node in lines)


@pytest.mark.parametrize(
    ("nodes", "nproc"),
    [
        pytest.param(1, 1, marks=pytest.mark.slow),
        (2, 2),
        pytest.param(4, 1, marks=pytest.mark.slow),
    ],
)
def test_the_first_failing_rank_is_named_with_its_line_of_code(
    tmp_path: Path, nodes: int, nproc: int
) -> None:
    (tmp_path / "train.py").write_text(FAIL)
    result = launch(tmp_path, "--nodes", str(nodes), "--nproc-per-node", str(nproc), "train.py")
    assert result.returncode == 1
    verdict = re.split(r"failed after [\d.]+ s", result.stderr)[-1]
    assert f"rank {nodes * nproc - 1} (index {nodes - 1}) was first" in verdict
    assert "ValueError: bad batch" in verdict
    assert 'train.py", line 6, in step' in verdict
    assert "Connection" not in verdict


def test_a_killed_rank_is_named_by_its_signal(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(600)\n"
    )
    result = launch(tmp_path, "--nodes", "2", "train.py")
    assert result.returncode == 1
    assert "rank 1 (index 1) was first" in result.stderr
    assert "rank 1 was killed by SIGKILL" in result.stderr


@pytest.mark.parametrize(
    ("nodes", "signum"),
    [
        (1, signal.SIGINT),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.slow),
        (2, signal.SIGTERM),
        pytest.param(4, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_ends_everything_a_hanging_run_started(
    tmp_path: Path, nodes: int, signum: signal.Signals
) -> None:
    (tmp_path / "train.py").write_text(HANG)
    with running(tmp_path, "--nodes", str(nodes), "train.py") as process:
        pids = [int(n) for _ in range(nodes) for n in next_line(process).split()[-2:]]
        assert len(alive(pids)) == 2 * nodes
        process.send_signal(signum)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 128 + signum
    assert "nothing of it is left running" in err
    assert gone(pids)


def test_a_second_interrupt_does_not_wait_for_a_rank_that_ignores_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('hanging', os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with running(tmp_path, "train.py") as process:
        pids = [int(next_line(process).split()[-1])]
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=180)  # far less than the rank would sleep
    assert process.returncode == 130
    assert gone(pids)


MISSING = [
    ("nope.py", "script nope.py: no such file"),
    ("--no-code nope.py", "script nope.py: no such file"),
    ("--no-python ./nope.sh", "program ./nope.sh: no such program"),
    ("--no-python no-such-program", "program no-such-program: no such program"),
    ("--no-python ./plain.sh", "program ./plain.sh: may not be run"),
    ("--no-torchrun --no-python ./nope.sh", "program ./nope.sh: no such program"),
    ("-m nope.mod", "module nope.mod: "),
    ("-m pkg.mod", "finds no pkg.mod in "),
]


@pytest.mark.parametrize("nodes", ["1", "2", "4"])
@pytest.mark.parametrize(("line", "message"), MISSING)
def test_what_is_not_there_is_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str, nodes: str
) -> None:
    (tmp_path / "plain.sh").touch(0o644)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    err = io.StringIO()
    with redirect_stderr(err):
        code = main(["launch", "--local", "--nodes", nodes, *line.split()])
    assert code == 2
    assert message in err.getvalue()
    assert started == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_launcher_killed_with_sigkill_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"
    )
    with running(tmp_path, "--nodes", "2", "train.py") as process:
        pids = [int(n) for _ in range(2) for n in next_line(process).split()[-2:]]
        process.kill()
    assert gone(pids)


def test_sigterm_reaches_the_ranks_so_that_they_can_save(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, signal, sys, time\n"
        "def save(signum, frame):\n"
        "    open('saved-' + os.environ['RANK'], 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    with running(tmp_path, "--nodes", "2", "--nproc-per-node", "2", "train.py") as process:
        for _ in range(4):
            assert "ready" in next_line(process)
        process.terminate()
        process.communicate(timeout=240)
    assert sorted(p.name for p in tmp_path.glob("saved-*")) == [f"saved-{n}" for n in range(4)]


def test_the_deadline_ends_the_run_with_exit_code_5(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HANG)
    result = launch(tmp_path, "--no-torchrun", "--timeout", "3s", "train.py")
    assert result.returncode == 5
    assert "did not end within its --timeout" in result.stderr


def test_lines_of_the_ranks_of_a_node_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os\nfor n in range(2000): print(os.environ['RANK'] * 20, n)\n"
    )
    result = launch(tmp_path, "--nproc-per-node", "3", "train.py")
    expected = [f"{rank * 20} {n}" for rank in "012" for n in range(2000)]
    assert sorted(result.stdout.splitlines()) == sorted(expected)


def test_programs_and_modules_run_as_in_torchrun(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").touch()
    (tmp_path / "pkg/train.py").write_text("import sys, pkg; print('module', sys.argv[1:])")
    result = launch(tmp_path, "-m", "pkg.train", "--lr", "1")
    assert (result.returncode, result.stdout) == (0, "module ['--lr', '1']\n")
    result = launch(
        tmp_path, "--nproc-per-node", "2", "--no-python", "sh", "-c", "echo program $LOCAL_RANK"
    )
    assert result.returncode == 0
    assert sorted(result.stdout.split("\n")) == ["", "program 0", "program 1"]


def test_a_failing_program_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    result = launch(tmp_path, "--no-python", "sh", "-c", "exit 7")
    assert result.returncode == 1
    assert "rank 0 exited with code 7" in result.stderr


def test_streams_stay_apart_and_env_and_cwd_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, sys\n"
        "print('out', os.environ['COLOUR'], os.getcwd())\n"
        "print('err', file=sys.stderr)\n"
        "sys.stdout.write('no newline at the end')\n"
    )
    result = launch(tmp_path, "--env", "COLOUR=a b$c", "train.py")
    assert result.stdout == f"out a b$c {tmp_path}\nno newline at the end\n"
    assert "\nerr\n" in result.stderr


def test_what_only_a_cluster_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)")
    result = launch(tmp_path, "--no-torchrun", "--memory", "1Gi", "--mount", "pvc:a:/b", "train.py")
    assert result.returncode == 0
    assert "not used with --local: memory, mounts" in result.stderr


def test_the_example_trains_checkpoints_and_resumes(tmp_path: Path) -> None:
    argv = ["--nodes", "2", "--code-dir", str(ROOT / "train_examples")]
    script = [str(ROOT / "train_examples/char_gpt_ddp.py"), "--out", str(tmp_path), "--batch", "4"]
    small = ["--width", "32", "--context", "32", "--layers", "1", "--sample", "20"]
    first = launch(tmp_path, *argv, *script, *small, "--steps", "60")
    assert first.returncode == 0, first.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", first.stdout)]
    assert losses[-1] < losses[0] - 0.5
    assert "--- a sample" in first.stdout
    second = launch(tmp_path, *argv, *script, *small, "--steps", "80")
    assert second.returncode == 0, second.stderr
    assert "resumed at step 60" in second.stdout
    assert re.search(r"step +80 ", second.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_as_shipped_a_run_has_what_pods_would_have(tmp_path: Path) -> None:
    write = {"train.py": "import os\nprint(sorted(os.listdir()))\nopen('data/a.bin')\n"}
    write |= {".gitignore": "data/\n", "data/a.bin": ""}
    for name, content in write.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    plain = ("--no-torchrun", "train.py")
    assert launch(tmp_path, *plain).returncode == 0
    ended = launch(tmp_path, "--as-shipped", "train.py")
    assert ended.returncode == 1
    assert "['.gitignore', 'train.py']" in ended.stdout
    assert "the biggest data/a.bin" in ended.stderr
    assert "try: data/ was left out of the code at launch" in ended.stderr
    assert "echo '!/data/a.bin' >> .kijignore" in ended.stderr
    (tmp_path / ".kijignore").write_text("!/data/a.bin\n")
    assert launch(tmp_path, "--as-shipped", *plain).returncode == 0
