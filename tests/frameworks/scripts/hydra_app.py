"""A Hydra app: a structured config, a run folder that becomes the working directory, a log file."""

import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
import torch.distributed as dist
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)


@dataclass
class Config:
    """Pickled as a class of __main__."""

    steps: int = 3
    lr: float = 0.1
    fail: bool = False


ConfigStore.instance().store(name="config", node=Config)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: torch.Tensor) -> float:
    loss = model(data).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())


@hydra.main(version_base=None, config_name="config")
def main(cfg: DictConfig) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    here = Path(__file__).parent
    print("rank", rank, "in", Path.cwd(), "of", here, "started in", hydra.utils.get_original_cwd())
    print("rank", rank, "job", HydraConfig.get().job.name, "argv", sys.argv)
    print("rank", rank, "finds its script", Path(__file__).read_text().count("@hydra.main") > 0)
    warnings.warn("a warning of the app", stacklevel=2)
    data, model = torch.randn(4, 8), DistributedDataParallel(nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr)
    for number in range(cfg.steps):
        loss = step(model, optimizer, data)
        log.info("rank %d step %d loss %.5f", rank, number, loss)
    dist.barrier()
    if cfg.fail and rank == dist.get_world_size() - 1:
        raise ValueError("a bad batch")
    if cfg.fail:
        time.sleep(600)  # busy until it is ended
    if rank == 0:
        kept = OmegaConf.to_object(cfg)
        torch.save({"config": kept, "weights": model.state_dict()}, "model.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
