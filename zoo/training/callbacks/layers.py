"""What layers and states know, in the course of training."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from datamodules.datamodule import EpisodeSets
from datamodules.episodes import Episodes
from zoo.analysis.lens import errors_by_layer, lens, nearness
from zoo.analysis.places import features, num_seen, places, weights
from zoo.analysis.probes import probe_all
from zoo.metrics.alignment import query_response
from zoo.metrics.errors import half_squared_error
from zoo.predictor import Predictor
from zoo.references import create_reference
from zoo.registry import create_solver
from zoo.training.module import LitPredictor


class LayerMonitor(pl.Callback):
    """Logs the layer lens and the scores of probes at every validation.

    | logged | what it is |
    |---|---|
    | `layers/error_l` | 0.5*MSE at the query after l layers, by the own readout, / that of zero |
    | `layers/ridge_stream_l`, `layers/ridge_state_l` | R^2 of a linear probe, weights of ridge |
    | `layers/B_stream_l`, `layers/B_state_l` | R^2 of a linear probe, B = sum x y^T |
    | `layers/cosine_ridge_l` | `Nearness.cosine` to ridge after l layers, by the own readout |
    | `layers/cosine_one_step_l` | the same to one step of gradient descent of any size |

    A number that is not defined, as of a model that diverges, is logged as NaN, and the training
    goes on.

    Probes are fitted to the first validation episodes and scored on those that follow, which all
    else is measured on.

    Args:
        num_to_fit: Episodes that probes are fitted to.
        num_to_score: Episodes behind every number.

    Raises:
        ValueError: Before training, if one of them is too small, there are fewer validation
            episodes on a device or no validation at all, labels are no values, or several models
            are trained side by side.
    """

    def __init__(self, num_to_fit: int = 500, num_to_score: int = 300) -> None:
        for name, value, least in (
            ("num_to_fit", num_to_fit, 8),
            ("num_to_score", num_to_score, 2),
        ):
            if value < least:
                raise ValueError(f"callbacks.layers.{name} must be at least {least}, got {value}")
        self.num_to_fit, self.num_to_score = num_to_fit, num_to_score
        self.ridge: Predictor | None = None
        self.seen: list[Episodes] = []  # of the validation under way

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, LitPredictor):
            raise ValueError(
                "callbacks=inside looks into one model, got several seeds or learning rates side "
                "by side; train them one after the other (-m seed=0,1)"
            )
        sets: EpisodeSets = trainer.datamodule  # type: ignore[attr-defined]
        spec = sets.sampler.spec
        if spec.output != "value":
            raise ValueError(
                f"layers are looked into where labels are values, got {spec.function.name}, whose "
                f"labels are {spec.output}"
            )
        if self._num > sets.eval_episodes // trainer.world_size:
            raise ValueError(
                f"callbacks.layers needs num_to_fit + num_to_score = {self.num_to_fit} + "
                f"{self.num_to_score} validation episodes on every device, got eval_episodes = "
                f"{sets.eval_episodes} on {trainer.world_size}"
            )
        every = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
        if stage == "fit" and 0 <= trainer.max_steps < every:
            raise ValueError(
                "callbacks=inside looks in at every validation, of which there is none: val_every "
                f"must be at most max_steps = {trainer.max_steps}, got {every}"
            )
        self.ridge = create_reference("ridge", spec, {})

    @property
    def _num(self) -> int:
        """Episodes that are looked at."""
        return self.num_to_fit + self.num_to_score

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        missing = self._num - sum(len(part.x) for part in self.seen)
        if not missing:
            return
        self.seen.append(batch.rows(0, missing))
        if len(batch.x) < missing:
            return
        assert isinstance(pl_module, LitPredictor)
        assert self.ridge is not None
        episodes = Episodes.joined(self.seen)
        fit = episodes.rows(0, self.num_to_fit)
        test = episodes.rows(self.num_to_fit, self._num)
        ridge = self.ridge.to(batch.x.device)
        found = _of_lens(pl_module.model, ridge, test) | _scores(pl_module.model, ridge, fit, test)
        for name, value in found.items():
            pl_module.log(
                f"layers/{name}",
                torch.tensor(value, device=batch.x.device),
                batch_size=self.num_to_score,
                on_epoch=True,
                sync_dist=True,
            )


def _of_lens(model: Predictor, ridge: Predictor, test: Episodes) -> dict[str, float]:
    """The layer lens: errors, and how near two algorithms are."""
    target, lenses = test.target[:, -1], lens(model)
    zero = half_squared_error(torch.zeros_like(target), target).mean()
    errors = errors_by_layer(lenses, test.x, test.y, test.target)
    found = {f"error_{layer}": (e[:, -1].mean() / zero).item() for layer, e in errors.items()}
    # A cosine does not depend on the size of the step.
    one_step = create_solver("gradient_descent", d_x=model.d_x, d_y=model.d_y, step_size=1.0)
    algorithms = {"ridge": ridge, "one_step": one_step.to(test.x.device)}
    responses = {name: query_response(f, test.x, test.y) for name, f in algorithms.items()}
    for layer, cut in lenses.items():
        of_layer = query_response(cut, test.x, test.y)
        for name, response in responses.items():
            try:
                cosine = nearness(of_layer, response, {}).cosine
            except ValueError:
                cosine = math.nan
            found[f"cosine_{name}_{layer}"] = cosine
    return found


def _scores(model: Predictor, ridge: Predictor, fit: Episodes, test: Episodes) -> dict[str, float]:
    """What probes find."""
    try:
        seen = num_seen(model, test.x.shape[1] - 1)
        of_fit, of_test = (features(model, part.x, part.y) for part in (fit, test))
    except ValueError:  # of states that are not finite
        return {
            f"{name}_{place.kind}_{place.layer}": math.nan
            for place in places(model)
            for name in _targets(ridge, fit, 1)
        }
    found = {}
    for place, num in seen.items():
        train = of_fit[place], _targets(ridge, fit, num)
        told = _told(train, (of_test[place], _targets(ridge, test, num)))
        for name, r2 in told.items():
            found[f"{name}_{place.kind}_{place.layer}"] = r2
    return found


Known = tuple[Tensor, dict[str, Tensor]]  # features, and targets by name


def _told(train: Known, test: Known) -> dict[str, float]:
    """R^2 by target, NaN of those that are not defined."""
    try:
        return {name: score.r2.value for name, score in probe_all(train, test).items()}
    except ValueError:
        if len(train[1]) == 1:
            return dict.fromkeys(train[1], math.nan)
    # Where one of several targets does not vary the others may.
    found: dict[str, float] = {}
    for name in train[1]:
        found |= _told(*((h, {name: targets[name]}) for h, targets in (train, test)))
    return found


def _targets(ridge: Predictor, episodes: Episodes, num_examples: int) -> dict[str, Tensor]:
    """What is looked for after so many examples."""
    x, y = episodes.x[:, :num_examples], episodes.y[:, :num_examples]
    return {"ridge": weights(ridge, x, y), "B": x.mT @ y}
