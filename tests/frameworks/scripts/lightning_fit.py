"""A Lightning module: two epochs with a bar, a CSV log, checkpoints, and forked workers."""

import argparse
import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """A line through noise."""

    def __init__(self, width: int = 8, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, sync_dist=True, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics["loss"]
        print("rank", self.global_rank, "epoch", self.current_epoch, f"loss {loss:.5f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    pl.seed_everything(0, workers=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=int(os.environ["GROUP_WORLD_SIZE"]),
        max_epochs=2,
        log_every_n_steps=1,
        logger=CSVLogger(out, name="csv"),
        # As Lightning chooses where there is no rich.
        callbacks=[ModelCheckpoint(out / "checkpoints", save_last=True), TQDMProgressBar()],
        enable_model_summary=False,
    )
    data = TensorDataset(torch.randn(32, 8))
    trainer.fit(Regression(), DataLoader(data, batch_size=4, num_workers=1))
    print("rank", trainer.global_rank, "stopped at step", trainer.global_step)


if __name__ == "__main__":
    main()
