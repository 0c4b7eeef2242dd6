"""Learning rates over the course of training."""

import lightning.pytorch as pl

from datamodules.episodes import Episodes
from zoo.training.base import EpisodeModule


class LearningRates(pl.Callback):
    """Logs the rate of each parameter group, `train/learning_rate/GROUP`, with the step it is of.

    It does so when losses are logged, once a step however many batches that accumulates.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Episodes, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, EpisodeModule)
        first_part = batch_idx % trainer.accumulate_grad_batches == 0
        if not first_part or not pl_module.is_logged():
            return
        groups = trainer.optimizers[0].param_groups
        rates = {f"train/learning_rate/{group['name']}": group["lr"] for group in groups}
        for logger in trainer.loggers:
            logger.log_metrics(rates, trainer.global_step + 1)
