"""The first run: every rank says who it is, and all of them add up their ranks.

kij-train launch --local --nodes 2 --nproc-per-node 2 train_examples/hello_ranks.py
"""

import torch
import torch.distributed as dist

dist.init_process_group()
device = torch.device("cuda", dist.get_node_local_rank()) if torch.cuda.is_available() else "cpu"
total = torch.tensor([dist.get_rank()], device=device)
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: the ranks add up to {total.item()}")
dist.destroy_process_group()
