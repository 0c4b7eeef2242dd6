"""What a module that trains on episodes is, whether of one model or of several side by side."""

from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from datamodules.episodes import Episodes
from zoo.metrics.classification import cross_entropy
from zoo.metrics.errors import half_squared_error, mean_of_scored
from zoo.predictor import Predictor
from zoo.registry import ModelSpec
from zoo.training.optim import create_optimizer, create_schedule
from zoo.training.options import OptimConfig
from zoo.training.validation import ValidationMetrics

Loss = Literal["mse", "cross_entropy"]
Positions = Literal["last", "all"]

# Of each loss: its name in metrics, the error of (..., d_y) against (..., d_y), and the kind of
# prediction it is made for.
_ERRORS: dict[Loss, tuple[str, Callable[[Tensor, Tensor], Tensor], str]] = {
    "mse": ("half_mse", half_squared_error, "value"),
    "cross_entropy": ("cross_entropy", cross_entropy, "logits"),
}


class NonFiniteError(RuntimeError):
    """A loss or gradient was infinite or not a number; the weights are those before the step."""


class EpisodeModule(pl.LightningModule):
    """The loss, the optimizer and the validation of a predictor on batches of episodes.

    The loss is 0.5*MSE over scored positions, episodes and output coordinates, or the cross entropy
    over scored positions and episodes. With cross entropy, validation logs the share of queries
    whose class is right and the expected calibration error as well. Training losses are logged as
    often as the trainer says.

    Args:
        model: The architecture and its arguments.
        optim: Rates of the parameters and their course.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        reference: An algorithm whose validation error the model's is divided by. Not saved.

    Attributes:
        diverged: Why a seed was left out of the training, by seed.

    Raises:
        ValueError: If an argument is out of range, or the loss is not made for what the reference
            predicts.
    """

    model: Predictor
    on_nonfinite: Literal["stop", "skip"] = "stop"
    # Whether the first dimension of every parameter counts replicas of the model.
    stacked = False

    def __init__(
        self,
        model: ModelSpec,
        optim: OptimConfig,
        positions: Positions,
        loss: Loss,
        reference: Predictor | None,
    ) -> None:
        super().__init__()
        if loss not in _ERRORS:
            raise ValueError(f"loss must be 'mse' or 'cross_entropy', got {loss!r}")
        if positions not in ("last", "all"):
            raise ValueError(f"positions must be 'last' or 'all', got {positions!r}")
        if loss == "cross_entropy" and model.config.d_y < 2:
            raise ValueError(f"cross entropy needs d_y of at least 2, got {model.config.d_y}")
        self.save_hyperparameters(
            {
                "model": model.name,
                "model_args": model.arguments,
                "optim": optim.model_dump(),
                "positions": positions,
                "loss": loss,
            }
        )
        self.spec = model
        self.optim = optim
        self.positions = positions
        self.loss: Loss = loss
        self.reference = reference
        self.error_name, self.error, self._predicted = _ERRORS[loss]
        if reference is not None:
            self._check_output("reference", reference)
        self.diverged: dict[int, str] = {}

    def whole_models(self) -> dict[int, Predictor]:
        """The trained models that did not diverge by their seeds, in eval mode.

        They are there on each rank; all of them have to ask.
        """
        raise NotImplementedError

    def check_model(self, model: Predictor) -> None:
        """Raises ValueError if this module cannot train such a model."""
        self._check_output("model", model)

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raises ValueError if this module cannot be trained by such a trainer; by any, here."""

    @property
    def train_metric(self) -> str:
        """Name under which the training loss is logged."""
        return f"train/{self.error_name}_{'query' if self.positions == 'last' else 'all'}"

    def new_model(self, seed: int) -> Predictor:
        """The untrained model of a seed, without a trace in the global generators."""
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.spec.create()

    def new_metrics(self) -> ValidationMetrics:
        """The metrics of one model, with nothing in them."""
        num_classes = self.spec.config.d_y if self.loss == "cross_entropy" else None
        return ValidationMetrics(self.error_name, num_classes)

    def loss_of(self, model: Predictor, episodes: Episodes) -> Tensor:
        """The training loss of a model, a scalar."""
        if self.positions == "last":
            prediction = model.predict_query(episodes.x, episodes.y)
            return self.error(prediction, episodes.target[:, -1]).mean()
        errors = self.error(model(episodes.x, episodes.y), episodes.target)
        return mean_of_scored(errors, episodes.scored).mean()

    def is_logged(self) -> bool:
        """Whether the loss of the optimizer step under way is logged."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.trainer.global_step + 1) % every == 0

    def log_step(self, num_steps: int) -> None:
        """Tells loggers how many optimizer steps are done; Lightning's own count is one less."""
        self.log("step", float(num_steps), batch_size=1, sync_dist=True)

    def measure(
        self,
        model: Predictor,
        metrics: ValidationMetrics,
        episodes: Episodes,
        reference_errors: Tensor | None,
    ) -> None:
        """Adds validation episodes to the metrics of a model."""
        all_errors = None
        if self.positions == "last":
            prediction = model.predict_query(episodes.x, episodes.y)
        else:
            all_positions = model(episodes.x, episodes.y)
            prediction = all_positions[:, -1]
            errors_at_all = self.error(all_positions, episodes.target)
            all_errors = mean_of_scored(errors_at_all, episodes.scored)
        target = episodes.target[:, -1]
        errors = self.error(prediction, target)
        metrics.update(prediction, target, errors, all_errors, reference_errors)

    def reference_errors(self, episodes: Episodes) -> Tensor | None:
        """Errors of the reference at the query, (batch,), if there is one."""
        if self.reference is None:
            return None
        prediction = self.reference.predict_query(episodes.x, episodes.y)
        return self.error(prediction, episodes.target[:, -1])

    def configure_optimizers(self) -> Any:
        """AdamW, and a schedule that is stepped after every optimizer step."""
        # Lightning does not unscale the gradients of a fused optimizer before they are clipped.
        fused = self.trainer.scaler is None
        optimizer = create_optimizer(self.model, self.optim, fused, self.stacked)
        schedule = create_schedule(optimizer, self.optim, self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _check_output(self, role: str, predictor: Predictor) -> None:
        if predictor.output != self._predicted:
            raise ValueError(
                f"loss {self.loss!r} is made for output {self._predicted!r}, the {role} predicts "
                f"{predictor.output!r}"
            )
