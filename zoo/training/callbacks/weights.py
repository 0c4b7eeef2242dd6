"""What is known of the weights of a GD-SSM over training."""

from typing import Any

import lightning.pytorch as pl
import torch

from datamodules.episodes import Episodes
from zoo.analysis.construction import weights_summary
from zoo.models.gd_ssm import GDSSM
from zoo.solvers.moment import GradientDescent
from zoo.training.module import LitPredictor


class WeightMonitor(pl.Callback):
    """Logs the numbers of `weights_summary` at every validation, for `gd_ssm` with values.

    Of several seeds side by side nothing is logged.
    """

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
        model, reference = pl_module.model, pl_module.reference
        if batch_idx > 0 or not isinstance(model, GDSSM):
            return
        if not isinstance(reference, GradientDescent):
            return
        with torch.inference_mode(False):
            summary = weights_summary(model, reference.step_size)
        for name, value in summary.items():
            pl_module.log(
                f"weights/{name}",
                torch.tensor(value, device=batch.x.device),
                batch_size=len(batch.x),
                on_epoch=True,
                sync_dist=True,
            )
