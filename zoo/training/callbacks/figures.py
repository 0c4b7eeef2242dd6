"""Figures over the course of training, in TensorBoard."""

from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from datamodules.episodes import Episodes
from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import lay_out_as, thumbnail_curve_figure, thumbnail_weights_figure
from zoo.evaluation.compare import losses, scored_columns
from zoo.metrics.errors import Summary, error_summary
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.solvers.moment import GradientDescent
from zoo.training.callbacks.board import writers
from zoo.training.module import LitPredictor


class FigureMonitor(pl.Callback):
    """Draws the learning curve, and for `gd_ssm` the weights beside the construction.

    Of several seeds side by side nothing is drawn.

    Args:
        every_n_steps: Drawn at the first validation of all and the first after each so many steps,
            since drawing takes longer than validating.
        num_episodes: Validation episodes behind the learning curve.
    """

    def __init__(self, every_n_steps: int = 500, num_episodes: int = 1_000) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.num_episodes = num_episodes
        self._last_stretch = -1
        self._drawn: dict[str, Figure] = {}  # the first of each kind

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
        stretch = trainer.global_step // self.every_n_steps
        if batch_idx > 0 or stretch == self._last_stretch or not writers(trainer):
            return
        self._last_stretch = stretch
        predictors: dict[str, Predictor] = {}
        if pl_module.reference is not None:
            predictors[pl_module.reference_name] = pl_module.reference
        predictors["model"] = pl_module.model
        episodes = batch.rows(0, self.num_episodes)
        curves: dict[str, list[Summary | None]] = {}
        for name, predictor in predictors.items():
            found = losses(predictor, episodes, pl_module.scoring)
            loss, values = next(iter(found.items()))
            curves[name] = [
                error_summary(column) if len(column) > 1 else None
                for column in scored_columns(values, episodes.scored)
            ]
        for writer in writers(trainer):
            figure = thumbnail_curve_figure(curves, loss, pl_module.spec.name)
            self._add(writer, "val/learning_curve", figure, trainer.global_step)
            if isinstance(pl_module.model, GDSSM) and isinstance(
                pl_module.reference, GradientDescent
            ):
                with torch.inference_mode(False):
                    weights = weights_beside_construction(
                        pl_module.model, pl_module.reference.step_size
                    )
                figure = thumbnail_weights_figure(weights)
                self._add(writer, "weights/beside_construction", figure, trainer.global_step)

    def _add(self, writer: SummaryWriter, tag: str, figure: Figure, step: int) -> None:
        if tag in self._drawn:
            lay_out_as(figure, self._drawn[tag])
        writer.add_figure(tag, figure, step)
        self._drawn.setdefault(tag, figure)
