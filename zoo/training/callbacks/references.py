"""Losses of the exact algorithms over training, beside the model's."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from datamodules.episodes import Episodes
from zoo.predictor import Predictor
from zoo.training.base import EpisodeModule


class ReferenceMonitor(pl.Callback):
    """Logs the validation loss at the query of exact algorithms, `val/LOSS_query/NAME`.

    They do not learn and the episodes stay the same, so each is asked once.

    Attributes:
        references: Exact algorithms by name, to be set before the training.
    """

    def __init__(self, references: Mapping[str, Predictor] | None = None) -> None:
        self.references = references or {}
        self._losses: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, EpisodeModule)
        if batch_idx not in self._losses:
            self._losses[batch_idx] = {
                # A copy: the report at the end asks the references themselves, on the CPU.
                name: self._loss(pl_module, copy.deepcopy(reference), batch)
                for name, reference in self.references.items()
            }
        for name, loss in self._losses[batch_idx].items():
            pl_module.log(
                f"val/{pl_module.error_name}_query/{name}",
                loss,
                batch_size=len(batch.x),
                on_epoch=True,
                sync_dist=True,
            )

    @staticmethod
    def _loss(pl_module: EpisodeModule, reference: Predictor, batch: Episodes) -> torch.Tensor:
        prediction = reference.to(batch.x.device).predict_query(batch.x, batch.y)
        return pl_module.error(prediction, batch.target[:, -1]).mean()
