"""Train with DistributedDataParallel on shards that stream in, while the next ones come.

    kij-train launch --local --nodes 2 --with webdataset \
        streaming.py --shards '/data/train-{0000..0007}.tar'
    kij-train launch --nodes 8 --gpus 8 --mount pvc:data:/data:ro --with webdataset \
        streaming.py --shards '/data/train-{0000..0511}.tar'
    kij-train launch --nodes 8 --gpus 8 --env-from-secret s3 --with webdataset --with s3fs \
        streaming.py --shards 's3://bucket/train-{0000..0511}.tar'

A shard is a tar file, of samples as webdataset writes them: here 000001.x.pth, a tensor, and
000001.y.cls, its class. `--make 8` writes as many shards of made-up samples to --shards first.

Each rank has shards of its own, the same ones in every epoch. What comes from an object store is
kept in this index's own folder, so that each shard is read once a job, however many epochs there
are. What is on a volume is read from there in every epoch.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import webdataset
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from webdataset.gopen import gopen_schemes
from webdataset.shardlists import expand_urls

FEATURES, CLASSES = 16, 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", required=True, help="paths or URLs, with {0000..0007}")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="samples a rank")
    parser.add_argument("--make", type=int, default=0, help="write so many shards first")
    return parser.parse_args()


# --- shards ---------------------------------------------------------------------------------------


def open_by_fsspec(url: str, mode: str = "rb", bufsize: int = 8192) -> object:
    """Any object store that fsspec has a package for, with the credentials of its variables."""
    import fsspec

    del bufsize
    return fsspec.open(url, mode).open()


for scheme in ("s3", "gs", "az", "memory"):
    gopen_schemes[scheme] = open_by_fsspec


def make(shards: list[str], samples: int = 64) -> None:
    """Shards of samples whose class is the quarter of the features that is larger."""
    generator = torch.Generator().manual_seed(0)
    for shard in shards:
        with webdataset.TarWriter(open_by_fsspec(shard, "wb")) as writer:
            for number in range(samples):
                y = number % CLASSES
                x = torch.randn(FEATURES, generator=generator)
                x[y * FEATURES // CLASSES : (y + 1) * FEATURES // CLASSES] += 2
                writer.write({"__key__": f"{number:06d}", "x.pth": x, "y.cls": y})


def samples_of(shards: list[str], batch: int) -> webdataset.WebDataset:
    """This rank's samples, shuffled within 256 of them, in batches."""
    cache = None
    if "://" in shards[0]:
        cache = Path(os.environ.get("KIJ_RUN_DIR", "."), "shards")
        cache.mkdir(exist_ok=True)
    return (
        webdataset.WebDataset(
            shards,
            nodesplitter=webdataset.split_by_node,  # by rank, of all ranks
            shardshuffle=False,
            cache_dir=None if cache is None else str(cache),
        )
        .shuffle(256, seed=0)
        .decode()
        .to_tuple("x.pth", "y.cls", "__url__")
        .batched(batch, partial=True)
    )


def epoch_of(
    batches: webdataset.WebDataset, read: set[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Its batches; `read` gets the shards that they are from."""
    for x, y, urls in batches:
        read.update(urls)
        yield torch.as_tensor(x), torch.as_tensor(y)


# --- the training ---------------------------------------------------------------------------------


def main() -> None:
    args = parse_args()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    shards = list(expand_urls(args.shards))
    if len(shards) < world_size:
        raise SystemExit(
            f"{len(shards)} shards are too few for {world_size} ranks: one each at least"
        )
    if args.make and rank == 0:
        make(shards[: args.make])
    dist.barrier()

    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(FEATURES, CLASSES).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches, read = samples_of(shards, args.batch), set[str]()
    seen = torch.zeros(1, dtype=torch.long)
    for epoch in range(args.epochs):
        seen.zero_()
        with model.join():  # ranks with fewer batches than others wait for them
            for x, y in epoch_of(batches, read):
                loss = cross_entropy(model(x.to(device)), y.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                seen += len(x)
        total = seen.to(device)
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch}: {total.item()} samples, loss {loss.item():.3f}", flush=True)
    print(f"rank {rank} of {world_size} has read {' '.join(sorted(read))}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
