"""What a job that survives losses costs while nothing is lost: steps a second against torchrun.

    python benchmarks/steady_state.py [--runs 7] [--gpus 1] [--out FILE]

The same training (DDP, a small network; gloo, or NCCL with --gpus) on this machine, under
`kij-train launch --local --restart gang` and under torchrun alone, with the same network interface
and threads. In turn (A B A B …) after one warm-up each; the script measures its own steps after the
first ones, and the median of the ratios pair by pair counts. Needs torch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)

from benchmarks import startup  # noqa: E402 - the repository is no package
from benchmarks.allreduce import environment  # noqa: E402

LIMIT = 1.01
SCRIPT = """\
import os, sys, time
import torch, torch.distributed as dist
from torch import nn

steps, result = int(sys.argv[1]), sys.argv[2]
dist.init_process_group()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if sys.argv[3] == "cuda" else "cpu"
torch.manual_seed(1)
net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).to(device)
model = nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x = torch.randn(64, 256, device=device)
for step in range(steps + 100):
    if step == 100:
        if device != "cpu":
            torch.cuda.synchronize()
        dist.barrier()
        began = time.perf_counter()
    optimizer.zero_grad()
    (model(x) - x).square().mean().backward()
    optimizer.step()
if device != "cpu":
    torch.cuda.synchronize()
if dist.get_rank() == 0:
    open(result, "w").write(str(time.perf_counter() - began))
dist.destroy_process_group()
"""


def training(
    folder: Path, steps: int, gpus: int, ranks: int
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Seconds of the steps, by kij-train and by torchrun."""
    (folder / "train.py").write_text(SCRIPT)
    result = folder / "seconds"
    script = ["train.py", str(steps), str(result), "cuda" if gpus else "cpu"]
    kij = [sys.executable, "-m", "kij_train", "launch", "--local", "--restart", "gang"]
    kij += ["--gpus", str(gpus)] if gpus else ["--nproc-per-node", str(ranks)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--master-port=29577"]
    torchrun += [f"--nproc-per-node={gpus or ranks}"]

    def run(command: list[str]) -> float:
        result.unlink(missing_ok=True)
        env = environment()
        subprocess.run([*command, *script], check=True, capture_output=True, cwd=folder, env=env)
        return float(result.read_text())

    return lambda: run(kij), lambda: run(torchrun)


def main() -> int:
    """Print the comparison and keep it; 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2, help="without GPUs")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/steady_state.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        both = training(Path(folder), arguments.steps, arguments.gpus, arguments.ranks)
        name = f"{arguments.steps} steps, kij-train --restart gang / torchrun"
        result = startup.compare(name, LIMIT, *both, arguments.runs)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": " ".join(["python", "benchmarks/steady_state.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {arguments.gpus} GPUs, {platform.machine()}",
        "load_average": os.getloadavg()[0],
        "results": [asdict(result)],
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(result.value > result.limit)


if __name__ == "__main__":
    sys.exit(main())
