"""A small GPT that learns to write Python's own help, character by character, with DDP.

kij-train launch --local --nodes 2 --nproc-per-node 2 train_examples/char_gpt_ddp.py --steps 200
kij-train launch --nodes 8 --gpus 4 train_examples/char_gpt_ddp.py --steps 2000

The text is the one behind help("topics"), which every CPython ships: nothing is downloaded. Runs on
CPUs (gloo) and on GPUs (NCCL). With --out DIR it writes a checkpoint every --checkpoint-every steps
and at the end, and a second run with the same --out goes on from there, as does a round after a
lost node:

kij-train launch --restart gang --spares 1 --hang-timeout 10m --nodes 8 --gpus 4 \
    --mount pvc:ckpt:/out train_examples/char_gpt_ddp.py --out /out

A trial of a sweep leaves its last loss as the result:

kij-train sweep --local -p lr=1e-3,3e-3 -p batch=8,16 --min loss \
    train_examples/char_gpt_ddp.py --steps 100
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F
from torch.nn.parallel import DistributedDataParallel


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=500, help="steps in all, resumed ones included"
    )
    parser.add_argument("--batch", type=int, default=16, help="sequences a rank and step")
    parser.add_argument("--context", type=int, default=64, help="characters a sequence")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the checkpoint, shared by all nodes")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--sample", type=int, default=200, help="characters to write at the end")
    return parser.parse_args()


# --- the text -------------------------------------------------------------------------------------

TEXT = "\n".join(topics[name] for name in sorted(topics))
ALPHABET = sorted(set(TEXT))
INDEX = {character: index for index, character in enumerate(ALPHABET)}


def random_batch(
    data: torch.Tensor, batch: int, context: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, both (batch, context); the targets are one character ahead."""
    starts = torch.randint(len(data) - context - 1, (batch,), generator=generator)
    inputs = torch.stack([data[start : start + context] for start in starts])
    targets = torch.stack([data[start + 1 : start + context + 1] for start in starts])
    return inputs, targets


# --- the model ------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.before_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time_, width = x.shape
        qkv = self.qkv(self.before_attention(x))
        q, k, v = qkv.view(batch, time_, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, time_, width))
        return x + self.feed_forward(self.before_feed_forward(x))


class GPT(nn.Module):
    def __init__(self, alphabet: int, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.context = context
        self.characters = nn.Embedding(alphabet, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, alphabet)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time) of character indexes to (batch, time, alphabet) of logits."""
        positions = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.characters(x) + self.positions(positions))))

    @torch.no_grad()
    def write(self, prompt: torch.Tensor, length: int) -> torch.Tensor:
        """Continue a prompt of shape (1, time) by `length` characters."""
        text = prompt
        for _ in range(length):
            logits = self(text[:, -self.context :])[:, -1] / 0.8
            text = torch.cat([text, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return text[0, prompt.shape[1] :]


# --- checkpoints ----------------------------------------------------------------------------------


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Whole or not at all: a run that is killed here leaves the last checkpoint as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, part)
    part.replace(path)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go on from a checkpoint; the number of steps that are done."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


# --- the training ---------------------------------------------------------------------------------


def main() -> None:
    args = parse_args()
    if "RANK" in os.environ:
        dist.init_process_group()
    else:  # a plain process is a world of its own
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    torch.manual_seed(args.seed)

    data = torch.tensor([INDEX[character] for character in TEXT])
    gpt = GPT(len(ALPHABET), args.context, args.layers, args.heads, args.width).to(device)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=args.lr)
    checkpoint = args.out / "checkpoint.pt" if args.out else None
    first = load(checkpoint, gpt, optimizer) if checkpoint and checkpoint.exists() else 0
    model = DistributedDataParallel(
        gpt, device_ids=[device.index] if device.index is not None else None
    )
    if rank == 0:
        parameters = sum(p.numel() for p in gpt.parameters())
        print(
            f"{parameters:,} parameters, {len(TEXT):,} characters, "
            f"{world_size} ranks on {device.type}"
        )
        if first:
            # Of this job: kij-train's --restart sets it.
            restarts = int(os.environ.get("KIJ_RESTARTS", "0"))
            after = f", after restart {restarts}" if restarts else ""
            print(f"resumed at step {first} from {checkpoint}{after}")

    # Every rank draws its own batches; after a resume they are new ones.
    generator = torch.Generator().manual_seed(args.seed + 1000 * rank + 1_000_000 * first)
    heartbeat = os.environ.get("KIJ_HEARTBEAT_FILE")  # where --hang-timeout watches
    result_file = os.environ.get("KIJ_RESULT_FILE")  # of a map or a sweep
    started = time.perf_counter()
    for step in range(first, args.steps):
        optimizer.param_groups[0]["lr"] = args.lr * (
            0.55 + 0.45 * math.cos(math.pi * step / args.steps)
        )
        inputs, targets = random_batch(data, args.batch, args.context, generator)
        logits = model(inputs.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.to(device).flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done = step + 1
        if heartbeat:
            Path(heartbeat).touch()
        if step % 20 == 0 or done == args.steps:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if rank == 0:
                per_second = (done - first) / (time.perf_counter() - started)
                print(
                    f"step {done:5d}  loss {mean.item() / world_size:.3f}  {per_second:.1f} steps/s"
                )
                if result_file and done == args.steps:
                    with Path(result_file).open("a") as file:
                        print(json.dumps({"loss": mean.item() / world_size}), file=file)
        if checkpoint and rank == 0 and (done % args.checkpoint_every == 0 or done == args.steps):
            save(checkpoint, done, gpt, optimizer)
    if rank == 0 and args.sample:
        prompt = torch.tensor([[INDEX[character] for character in "The "]], device=device)
        written = gpt.eval().write(prompt, args.sample)
        print("--- a sample\nThe " + "".join(ALPHABET[i] for i in written.tolist()))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
