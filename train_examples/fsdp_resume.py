"""FSDP2: shard a small transformer over all ranks, save distributed checkpoints, resume.

kij-train launch --local --nodes 2 train_examples/fsdp_resume.py --out checkpoints --steps 60
kij-train launch --nodes 4 --gpus 8 --mount pvc:ckpt:/out train_examples/fsdp_resume.py --out /out

Every rank holds, and saves, only its shard of parameters and optimizer state. A checkpoint is a
folder step-N; the newest whole one is where the next run starts, on any number of ranks.
--interrupt-at N ends the run with an error after step N, to try that out.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

TOKENS = 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that all nodes share")
    parser.add_argument("--steps", type=int, default=200, help="in all, resumed ones included")
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="sequences a rank and step")
    parser.add_argument("--interrupt-at", type=int, metavar="STEP", help="fail after this step")
    return parser.parse_args()


# --- the model: says which token came first in a sequence -----------------------------------------


class Model(nn.Module):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, TOKENS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(x)
        hidden[:, 0] += 1.0
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(dim=1))


def sharded(args: argparse.Namespace, device: torch.device) -> nn.Module:
    """Each layer is gathered just before it is used, and freed after it."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    model = Model(args.layers, args.width).to(device)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


# --- checkpoints ----------------------------------------------------------------------------------


def newest(folder: Path) -> tuple[int, Path | None]:
    """Step and folder of the newest whole checkpoint: .metadata is what dcp writes last."""
    found = [
        (int(metadata.parent.name.removeprefix("step-")), metadata.parent)
        for metadata in folder.glob("step-*/.metadata")
    ]
    return max(found, default=(0, None))


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save(
        {"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / f"step-{step}"
    )


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """In place, resharded where the number of ranks is another one than before."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=path)
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)


# --- the training ---------------------------------------------------------------------------------


def main() -> None:
    args = parse_args()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = sharded(args, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first, path = newest(args.out)
    if path is not None:
        load(path, model, optimizer)
    # Nobody may write a new checkpoint while another rank still looks for the newest.
    dist.barrier()
    if rank == 0:
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters:,} parameters sharded over {world_size} ranks on {device.type}")
        restarts = os.environ.get("KIJ_RESTARTS", "0")  # of this job, by kij-train's --restart
        how = f"resumed at step {first}" if first else "starts at step 0"
        print(how + (f", after restart {restarts}" if restarts != "0" else ""), flush=True)

    heartbeat = os.environ.get("KIJ_HEARTBEAT_FILE")  # where kij-train's --hang-timeout watches
    generator = torch.Generator().manual_seed(1000 * rank + 1_000_000 * first)
    for step in range(first + 1, args.steps + 1):
        inputs = torch.randint(TOKENS, (args.batch, 16), generator=generator).to(device)
        loss = F.cross_entropy(model(inputs), inputs[:, 0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if heartbeat:
            Path(heartbeat).touch()
        if step % args.checkpoint_every == 0 or step == args.steps:
            save(args.out, step, model, optimizer)
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if rank == 0:
                print(f"step {step:5d}  loss {mean.item() / world_size:.3f}  saved", flush=True)
        if step == args.interrupt_at:
            raise RuntimeError(f"interrupted at step {step}, as asked")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
