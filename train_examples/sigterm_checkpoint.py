"""Save a checkpoint when the pod is told to end (SIGTERM), and go on from it in the next run.

kij-train launch --local --nodes 2 train_examples/sigterm_checkpoint.py --out checkpoints
kij-train launch --nodes 2 --mount pvc:ckpt:/o train_examples/sigterm_checkpoint.py --out /o

Kubernetes sends SIGTERM before it takes a pod away (a drained node, `kij-train cancel`), and waits
for the grace period. The handler only notes the signal; the training loop acts on it between two
steps, when the model is whole. The ranks agree by an all_reduce, so that all of them leave the loop
at the same step, even where only one pod was told. Ctrl-C on a local launch does the same.
"""

import argparse
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that all nodes share")
    parser.add_argument("--steps", type=int, default=500, help="in all, resumed ones included")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="pretend to work harder")
    return parser.parse_args()


class Interrupt:
    """Whether any rank got SIGTERM."""

    def __init__(self) -> None:
        self.here = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: object) -> None:
        del signum, frame
        self.here = True

    def anywhere(self, device: torch.device) -> bool:
        """Collective: every rank must call it at the same step."""
        flag = torch.tensor([int(self.here)], device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Whole or not at all: if the grace period ends here, the last checkpoint is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(
        {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, part
    )
    part.replace(path)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The number of steps that are done."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def main() -> None:
    args = parse_args()
    interrupt = Interrupt()
    dist.init_process_group()
    rank = dist.get_rank()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    target = torch.randn(16, 1, device=device)
    model = nn.Linear(16, 1, bias=False).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    checkpoint = args.out / "checkpoint.pt"
    first = load(checkpoint, model, optimizer)
    parallel = DistributedDataParallel(
        model, device_ids=[device.index] if device.index is not None else None
    )
    if rank == 0:
        print(f"starts at step {first} of {args.steps}", flush=True)

    generator = torch.Generator().manual_seed(1000 * rank + 1_000_000 * first)
    done = first
    interrupted = False
    while done < args.steps and not interrupted:
        inputs = torch.randn(64, 16, generator=generator).to(device)
        loss = (parallel(inputs) - inputs @ target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done += 1
        time.sleep(args.step_seconds)
        if rank == 0 and done % 50 == 0:
            print(f"step {done}  loss {loss.item():.4f}", flush=True)
        interrupted = interrupt.anywhere(device)
    if rank == 0:
        save(checkpoint, done, model, optimizer)
        print(f"saved step {done} to {checkpoint}", flush=True)
    # Nobody leaves before rank 0 has saved: the first to end takes the others with it.
    dist.barrier()
    dist.destroy_process_group()
    if interrupted:
        # Not 0: what was interrupted has not succeeded.
        raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
