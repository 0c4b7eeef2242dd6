"""A callback for tests that asks which episodes a run really trained on."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch


class Recorder(pl.Callback):
    """Saves the inputs of every training batch of this rank as `DIRECTORY/STEP-PART-RANK.pt`."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        part = batch_idx % trainer.accumulate_grad_batches
        name = f"{trainer.global_step:04d}-{part}-{trainer.global_rank}.pt"
        self.directory.mkdir(exist_ok=True)
        torch.save(batch.x.clone(), self.directory / name)
