"""Experimental: prompts are read (prefill) and answers written (decode) by different nodes.

kij-train launch --local --roles prefill=1,decode=1 train_examples/pd_disaggregation.py
kij-train launch --roles prefill=2,decode=2 --gpus 1 train_examples/pd_disaggregation.py --dim 1024

All ranks make the same small causal transformer from one seed. A rank whose KIJ_ROLE is prefill
runs a prompt through it once, and sends the K and V of each layer while it computes the next one. A
decode rank takes them in as its cache, and goes on token by token. Every answer is compared with
that of one process: they must be equal. The other layout, in which every rank does both for its
share of the requests, is measured beside it.

Splitting pays where long prompts would hold up the answers of others, with batches and a fast
network. Here each rank handles one request at a time, so that it often loses; the last line says
in what.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

VOCABULARY = 256


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer, at least 2")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    args = parser.parse_args()
    if args.dim % args.heads or args.tokens < 2 or args.requests < 1 or args.prompt < 1:
        parser.error("--heads must divide --dim, --tokens be 2 or more, the others 1 or more")
    return args


class Layer(nn.Module):
    """Attention over a cache, and a feed-forward part."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, cache: torch.Tensor, at: int) -> torch.Tensor:
        """`cache` is (K or V, head, position, dim); `at` is the position of the first token."""
        length, dim = x.shape
        qkv = self.qkv(self.norms[0](x)).view(length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(1, 2, 0, 3)
        cache[0, :, at : at + length] = k
        cache[1, :, at : at + length] = v
        keys, values = cache[:, :, : at + length]
        y = functional.scaled_dot_product_attention(
            q[None], keys[None], values[None], is_causal=length > 1
        )
        x = x + self.out(y[0].transpose(0, 1).reshape(length, dim))
        return x + self.mlp(self.norms[1](x))


class Model(nn.Module):
    """The same on every rank: from one seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.args = args
        self.token = nn.Embedding(VOCABULARY, args.dim)
        self.position = nn.Embedding(args.prompt + args.tokens, args.dim)
        self.layers = nn.ModuleList(Layer(args.dim, args.heads) for _ in range(args.layers))
        self.head = nn.Linear(args.dim, VOCABULARY)

    def new_cache(self, device: torch.device) -> list[torch.Tensor]:
        args = self.args
        shape = (2, args.heads, args.prompt + args.tokens, args.dim // args.heads)
        return [torch.zeros(shape, device=device) for _ in self.layers]

    def next_token(
        self,
        tokens: torch.Tensor,
        cache: list[torch.Tensor],
        at: int,
        done: Callable[[int], None],
    ) -> int:
        """The likeliest next token; `done(layer)` is called when that layer's cache is written."""
        x = self.token(tokens) + self.position.weight[at : at + len(tokens)]
        for number, layer in enumerate(self.layers):
            x = layer(x, cache[number], at)
            done(number)
        return int(self.head(x[-1]).argmax())  # on a GPU, this waits for all of it


@dataclass
class Measured:
    """What one rank has seen in one layout, in seconds."""

    first_s: list[float] = field(default_factory=list)
    """From the common start to the first token of a request."""
    between_s: list[float] = field(default_factory=list)
    transfer_s: list[float] = field(default_factory=list)
    """That a decode rank has waited for K and V which were being sent."""
    whole_s: float = 0.0
    answers: dict[int, list[int]] = field(default_factory=dict)


def write(
    model: Model, cache: list[torch.Tensor], first: int, seen: Measured, device: torch.device
) -> list[int]:
    """The rest of an answer, token by token."""
    answer, prompt = [first], model.args.prompt
    while len(answer) < model.args.tokens:
        began = time.perf_counter()
        token = torch.tensor([answer[-1]], device=device)
        at = prompt + len(answer) - 1
        answer.append(model.next_token(token, cache, at, lambda _: None))
        seen.between_s.append(time.perf_counter() - began)
    return answer


def together(model: Model, prompts: torch.Tensor, mine: range) -> Measured:
    """Every rank does both, for its share of the requests."""
    seen, began = Measured(), time.perf_counter()
    for request in mine:
        cache = model.new_cache(prompts.device)
        first = model.next_token(prompts[request], cache, 0, lambda _: None)
        seen.first_s.append(time.perf_counter() - began)
        seen.answers[request] = write(model, cache, first, seen, prompts.device)
    seen.whole_s = time.perf_counter() - began
    return seen


def prefill(model: Model, prompts: torch.Tensor, mine: range, to: list[int]) -> Measured:
    """Read prompts, and send K and V of each layer while the next one is computed."""
    seen, began = Measured(), time.perf_counter()
    sent: list[tuple[dist.Work, torch.Tensor]] = []
    for request in mine:
        cache, peer = model.new_cache(prompts.device), to[request % len(to)]

        def send(layer: int, cache: list[torch.Tensor] = cache, peer: int = peer) -> None:
            part = cache[layer][:, :, : model.args.prompt].contiguous()
            sent.append((dist.isend(part, peer), part))

        first = model.next_token(prompts[request], cache, 0, send)
        seen.first_s.append(time.perf_counter() - began)
        token = torch.tensor([first], device=prompts.device)
        sent.append((dist.isend(token, peer), token))
    for work, _ in sent:
        work.wait()
    seen.whole_s = time.perf_counter() - began
    return seen


def decode(model: Model, prompts: torch.Tensor, mine: range, whence: list[int]) -> Measured:
    """Take in K and V, and write the answers."""
    seen, began, args = Measured(), time.perf_counter(), model.args
    for request in mine:
        cache, peer = model.new_cache(prompts.device), whence[request % len(whence)]
        waited = 0.0
        for number, layer in enumerate(cache):
            part = torch.empty_like(layer[:, :, : args.prompt])
            since = time.perf_counter()
            dist.recv(part, peer)
            # Of the first layer, most of the time is that of the prefill itself.
            waited += time.perf_counter() - since if number else 0.0
            layer[:, :, : args.prompt] = part
        token = torch.zeros(1, dtype=torch.long, device=prompts.device)
        dist.recv(token, peer)
        seen.transfer_s.append(waited)
        seen.answers[request] = write(model, cache, int(token), seen, prompts.device)
    seen.whole_s = time.perf_counter() - began
    return seen


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(split: list[Measured], both: list[Measured], args: argparse.Namespace) -> str:
    """The figures of both layouts, and in which the split one is slower."""

    def figures(ranks: list[Measured]) -> list[float]:
        first = [value for rank in ranks for value in rank.first_s]
        between = [value for rank in ranks for value in rank.between_s]
        return [1e3 * mean(first), 1e3 * mean(between), 1e3 * max(rank.whole_s for rank in ranks)]

    names = ["first token", "between tokens", "all requests"]
    of_split, of_both = figures(split), figures(both)
    lines = [f"{'ms':>16} {'split':>10} {'together':>10}"]
    for name, one, other in zip(names, of_split, of_both, strict=True):
        lines.append(f"{name:>16} {one:10.2f} {other:10.2f}")
    transfer = [value for rank in split for value in rank.transfer_s]
    element = torch.get_default_dtype().itemsize
    lines.append(
        f"K and V: {2 * args.layers * args.dim * element:,} bytes a token of the prompt, "
        f"{2 * args.layers * args.dim * element * args.prompt:,} a request; a decode rank waited "
        f"{1e3 * mean(transfer):.2f} ms for them, behind the first layer"
    )
    slower = [n for n, a, b in zip(names, of_split, of_both, strict=True) if a > b]
    lines.append(f"split is slower here in: {', '.join(slower) or 'nothing'}")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.device_count() > local
    backend = "nccl" if on_gpu else "gloo"
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    rank, world = dist.get_rank(), dist.get_world_size()
    roles: list[str] = [""] * world
    dist.all_gather_object(roles, os.environ.get("KIJ_ROLE", ""))
    sides = {name: [r for r in range(world) if roles[r] == name] for name in ("prefill", "decode")}
    if sorted(sides["prefill"] + sides["decode"]) != list(range(world)) or not all(sides.values()):
        raise SystemExit("this takes --roles prefill=N,decode=M; there are: " + ", ".join(roles))
    with torch.inference_mode():
        model = Model(args).to(device).eval()
        generator = torch.Generator().manual_seed(1)
        shape = (args.requests, args.prompt)
        prompts = torch.randint(VOCABULARY, shape, generator=generator).to(device)
        together(model, prompts, range(1))  # warm
        warm = torch.zeros(1, device=device)
        for source in sides["prefill"]:
            for target in sides["decode"]:
                if rank == source:
                    dist.send(warm, target)
                elif rank == target:
                    dist.recv(warm, source)
        dist.barrier()
        mine = range(rank, args.requests, world)
        of_both = together(model, prompts, mine)
        dist.barrier()
        side = sides[roles[rank]]
        mine = range(side.index(rank), args.requests, len(side))
        if roles[rank] == "prefill":
            of_split = prefill(model, prompts, mine, sides["decode"])
        else:
            of_split = decode(model, prompts, mine, sides["prefill"])
            alone = together(model, prompts, mine)
            assert of_split.answers == alone.answers, "the answers differ from those of one process"
    everyone: list[list[Measured]] = [[]] * world
    dist.all_gather_object(everyone, [of_split, of_both])
    if rank == 0:
        print(f"{world} ranks ({', '.join(roles)}), {backend}, {args.requests} requests")
        print(table([one[0] for one in everyone], [one[1] for one in everyone], args))
        print("all answers are those of one process")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
