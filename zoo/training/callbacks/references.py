"""Losses of the exact algorithms over training, beside the model's."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.tensorboard import SummaryWriter

from datamodules.episodes import Episodes
from zoo.predictor import Predictor
from zoo.training.base import EpisodeModule
from zoo.training.logger import TensorBoard


class ReferenceMonitor(pl.Callback):
    """Logs the validation loss of exact algorithms, `val/LOSS_query/NAME`.

    Where labels are hidden and the loss is taken at all positions it is `val/LOSS_all/NAME`. They
    do not learn and the episodes stay the same, so each is asked once.

    In TensorBoard each is a run of its own, `algorithms/NAME=LOSS` with a name and a colour, and a
    line from the first step to the last under the tag of the model's loss.

    Attributes:
        references: Exact algorithms by name, to be set before the training.

    Args:
        references: The same.
        shared: Directory of the lines of all runs of a multirun, of which the first draws them for
            all that have the same episodes; None draws them beside the curves of the run.
    """

    def __init__(
        self, references: Mapping[str, Predictor] | None = None, shared: Path | None = None
    ) -> None:
        self.references = references or {}
        self.shared = shared
        self._drawn = False
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

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EpisodeModule)
        if self._drawn or not trainer.is_global_zero:
            return
        self._drawn = True
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                directory = self.shared or Path(logger.log_dir) / "algorithms"
                for name in self.references:
                    loss = trainer.callback_metrics[f"{pl_module.val_metric}/{name}"].item()
                    # What is below is rounding, which differs between machines.
                    place = directory / f"{name}={round(loss, 6):.4g}"
                    try:
                        place.mkdir(parents=True, exist_ok=self.shared is None)
                    except FileExistsError:  # drawn by another run
                        continue
                    with SummaryWriter(str(place)) as writer:
                        for step in (0, trainer.max_steps):
                            writer.add_scalar(pl_module.val_metric, loss, step)
