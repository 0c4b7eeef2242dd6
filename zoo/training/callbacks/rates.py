"""Learning rates over the course of training."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRates(LearningRateMonitor):
    """Logs the rate of each parameter group, once a step however many batches it accumulates.

    Without a logger it does nothing.
    """

    def __init__(self) -> None:
        super().__init__(logging_interval="step")

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.loggers:
            super().on_train_start(trainer, *args)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        first = trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches == 0
        if trainer.loggers and first:
            super().on_train_batch_start(trainer, *args)
