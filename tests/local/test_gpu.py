"""On a machine with a GPU: training, restarts, the benchmark and the preflight over NCCL."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from kij_train.pod.collectives import table

from tests.commandline import run as kij_train
from tests.commandline import running

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

EXAMPLES = Path(__file__).parents[2] / "train_examples"
COLLECTIVES = [
    ("allgather", "half"),
    ("reducescatter", "double"),
    ("broadcast", "int8"),
    ("alltoall", "int64"),
    *(("allreduce", datatype) for datatype in table.DTYPES),
]
LASTING = """\
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist

state, restarts = Path(sys.argv[1]), os.environ.get("KIJ_RESTARTS")
dist.init_process_group("nccl")
x = torch.ones(1, device="cuda")
done = int(state.read_text()) if state.exists() else 0
for step in range(done, 20):
    dist.all_reduce(x)
    torch.cuda.synchronize()
    state.write_text(str(step + 1))
    if step == 9 and restarts == "0":
        os.kill(os.getpid(), 9)
print("step", step, "on", torch.cuda.get_device_name(), "after", restarts)
dist.destroy_process_group()
"""


def launch(folder: Path, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(script)
    return kij_train(folder, "launch", "--local", *flags, "train.py", str(folder / "state"))


def test_the_example_trains_over_nccl() -> None:
    arguments = ["char_gpt_ddp.py", "--steps", "60", "--batch", "256", "--sample", "0"]
    result = kij_train(EXAMPLES, "launch", "--local", "--gpus", "1", *arguments)
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", result.stdout)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_rank_has_its_gpu_again(tmp_path: Path) -> None:
    result = launch(tmp_path, LASTING, "--gpus", "1", "--restart", "gang", "--max-restarts", "1")
    assert result.returncode == 0, result.stderr
    assert re.search(r"step 19 on .* after 1", result.stdout)


def test_more_gpus_than_there_are_start_nothing(tmp_path: Path) -> None:
    result = launch(tmp_path, LASTING, "--gpus", "99")
    assert result.returncode == 2
    assert f"needs 99 GPUs, this machine has {torch.cuda.device_count()}" in result.stderr


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ('torch.empty(1 << 50, device="cuda")', "out of memory"),
        ('torch.ones(1, device="cuda:99")', "device"),
        ('x = torch.ones(2, device="cuda"); x[torch.tensor([5], device="cuda")]', "assert"),
    ],
)
def test_what_cuda_says_is_the_cause(tmp_path: Path, script: str, cause: str) -> None:
    result = launch(tmp_path, f"import torch\n{script}\ntorch.cuda.synchronize()\n", "--gpus", "1")
    assert result.returncode == 1
    assert re.search(rf"rank 0 .*{cause}", result.stderr), result.stderr


def test_two_ranks_on_one_gpu_are_named(tmp_path: Path) -> None:
    script = """\
import torch, torch.distributed as dist
dist.init_process_group("nccl")
dist.all_reduce(torch.ones(1, device="cuda:0"))
torch.cuda.synchronize()
"""
    result = launch(tmp_path, script, "--nproc-per-node", "2")
    assert result.returncode == 1
    assert "Duplicate GPU" in result.stderr, result.stderr


@pytest.mark.parametrize(("collective", "datatype"), COLLECTIVES)
def test_collectives_give_right_results(tmp_path: Path, collective: str, datatype: str) -> None:
    line = ["-b", "4K", "-e", "1M", "-f", "16", "-n", "3", "-d", datatype, "--json", "out.json"]
    result = kij_train(tmp_path, "bench", collective, "--local", "--gpus", "1", *line)
    assert result.returncode == 0, result.stderr
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert run["report"]["kij"]["backend"] == "nccl"
    assert "# Out of bounds values : 0 OK" in result.stdout


def test_the_header_says_what_gpu_it_was(tmp_path: Path) -> None:
    line = ["-b", "4K", "-e", "4K", "--json", "out.json"]
    result = kij_train(tmp_path, "bench", "allreduce", "--local", "--gpus", "1", *line)
    assert result.returncode == 0, result.stderr
    assert torch.cuda.get_device_name() in result.stdout
    assert "driver" in result.stdout


def test_the_preflight_looks_at_the_gpu(tmp_path: Path) -> None:
    result = launch(tmp_path, LASTING.replace("== 9", "== -1"), "--gpus", "1", "--preflight")
    assert result.returncode == 0, result.stderr
    assert torch.cuda.get_device_name() in result.stdout + result.stderr
    does = r"a rank does: matrix product [\d.]+ TFLOP/s, memory copy [\d.]+ [GT]B/s"
    assert re.search(does, result.stderr)


BUSY = """\
import os, pathlib, time
import torch

x = torch.randn(4096, 4096, device="cuda")
until = time.time() + 90
step = 0
while time.time() < until:
    for _ in range(20):
        x = (x @ x).tanh()
    torch.cuda.synchronize()
    step += 1
    pathlib.Path(os.environ["KIJ_HEARTBEAT_FILE"]).write_text(str(step))
"""


def test_top_shows_what_nvidia_smi_does(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(BUSY)
    query = [
        "nvidia-smi",
        "--query-gpu=uuid,memory.used,power.draw",
        "--format=csv,noheader,nounits",
    ]
    flags = ("launch", "--local", "--name", "busy", "--gpus", "1", "train.py")
    with running(tmp_path, *flags):
        deadline, gpu = time.monotonic() + 80, None
        while gpu is None and time.monotonic() < deadline:
            result = kij_train(tmp_path, "top", "busy", "--local", "-o", "json", "--for", "5s")
            ranks = json.loads(result.stdout)["pods"] if result.returncode == 0 else []
            gpus = [one for pod in ranks for one in pod["gpus"] if (one["utilization"] or 0) > 50]
            gpu = gpus[0] if gpus else None
        assert gpu is not None, result.stdout + result.stderr
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    shown = {line.split(", ")[0]: line.split(", ")[1:] for line in said.splitlines()}
    memory, power = (float(cell) for cell in shown[gpu["uuid"]])
    assert gpu["memoryBytes"] / 2**20 == pytest.approx(memory, rel=0.1)
    assert gpu["powerWatts"] == pytest.approx(power, rel=0.4)
    assert ranks[0]["ranks"][0]["stepsPerSecond"] > 0
