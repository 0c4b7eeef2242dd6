"""Losses of the exact algorithms over training, beside the model's."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from zoo.predictor import Predictor
from zoo.training.module import Batch, LitPredictor


class ReferenceMonitor(pl.Callback):
    """Logs the validation loss at the query of exact algorithms, `val/LOSS_query/NAME`.

    They do not learn and the episodes stay the same, so each is asked once.

    Args:
        references: Exact algorithms by name.
    """

    def __init__(self, references: Mapping[str, Predictor]) -> None:
        self.references = references
        self._losses: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, LitPredictor)
        x, y, target, _ = batch
        if batch_idx not in self._losses:
            self._losses[batch_idx] = {
                # A copy: the report at the end asks the references themselves, on the CPU.
                name: pl_module.error(
                    copy.deepcopy(reference).to(x.device).predict_query(x, y), target[:, -1]
                ).mean()
                for name, reference in self.references.items()
            }
        for name, loss in self._losses[batch_idx].items():
            pl_module.log(
                f"val/{pl_module.error_name}_query/{name}",
                loss,
                batch_size=len(x),
                on_epoch=True,
                sync_dist=True,
            )
