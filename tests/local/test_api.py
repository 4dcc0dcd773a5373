"""Local runs from Python, and the examples."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import kij_train
import pytest
from kij_train.diagnosis import JobState
from kij_train.errors import JobFailedError, RequestError, TimedOutError

ROOT = Path(__file__).parent.parent.parent
SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"
FAIL = "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('bad batch')\n"


def test_a_run_succeeds_and_keeps_the_lines_of_each_node() -> None:
    run = kij_train.launch(
        kij_train.job("train_examples/hello_ranks.py", nodes=2), local=True, cwd=ROOT
    )
    followed = [line.text for line in run.logs(index=1, follow=True)]
    run.wait()
    assert run.status() is JobState.SUCCEEDED
    assert followed == [line.text for line in run.logs(index=1)]
    assert {line.index for line in run.logs()} == {0, 1}
    with pytest.raises(RequestError, match="no index 2"):
        run.logs(index=2)


def test_a_failure_names_the_rank_and_the_line(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(FAIL)
    run = kij_train.launch(kij_train.job("train.py", nodes=2), local=True, cwd=tmp_path)
    with pytest.raises(JobFailedError, match=r"rank 1 [^$]*bad batch[^$]*line 3"):
        run.wait()
    assert run.status() is JobState.FAILED
    assert "ValueError: bad batch" in run.why()


def test_a_run_can_be_waited_for_and_cancelled_from_several_threads(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SLEEP)
    run = kij_train.launch(kij_train.job("train.py"), local=True, cwd=tmp_path)
    with pytest.raises(TimedOutError, match="it goes on"):
        run.wait(timeout_s=0.1)
    next(line for line in run.logs(follow=True) if line.text == "asleep")
    assert run.status() is JobState.RUNNING
    caught: list[str] = []

    def wait() -> None:
        try:
            run.wait()
        except JobFailedError as error:
            caught.append(error.message)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    run.cancel()
    for thread in threads:
        thread.join(180)
    assert caught == [f"{run.name} was cancelled"] * 3
    assert run.status() is JobState.CANCELLED


def test_the_program_of_the_docs_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    (program,) = (each for each in programs if "kij_train.launch(" in each)
    monkeypatch.chdir(ROOT)
    exec(compile(program, "python.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].endswith(" succeeded")


def test_the_fixture_gives_the_lines_and_fails_with_rank_and_traceback(
    tmp_path: Path, kij_launch: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.py").write_text("import sys\nprint('args', sys.argv[1:])\n")
    assert "args ['--steps', '3']" in kij_launch("good.py", "--steps", "3", cwd=tmp_path)
    (tmp_path / "bad.py").write_text(FAIL)
    with pytest.raises(AssertionError, match=r"rank 1 [^$]*bad batch[^$]*line 3"):
        kij_launch("bad.py", nodes=2, cwd=tmp_path)
    assert "ValueError: bad batch" in capsys.readouterr().out


def test_the_fsdp_example_resumes_after_an_interrupt(tmp_path: Path) -> None:
    def launch(*more: str) -> kij_train.Run:
        args = ["--out", str(tmp_path), "--steps", "30", "--checkpoint-every", "10", *more]
        spec = kij_train.job("train_examples/fsdp_resume.py", nodes=2, args=args)
        return kij_train.launch(spec, local=True, cwd=ROOT)

    with pytest.raises(JobFailedError, match="interrupted at step 15, as asked"):
        launch("--interrupt-at", "15").wait()
    again = launch()
    again.wait()
    assert "resumed at step 10" in [line.text for line in again.logs(index=0)]


def test_the_sigterm_example_saves_when_it_is_cancelled(tmp_path: Path) -> None:
    def launch(*more: str) -> kij_train.Run:
        args = ["--out", str(tmp_path), *more]
        spec = kij_train.job("train_examples/sigterm_checkpoint.py", nodes=2, args=args)
        return kij_train.launch(spec, local=True, cwd=ROOT)

    first = launch("--steps", "100000", "--step-seconds", "0.05")
    next(line for line in first.logs(follow=True) if line.text.startswith("starts at step 0"))
    first.cancel()
    saved = [line.text for line in first.logs(index=0) if line.text.startswith("saved step ")]
    assert len(saved) == 1
    step = int(saved[0].split()[2])
    again = launch("--steps", str(step + 10))
    again.wait()
    assert f"starts at step {step} of {step + 10}" in [line.text for line in again.logs(index=0)]
