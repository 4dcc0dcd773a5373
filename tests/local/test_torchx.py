"""TorchX's stock components through the local scheduler: nodes of this machine, no cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torchx")

from torchx.runner import Runner, get_runner
from torchx.schedulers.api import Stream
from torchx.specs import AppState
from torchx.specs.finder import ComponentValidationException

ROOT = Path(__file__).parent.parent.parent
TORCHX = Path(sys.executable).parent / "torchx"
SCHEDULER = "local_kij_train"


@pytest.fixture
def runner() -> Iterator[Runner]:
    """As programs make it; closing it ends what runs."""
    with get_runner() as made:
        yield made


def torchx(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, which waits and prints the log."""
    command = [str(TORCHX), "run", "-s", SCHEDULER, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def test_dist_ddp_runs_unchanged(tmp_path: Path) -> None:
    script = (ROOT / "train_examples" / "hello_ranks.py").read_text()
    (tmp_path / "hello_ranks.py").write_text(script)
    answer = torchx("dist.ddp", "-j", "2x2", "--script", "hello_ranks.py", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"{SCHEDULER}://torchx/hello-ranks-")
    for rank in range(4):
        assert f"rank {rank} of 4: the ranks add up to 6" in answer.stderr
    assert "ob finished: SUCCEEDED" in answer.stderr


def test_a_failing_command_fails_the_app_and_ends_the_others(tmp_path: Path) -> None:
    words = "if [ $NODE_RANK = 1 ]; then exit 3; fi; sleep 600"
    answer = torchx("utils.sh", "--num_replicas", "2", "--", "sh", "-c", words, cwd=tmp_path)
    assert answer.returncode == 1
    assert "ob finished: FAILED" in answer.stderr
    assert "exit code 3" in answer.stderr and "Traceback" not in answer.stderr


def test_an_app_is_followed_described_and_removed(runner: Runner) -> None:
    handle = runner.run_component(
        "utils.echo", ["--num_replicas", "2", "--msg", "hello from ${replica_id}"], SCHEDULER
    )
    status = runner.wait(handle, wait_interval=0.1)
    assert status is not None and status.state == AppState.SUCCEEDED
    assert [app.app_handle for app in runner.list(SCHEDULER)] == [handle]
    app = runner.describe(handle)
    assert app is not None and app.roles[0].num_replicas == 2
    for replica in (0, 1):
        lines = list(runner.log_lines(handle, "echo", replica, regex="hello", should_tail=True))
        assert lines == [f"hello from {replica}\n"]
    with pytest.raises(ComponentValidationException, match="has no role 'nosuch'"):
        runner.log_lines(handle, "nosuch")
    with pytest.raises(ComponentValidationException, match="no log of stdout alone"):
        runner.log_lines(handle, "echo", streams=Stream.STDOUT)


def test_an_app_is_cancelled(runner: Runner) -> None:
    handle = runner.run_component("utils.sh", ["sleep", "600"], SCHEDULER)
    runner.cancel(handle)
    status = runner.status(handle)
    assert status is not None and status.state == AppState.CANCELLED


def test_an_app_of_another_process_is_unknown(runner: Runner) -> None:
    assert runner.status(f"{SCHEDULER}://torchx/nosuch") is None
