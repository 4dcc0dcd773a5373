"""As nanoGPT does it: plain torch, DistributedDataParallel, a loss a step, a checkpoint.

Around it, what such scripts do: arguments, a bar, a log file beside the script, warnings that name
their caller, workers that are forked and spawned, a checkpoint of a class of its own, and one that
a thread writes after the last line.
"""

import argparse
import atexit
import logging
import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

LOGS = Path(__file__).parent / "logs"
VOCABULARY, CONTEXT, WIDTH = 32, 8, 16


@dataclass
class Config:
    """What the checkpoint keeps of the arguments."""

    steps: int = 4
    fail_once: bool = False
    lr: float = 0.1
    tags: list[str] = field(default_factory=lambda: ["tiny"])


@dataclass
class Checkpoint:
    """Pickled as a class of __main__."""

    step: int
    config: Config
    weights: dict[str, torch.Tensor]


class Tokens(Dataset[torch.Tensor]):
    """Sequences that are made, not read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return (torch.arange(CONTEXT + 1) * (index + 1)) % VOCABULARY


class TinyGPT(nn.Module):
    """One block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.block(self.embed(tokens), src_mask=mask, is_causal=True))


def old_name() -> None:
    warnings.warn("old_name is called new_name now", DeprecationWarning, stacklevel=2)


def say(*words: object) -> None:
    print("rank", os.environ["RANK"], *words, flush=True)


def loader(rank: int, method: str) -> DataLoader[torch.Tensor]:
    """This rank's share, by one worker that is started in the given way."""
    share = torch.utils.data.Subset(Tokens(), range(rank, len(Tokens()), dist.get_world_size()))
    return DataLoader(share, batch_size=4, num_workers=1, multiprocessing_context=method)


def train(config: Config, rank: int, out: Path, workers: list[str]) -> Checkpoint:
    """The loop; goes on from a checkpoint of an earlier round."""
    torch.manual_seed(0)
    model = DistributedDataParallel(TinyGPT())
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    first, path = 0, out / "step.pt"
    if path.exists():
        saved = torch.load(path, weights_only=False)
        model.module.load_state_dict(saved.weights)
        first = saved.step
        say("resumes at step", first, "from", type(saved).__module__)
    batches = [batch for method in workers for batch in loader(rank, method)]
    for step in tqdm(range(first, config.steps), desc="train", disable=rank > 0):
        batch = batches[step % len(batches)]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        dist.all_reduce(loss)
        logging.info("step %d loss %.5f", step, loss.item())
        if rank == 0:
            say("step", step, f"loss {loss.item():.5f}")
            new = Checkpoint(step + 1, config, model.module.state_dict())
            torch.save(new, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        dist.barrier()
        if config.fail_once and not first and step == 1:
            fail("raise", rank)
    dist.barrier()  # the bar is complete
    return Checkpoint(config.steps, config, model.module.state_dict())


def fail(how: str, rank: int) -> None:
    """The last rank ends as it is told to; the others are busy, as if they computed."""
    if rank < dist.get_world_size() - 1:
        time.sleep(600)
    if how == "raise":
        raise ValueError("a bad batch\nof two lines")
    if how == "exit":
        sys.exit(3)
    if how == "words":
        sys.exit("no data in /data")
    sys.stdout.write("calling the kernel ...")
    os.kill(os.getpid(), signal.SIGSEGV)


def wait_for_signal(last: Checkpoint, rank: int, out: Path) -> None:
    """Saves when it is interrupted, as on a preempted machine."""

    def on_sigterm(signum: int, frame: object) -> None:
        torch.save(last, out / f"sigterm-{rank}.pt")
        say("saved at", signal.Signals(signum).name)
        sys.exit(0)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        (out / f"waiting-{rank}").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        torch.save(last, out / f"interrupted-{rank}.pt")
        say("saved at KeyboardInterrupt")


def save_late(last: Checkpoint, path: Path) -> None:
    threading.main_thread().join()
    time.sleep(0.5)
    torch.save(last, path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--fail", choices=["raise", "exit", "words", "crash"])
    parser.add_argument("--fail-once", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--spawn", action="store_true")
    args = parser.parse_args()
    rank = int(os.environ["RANK"])
    args.out.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    logging.basicConfig(
        filename=LOGS / f"rank{rank}.log",
        format="%(asctime)s %(pathname)s:%(lineno)d %(message)s",
        level=logging.INFO,
    )
    dist.init_process_group("gloo")
    say("runs", sys.argv, "as", __name__, "of", __file__, "in", Path.cwd(), "on", sys.path[0])
    say(parser.prog, "is", sys.modules["__main__"].__spec__)
    old_name()
    logging.getLogger("app").warning("args %s", sorted(vars(args)))
    config = Config(args.steps, args.fail_once)
    say("config", asdict(config))
    last = train(config, rank, args.out, ["fork", "spawn"] if args.spawn else ["fork"])
    if args.fail:
        fail(args.fail, rank)
    if args.wait:
        wait_for_signal(last, rank, args.out)
    dist.destroy_process_group()
    threading.Thread(target=save_late, args=(last, args.out / f"late-{rank}.pt")).start()
    atexit.register(torch.save, last, args.out / f"atexit-{rank}.pt")
    say("done")


if __name__ == "__main__":
    main()
