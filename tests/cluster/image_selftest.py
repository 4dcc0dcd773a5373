"""Run under torchrun inside the new torch image: train a step, then say which CUDA files it took.

It imports what training scripts import, so that their bytecode is in the image from then on.
"""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.utils.data
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """One step of data-parallel training with gloo; fails where the image lacks something."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    for inputs, targets in torch.utils.data.DataLoader(data, batch_size=4):
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == dist.get_world_size()
    assert total.numpy().shape == (1,)
    dist.destroy_process_group()
    maps = Path("/proc/self/maps").read_text().splitlines()
    files = {line.split()[-1] for line in maps if "/nvidia/" in line}
    for file in sorted(files):
        print("loaded", file)


if __name__ == "__main__":
    main()
