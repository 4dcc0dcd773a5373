"""Where ranks are: the signal and its file, the dump, and the groups."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kij_train.cli import main
from kij_train.cluster import execute
from kij_train.cluster.apierrors import NotPermittedError
from kij_train.cluster.client import Cluster
from kij_train.cluster.execute import Answer
from kij_train.diagnosis.stacks import RankStack, Thread, grouped, spans, threads_of
from kij_train.errors import KijError, UnreachableError
from kij_train.jobs import stacks
from kij_train.pod import bootstrap, contract, worker

from tests.unit.test_job_commands import OneJob, run

BOTTOM = """\
  File "sys", line 1 in <module>
  File "/kij/bundle/worker.py", line 137 in as_main
  File "/kij/bundle/worker.py", line 269 in main
  File "/kij/bundle/worker.py", line 287 in <module>
"""
DUMP = f"""\
Thread 0x00007f12a8ff96c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/usr/lib/python3.11/queue.py", line 180 in get

Current thread 0x00007f12b0a7b740 (most recent call first):
  File "/kij/work/code/train.py", line 8 in step
  File "/kij/work/code/train.py", line 12 in <module>
{BOTTOM}"""
STEP = (
    'File "/kij/work/code/train.py", line 8 in step',
    'File "/kij/work/code/train.py", line 12 in <module>',
)


# --- the dump, and groups -------------------------------------------------------------------------


def test_a_dump_is_read_thread_by_thread() -> None:
    waits, main_thread = threads_of(DUMP)
    assert waits.frames[1] == 'File "/usr/lib/python3.11/queue.py", line 180 in get'
    assert (waits.current, main_thread.current) == (False, True)
    assert main_thread.frames[:2] == STEP
    (named,) = threads_of(
        "Thread 0x1f [pt_main (x)] (most recent call first):\n  <no Python frame>"
    )
    assert named == Thread(("<no Python frame>",), name="pt_main (x)")
    assert threads_of("") == ()


def at(rank: int, line: int, *others: str) -> RankStack:
    dump = DUMP.replace("line 8 in", f"line {line} in")
    return RankStack(rank, rank // 2, f"job-{rank // 2}-x", threads_of(dump))


def test_ranks_at_one_place_are_together_and_the_odd_one_is_last() -> None:
    ranks = [at(rank, 30 if rank == 7 else 8) for rank in range(16)]
    many, odd = grouped(reversed(ranks))
    assert many.title() == "ranks 0-6, 8-15 (15)"
    assert many.frames == STEP
    assert odd.title() == "3/7 (pod job-3-x)"
    assert odd.frames[0].endswith("line 30 in step")


def test_other_threads_and_their_ids_part_no_group() -> None:
    other = DUMP.replace("7f12", "7fee").replace("line 180 in get", "line 171 in get")
    ranks = [RankStack(0, 0, "a", threads_of(DUMP)), RankStack(1, 1, "b", threads_of(other))]
    assert [group.title() for group in grouped(ranks)] == ["ranks 0-1 (2)"]


def test_bootstraps_of_two_pods_part_no_group() -> None:
    def of_pod(rank: int, folder: str) -> RankStack:
        dump = DUMP.replace("/bundle/", f"/bundle/..2026_11_26_03_39_03.{folder}/")
        return RankStack(rank, rank, f"job-{rank}-x", threads_of(dump))

    (group,) = grouped([of_pod(0, "3965475663"), of_pod(1, "1713122504")])
    assert group.frames == STEP


def test_a_stack_of_nothing_but_the_start_is_shown_whole() -> None:
    dump = f"Current thread 0x1f (most recent call first):\n{BOTTOM}"
    (group,) = grouped([RankStack(0, 0, "a", threads_of(dump))])
    assert len(group.frames) == 4


def test_a_script_that_is_called_as_ours_is_shown() -> None:
    dump = DUMP.replace("train.py", "worker.py")
    (group,) = grouped([RankStack(0, 0, "a", threads_of(dump))])
    assert group.frames == tuple(frame.replace("train.py", "worker.py") for frame in STEP)


def test_a_rank_without_a_stack_is_in_no_group() -> None:
    assert grouped([RankStack(0, 0, "a", state="T (stopped)")]) == []


def test_spans() -> None:
    assert spans([5, 0, 1, 2, 8, 7]) == "0-2, 5, 7-8"
    assert spans([]) == ""


# --- in the pod -----------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextlib.contextmanager
def rank_running(
    folder: Path, script: str, rank: int, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A rank whose stacks are in a folder of this one, once it has printed a line."""
    (folder / f"rank{rank}.py").write_text(script)
    line = [sys.executable, worker.__file__, "--worker", f"rank{rank}.py"]
    environ = {**os.environ, "RANK": str(rank), "KIJ_STACKS_DIR": str(folder / "stacks"), **env}
    with subprocess.Popen(
        line, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def told(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> list[dict[str, Any]]:
    monkeypatch.setattr(contract, "STACKS_DIR", str(folder / "stacks"))
    assert bootstrap.main(["--stacks"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


SLEEPS = """
import threading, time
def elsewhere():
    print("ready", flush=True)
    time.sleep(60)
threading.Thread(target=threading.Event().wait, daemon=True).start()
elsewhere()
"""


@linux
def test_every_rank_says_where_it_is_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with rank_running(tmp_path, SLEEPS, 4) as a, rank_running(tmp_path, SLEEPS, 5) as b:
        for _ in range(2):
            first, second = sorted(
                told(tmp_path, monkeypatch, capsys), key=lambda one: int(one["rank"])
            )
            assert (first["rank"], first["pid"]) == (4, a.pid)
            assert (second["rank"], second["pid"]) == (5, b.pid)
            _, main_thread = threads_of(first["stack"])
            assert main_thread.current
            assert main_thread.frames[0].endswith("line 5 in elsewhere")
        assert a.poll() is None and b.poll() is None
    assert told(tmp_path, monkeypatch, capsys) == []


@linux
def test_a_stopped_rank_is_told_with_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kij_train.pod.stacks.STACKS_S", 0.3)
    with rank_running(tmp_path, SLEEPS, 0) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        (only,) = told(tmp_path, monkeypatch, capsys)
    assert (only["rank"], only["stack"]) == (0, "")
    assert only["state"] == "T (stopped)"


@linux
def test_a_rank_that_would_die_of_the_signal_does_not_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kij_train.pod.stacks.STACKS_S", 0.3)
    script = "import signal\nsignal.signal(signal.SIGUSR2, signal.SIG_DFL)\n" + SLEEPS
    with rank_running(tmp_path, script, 0) as process:
        (only,) = told(tmp_path, monkeypatch, capsys)
        assert only["stack"] == ""
        assert process.poll() is None


@linux
def test_children_of_a_rank_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import os, signal\nif os.fork() == 0:\n    signal.pause()\n" + SLEEPS
    with rank_running(tmp_path, script, 0) as process:
        (only,) = told(tmp_path, monkeypatch, capsys)
        assert only["pid"] == process.pid
        assert only["stack"].count("Current thread") == 1
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


@linux
def test_a_local_rank_writes_nothing(tmp_path: Path) -> None:
    with rank_running(tmp_path, SLEEPS, 0, KIJ_STACKS_DIR="", KIJ_PARENT_PID="1"):
        assert not (tmp_path / "stacks").exists()


def test_an_older_bootstrap_is_not_started(tmp_path: Path) -> None:
    old = tmp_path / "bootstrap.py"
    old.write_text("raise SystemExit('trains')\n")
    line = [sys.executable, *stacks.COMMAND[1:3], str(old), contract.STACKS]
    assert subprocess.run(line, check=False).returncode == stacks.TOO_OLD
    line[3] = bootstrap.__file__
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneJob]:
    with OneJob("running") as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made
        made.shutdown()


def answers(
    monkeypatch: pytest.MonkeyPatch, out: str = "", code: int | None = 0, error: Any = None
) -> None:
    def ask(cluster: Cluster, pods: Sequence[str], *_: Any, **__: Any) -> Iterator[Answer]:
        return (Answer(pod, code, out, "", error) for pod in pods)

    monkeypatch.setattr(execute, "ask", ask)


def line_of(rank: int, stack: str) -> str:
    return json.dumps({"rank": rank, "pid": 9, "state": "S (sleeping)", "stack": stack}) + "\n"


def test_the_ranks_of_a_job_are_shown_and_told_as_json(
    server: OneJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, line_of(0, DUMP) + line_of(1, ""))
    assert main(["stacks", "job"]) == 0
    shown = capsys.readouterr()
    pod = server.items["pods"][0]["metadata"]["name"]
    assert shown.out.splitlines() == [f"0/0 (pod {pod}):", *(f"  {line}" for line in STEP)]
    assert f"0/1 (pod {pod}) does not answer: its process is S (sleeping), or" in shown.err
    code, said, _ = run(capsys, "stacks", "job", "-o", "json")
    assert code == 0
    assert said["groups"] == [{"ranks": [0], "frames": list(STEP)}]
    first, second = said["ranks"]
    assert [thread["main"] for thread in first["threads"]] == [False, True]
    assert (second["rank"], second["threads"]) == (1, [])
    assert said["silent"] == []


DENIED = NotPermittedError("bob may not create pods/exec")


@pytest.mark.parametrize(
    ("code", "error", "exit_code", "words"),
    [
        (0, None, 4, "runs no rank now"),
        (stacks.TOO_OLD, None, 4, "was made by an older kij-train"),
        (127, None, 4, "cannot be asked: exit code 127"),
        (None, DENIED, 3, "may not create pods/exec"),
        (None, UnreachableError("pod x has not answered for 30 s"), 4, "has not answered"),
    ],
)
def test_a_job_that_cannot_be_asked_says_why(
    server: OneJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int | None,
    error: KijError | None,
    exit_code: int,
    words: str,
) -> None:
    answers(monkeypatch, code=code, error=error)
    assert main(["stacks", "job"]) == exit_code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rank", "0", "--index", "0"], "--rank conflicts with --index"),
        (["--rank", "9"], "--rank 9: the job has 1 ranks"),
        (["--index", "9"], "job has no index 9: it has 1"),
    ],
)
def test_a_rank_that_is_not_there_is_refused(
    server: OneJob, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["stacks", "job", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--no-python", "./a.out"], "it has no Python stack"),
        (["--no-torchrun", "a.py"], "was launched with --no-torchrun"),
    ],
)
def test_a_job_without_python_ranks_says_so(
    server: OneJob, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    server.job["spec"]["template"]["spec"]["containers"][0]["args"] = args
    assert main(["stacks", "job"]) == 2
    assert words in capsys.readouterr().err


def test_a_job_without_pods_says_so(server: OneJob, capsys: pytest.CaptureFixture[str]) -> None:
    server.items["pods"] = []
    assert main(["stacks", "job"]) == 2
    assert "no pod of job runs: pending" in capsys.readouterr().err


def test_a_job_that_has_ended_says_so(server: OneJob, capsys: pytest.CaptureFixture[str]) -> None:
    ended = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    server.job["status"]["conditions"] = [ended]
    assert main(["stacks", "job"]) == 2
    assert "job does not run any more: failed" in capsys.readouterr().err


def test_many_pods_are_asked_at_once_and_a_silent_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "OPENING_S", 0.2)
    monkeypatch.setattr(execute, "MOST_AT_ONCE", 4)
    end = threading.Event()

    def capture(cluster: Any, pod: str, command: list[str], timeout_s: float) -> Answer:
        if pod == "p3":
            end.wait(30)
        return Answer(pod, 0, pod)

    monkeypatch.setattr(execute, "_capture", capture)
    pods = [f"p{number}" for number in range(40)]
    cluster: Any = None
    found = {one.pod: one for one in execute.ask(cluster, pods, ["true"], timeout_s=0.3)}
    end.set()
    assert sorted(found) == sorted(pods)
    assert [pod for pod, one in found.items() if one.error] == ["p3"]
