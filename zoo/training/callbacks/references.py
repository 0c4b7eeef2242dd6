"""Losses of the exact algorithms over training, beside the model's."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from datamodules.episodes import Episodes
from zoo.predictor import Predictor
from zoo.training.base import EpisodeModule


class ReferenceMonitor(pl.Callback):
    """Logs the validation loss of exact algorithms, `val/LOSS_query/NAME`.

    Where labels are hidden and the loss is taken at all positions it is `val/LOSS_all/NAME`. They
    do not learn and the episodes stay the same, so each is asked once.

    Attributes:
        references: Exact algorithms by name, to be set before the training.
    """

    def __init__(self, references: Mapping[str, Predictor] | None = None) -> None:
        self.references = references or {}
        self._copies: dict[str, Predictor] = {}
        self._losses: dict[int, dict[str, float]] = {}

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
        if not self._copies:  # the report at the end asks the references themselves, on the CPU
            self._copies = {
                name: copy.deepcopy(reference).to(batch.x.device)
                for name, reference in self.references.items()
            }
        if batch_idx not in self._losses:
            # No tensors: what stays between large blocks that go keeps the next from their place.
            self._losses[batch_idx] = {
                name: pl_module.errors_of(reference, batch).mean().item()
                for name, reference in self._copies.items()
            }
        for name, loss in self._losses[batch_idx].items():
            pl_module.log(
                f"{pl_module.val_metric}/{name}",
                loss,
                batch_size=len(batch.x),
                on_epoch=True,
                sync_dist=True,
            )
