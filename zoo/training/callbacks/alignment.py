"""Alignment with the reference algorithm over training."""

from typing import Any

import lightning.pytorch as pl
import torch

from datamodules.episodes import Episodes
from zoo.metrics.alignment import QueryResponse, alignment, query_response
from zoo.training.module import LitPredictor


class AlignmentMonitor(pl.Callback):
    """Logs prediction difference, model difference and cosine at every validation.

    They compare the model with the module's reference on the first validation episodes. Of several
    seeds side by side nothing is logged, nor where labels are hidden: nothing is learned from them
    that could be aligned.

    Args:
        num_episodes: How many.
    """

    def __init__(self, num_episodes: int = 1_000) -> None:
        self.num_episodes = num_episodes
        self._reference_response: QueryResponse | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(pl_module, LitPredictor):
            return
        if batch_idx > 0 or pl_module.reference is None or pl_module.scoring.labels_hidden:
            return
        episodes = batch.rows(0, self.num_episodes)
        if self._reference_response is None:
            reference = query_response(pl_module.reference, episodes.x, episodes.y)
            self._reference_response = reference
        response = query_response(pl_module.model, episodes.x, episodes.y)
        measured = alignment(response, self._reference_response)
        for name in ("prediction_difference", "model_difference", "cosine"):
            interval = getattr(measured, name)
            # A step at which no cosine is defined has a gap in the chart.
            value = float("nan") if interval is None else interval.value
            pl_module.log(
                f"alignment/{name}",
                torch.tensor(value, device=episodes.x.device),
                batch_size=len(episodes.x),
                on_epoch=True,
                sync_dist=True,
            )
