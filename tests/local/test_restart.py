"""Restarts with real torchrun on this machine: every process of a node killed, each way."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch")

SCRIPT = """\
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist

state, steps = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
restarts = int(os.environ["KIJ_RESTARTS"])
start = int(state.read_text()) if state.exists() else 0
x = torch.ones(1)
for step in range(start, steps):
    x.fill_(1000 if state.with_name("stop").exists() else 1)
    dist.all_reduce(x)
    if x.item() > 999:
        break
    assert x.item() == world
    if rank == 0:
        state.write_text(str(step + 1))
        print(f"step {step} of round {restarts}, world {world}", flush=True)
    if len(sys.argv) > 3 and rank == world - 1 and step >= 3 and restarts < int(sys.argv[3]):
        raise ValueError(f"a bad day, restart {restarts}")
    time.sleep(0.05)
dist.destroy_process_group()
"""


SAVES = """\
import os, signal, sys, time
from pathlib import Path

def save(signum, frame):
    if os.environ["RANK"] == "1":  # rank 0, where the leader is, has nothing to save
        time.sleep(4)
        Path(sys.argv[1]).write_text("saved")
    os._exit(0)

signal.signal(signal.SIGTERM, save)
print("rank", os.environ["RANK"], "is ready", flush=True)
time.sleep(600)
"""


AGAIN = """\
import os, sys, time
for step in range(12):
    with open(os.environ["KIJ_HEARTBEAT_FILE"], "w") as file:
        file.write(str(step))
    time.sleep(0.3)
    if step == 9 and os.environ["KIJ_RESTARTS"] == "0":
        sys.exit(1)
"""


class Launch:
    """`kij-train launch --local`, whose nodes can be found and killed."""

    def __init__(
        self, folder: Path, *flags: str, script: tuple[str, ...] = (), text: str = SCRIPT
    ) -> None:
        self.folder = folder
        (folder / "train.py").write_text(text)
        command = [sys.executable, "-m", "kij_train", "launch", "--local", *flags, "train.py"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, *script], cwd=folder, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_for(self, pattern: str, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.log):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def end(self, timeout_s: float = 240) -> int:
        return self.process.wait(timeout_s)

    def supervisor(self, index: int) -> psutil.Process:
        keeper = next(
            child
            for child in psutil.Process(self.process.pid).children()
            if child.environ().get("JOB_COMPLETION_INDEX") == str(index)
        )
        return keeper.children()[0]

    def zygote(self, index: int) -> psutil.Process:
        return self.supervisor(index).children()[0]

    def agent(self, index: int) -> psutil.Process:
        return self.zygote(index).children()[0]

    def worker(self, index: int) -> psutil.Process:
        return self.agent(index).children()[0]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def start(*flags: str, script: tuple[str, ...], text: str = SCRIPT) -> Launch:
        started.append(Launch(tmp_path, *flags, script=script, text=text))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


GANG = ("--nodes", "2", "--spares", "1", "--restart", "gang")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_goes_on_after_every_kill(launch: Callable[..., Launch], tmp_path: Path) -> None:
    """The first process, torchrun's parent, torchrun and a rank, of the leader and of another."""
    state = tmp_path / "state"
    job = launch(*GANG, "--max-restarts", "8", script=(str(state), "100000"))
    whats = [(what, index) for what in ("worker", "agent", "zygote") for index in (1, 0)]
    for turn, (what, index) in enumerate(whats):
        job.wait_for(rf"step \d+ of round {turn}, world 2")
        getattr(job, what)(index).kill()
    turn = len(whats)
    job.wait_for(rf"step \d+ of round {turn}, world 2")
    job.supervisor(1).kill()
    job.wait_for(rf"round {turn + 2}: indexes 0, 2 train")
    job.wait_for(rf"step \d+ of round {turn + 1}, world 2")
    job.wait_for("node 3 .*this node is a spare")  # of the reserve
    job.supervisor(0).kill()
    job.wait_for(rf"round {turn + 3}: indexes 2, 3 train, .* index 3 took the place of index 0")
    job.wait_for(rf"step \d+ of round {turn + 2}, world 2")
    state.with_name("stop").touch()
    assert job.end() == 0, job.log
    assert f"restarted {turn + 2} times" in job.log


def test_a_checkpoint_gets_its_time_when_all_are_told_to_end(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    """As in a suspension: the leader is gone long before the last rank has saved."""
    saved = tmp_path / "saved"
    job = launch("--nodes", "2", "--restart", "gang", script=(str(saved),), text=SAVES)
    job.wait_for("rank 0 is ready")
    job.wait_for("rank 1 is ready")
    job.process.terminate()
    job.end()
    assert saved.exists(), job.log


def test_ranks_follow_the_indexes_and_the_highest_is_the_spare(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    job = launch(*GANG, script=(str(tmp_path / "state"), "5"))
    assert job.end() == 0, job.log
    assert "node 0 | kij-train: round 1: rank 0 of 2" in job.log
    assert "node 1 | kij-train: round 1: rank 1 of 2" in job.log
    assert "node 2 | kij-train: this node is a spare" in job.log


def test_what_is_trained_again_is_told_where_the_script_says_its_step(
    launch: Callable[..., Launch],
) -> None:
    job = launch("--restart", "gang", script=(), text=AGAIN)
    assert job.end() == 0, job.log
    assert re.search(r"the job trained .* %, [1-9]\d? % of it again\), waited", job.log), job.log


@pytest.mark.slow
def test_a_rank_that_fails_is_started_again(launch: Callable[..., Launch], tmp_path: Path) -> None:
    job = launch(*GANG, script=(str(tmp_path / "state"), "10", "1"))
    assert job.end() == 0, job.log
    assert "a bad day, restart 0" in job.log
    assert "step 9 of round 1" in job.log


def test_a_script_that_always_fails_ends_the_job(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    job = launch(*GANG, "--max-restarts", "1", script=(str(tmp_path / "state"), "10", "9"))
    assert job.end() == 1, job.log
    verdict = job.log[job.log.index("train-") :].rpartition("train-")[2]
    assert "rank 1 (index 1) was first" in verdict
    assert "ValueError: a bad day, restart 1" in verdict
    assert job.log.count("round 2: indexes") == 1 and "round 3" not in job.log


def test_a_node_more_than_the_reserve_that_is_lost_ends_the_job(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    flags = ("--nodes", "1", "--restart", "gang", "--max-restarts", "1")
    job = launch(*flags, script=(str(tmp_path / "state"), "100000"))
    job.wait_for("step 3 of round 0")
    job.supervisor(0).kill()
    job.wait_for(r"(?s)index 1, from the reserve, of 1.*step \d+ of round 0")
    job.supervisor(1).kill()
    assert job.end() == 1, job.log
    assert "index 2" not in job.log
    assert "killed by signal 9" in job.log


@pytest.mark.slow
def test_an_elastic_job_goes_on_with_fewer_and_grows_again(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    elastic = ("--nodes", "2:3", "--restart", "elastic")
    job = launch(*elastic, script=(str(tmp_path / "state"), "100000"))
    job.wait_for(r"step \d+ of round 0, world 3")
    job.supervisor(2).kill()
    job.wait_for(r"(?s)lost index 2.*node 3 \| kij-train: index 3, from the reserve, of 3")
    late = job.supervisor(3)
    late.suspend()  # it would be there in time on a fast machine
    job.wait_for(r"step \d+ of round 1, world 2")
    late.resume()
    job.wait_for(r"taking in index 3")
    job.wait_for(r"step \d+ of round 2, world 3")
    (tmp_path / "stop").touch()
    assert job.end() == 0, job.log
