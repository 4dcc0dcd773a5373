"""A loop with accelerate; torch writes its checkpoint in the background, to the end and beyond."""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

log = get_logger(__name__)


@dataclass
class Progress:
    """Pickled as a class of __main__ with the background checkpoint."""

    step: int = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    accelerator = Accelerator(cpu=True)
    logging.basicConfig(format="%(name)s %(message)s", level=logging.INFO)
    set_seed(0)
    data = TensorDataset(torch.randn(32, 8))
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=1)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    for (batch,) in tqdm(loader, disable=not accelerator.is_local_main_process):
        loss = model(batch).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        mean = accelerator.gather_for_metrics(loss.detach().reshape(1)).mean()
        accelerator.print(f"step {progress.step} loss {mean:.5f}")
    log.info("finished", main_process_only=False, in_order=True)
    accelerator.save_state(str(out / "state"))
    state = {"weights": accelerator.unwrap_model(model).state_dict(), "progress": progress}
    dcp.async_save(state, checkpoint_id=str(out / "background"))
    print("rank", accelerator.process_index, "done")


if __name__ == "__main__":
    main()
