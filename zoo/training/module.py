"""The one LightningModule: a predictor with its loss, optimizer and validation."""

from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassCalibrationError

from datamodules.episodes import Episodes
from zoo.metrics.classification import NUM_BINS, correct, cross_entropy
from zoo.metrics.errors import RatioOfMeans, half_squared_error, mean_of_scored
from zoo.predictor import Predictor
from zoo.registry import create_model
from zoo.training.optim import OptimConfig, create_optimizer, create_schedule
from zoo.training.sharding import full, gather, scatter, shard

Loss = Literal["mse", "cross_entropy"]

# A model that is not finite any more at any step would otherwise skip the rest of a run.
MAX_SKIPPED_IN_A_ROW = 10

# Of each loss: its name in metrics, the error of (..., d_y) against (..., d_y), and the kind of
# prediction it is made for.
_ERRORS: dict[Loss, tuple[str, Callable[[Tensor, Tensor], Tensor], str]] = {
    "mse": ("half_mse", half_squared_error, "value"),
    "cross_entropy": ("cross_entropy", cross_entropy, "logits"),
}


class NonFiniteError(RuntimeError):
    """A loss or gradient was infinite or not a number; the weights are those before the step."""


class ValidationMetrics(nn.Module):
    """What validation measures of one model, by the names it is logged under.

    Args:
        error_name: Of the error, as in `val/half_mse_query`.
        num_classes: Of labels that are classes, None where they are values.
    """

    def __init__(self, error_name: str, num_classes: int | None) -> None:
        super().__init__()
        self.error_name = error_name
        self.query = MeanMetric()
        self.all = MeanMetric()
        self.ratio = RatioOfMeans()
        self.accuracy: MeanMetric | None = None
        self.calibration: MulticlassCalibrationError | None = None
        if num_classes is not None:
            self.accuracy = MeanMetric()
            self.calibration = MulticlassCalibrationError(num_classes, n_bins=NUM_BINS)

    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        errors: Tensor,
        all_errors: Tensor | None,
        reference_errors: Tensor | None,
    ) -> None:
        """Adds a batch.

        Args:
            prediction: At the query, (batch, d_y).
            target: At the query, (batch, d_y).
            errors: At the query, (batch,).
            all_errors: Means over the scored positions, (batch,), where the loss is taken there.
            reference_errors: Those of the reference at the query, (batch,), if there is one.
        """
        self.query.update(errors)
        if all_errors is not None:
            self.all.update(all_errors)
        if self.accuracy is not None and self.calibration is not None:
            self.accuracy.update(correct(prediction, target))
            self.calibration.update(prediction.softmax(-1), target.argmax(-1))
        if reference_errors is not None:
            self.ratio.update(errors, reference_errors)

    def updated(self) -> dict[str, Metric]:
        """Those that were given something."""
        named: dict[str, Metric | None] = {
            f"val/{self.error_name}_query": self.query,
            f"val/{self.error_name}_all": self.all,
            "val/accuracy": self.accuracy,
            "val/calibration_error": self.calibration,
            "val/ratio_to_gradient_descent": self.ratio,
        }
        return {name: m for name, m in named.items() if m is not None and m.update_called}

    def take(self) -> dict[str, Tensor]:
        """The values of those that were given something, which are then empty again."""
        values = {}
        for name, metric in self.updated().items():
            values[name] = metric.compute()
            metric.reset()
        return values


class LitPredictor(pl.LightningModule):
    """Trains a predictor on batches of episodes.

    The loss is 0.5*MSE over scored positions, episodes and output coordinates, or the cross entropy
    over scored positions and episodes. With cross entropy, validation logs the share of queries
    whose class is right and the expected calibration error as well.

    Args:
        model: Registered name of the architecture.
        model_args: Its arguments, plain data.
        optim: The fields of `OptimConfig`, plain data.
        log_every_n_steps: Steps between two logged training losses, as the trainer has it.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        seed: Of the initialisation.
        reference: An algorithm whose validation error the model's is divided by. Not saved.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        on_nonfinite: What a loss or gradient that is not finite does: `"stop"` the run, or `"skip"`
            the optimizer step, with a warning and at most ten times in a row.

    Raises:
        ValueError: If an argument is unknown or out of range, or the loss is not made for what the
            model or the reference predicts.
    """

    model: Predictor
    val_metrics: ValidationMetrics

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any],
        optim: dict[str, Any],
        log_every_n_steps: int = 50,
        positions: Literal["last", "all"] = "last",
        seed: int = 0,
        reference: Predictor | None = None,
        loss: Loss = "mse",
        on_nonfinite: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        if loss not in _ERRORS:
            raise ValueError(f"loss must be 'mse' or 'cross_entropy', got {loss!r}")
        if positions not in ("last", "all"):
            raise ValueError(f"positions must be 'last' or 'all', got {positions!r}")
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite must be 'stop' or 'skip', got {on_nonfinite!r}")
        self.save_hyperparameters(ignore=["reference"])
        self.optim = OptimConfig(**optim)
        self.positions = positions
        self.on_nonfinite = on_nonfinite
        self.log_every_n_steps = log_every_n_steps
        self.reference = reference
        self.error_name, self.error, self._predicted = _ERRORS[loss]
        if reference is not None:
            self._check_output("reference", reference)
        if loss == "cross_entropy" and model_args["d_y"] < 2:
            raise ValueError(f"cross entropy needs d_y of at least 2, got {model_args['d_y']}")
        self._loss: Tensor | None = None  # mean over the batches of the optimizer step under way
        self._skipped_in_a_row = 0

    def new_metrics(self) -> ValidationMetrics:
        """The metrics of one model, with nothing in them."""
        is_class = self.hparams["loss"] == "cross_entropy"
        num_classes = self.hparams["model_args"]["d_y"] if is_class else None
        return ValidationMetrics(self.error_name, num_classes)

    @property
    def train_metric(self) -> str:
        """Name under which the training loss is logged."""
        return f"train/{self.error_name}_{'query' if self.positions == 'last' else 'all'}"

    def configure_model(self) -> None:
        """Builds the model once, from the seed and without a trace in the global generators."""
        if "model" in self._modules:
            return
        model = self.new_model(self.hparams["seed"])
        self._check_output("model", model)
        self.model = model
        self.val_metrics = self.new_metrics()
        if self._device_mesh is not None:
            shard(self, self._device_mesh["data_parallel"])

    def whole_models(self) -> dict[int, Predictor]:
        """The trained model by its seed, in eval mode, on each rank; all of them have to ask."""
        seed = self.hparams["seed"]
        if self._device_mesh is None:
            return {seed: self.model.eval()}
        model = self.new_model(seed)
        model.load_state_dict({name: full(t) for name, t in self.model.state_dict().items()})
        return {seed: model.to(self.device).eval()}

    def new_model(self, seed: int) -> Predictor:
        """The untrained model of a seed."""
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return create_model(self.hparams["model"], **self.hparams["model_args"])

    def loss_of(self, model: Predictor, batch: Episodes) -> Tensor:
        """The training loss of a model, a scalar."""
        if self.positions == "last":
            prediction = model.predict_query(batch.x, batch.y)
            return self.error(prediction, batch.target[:, -1]).mean()
        errors = self.error(model(batch.x, batch.y), batch.target)
        return mean_of_scored(errors, batch.scored).mean()

    def training_step(self, batch: Episodes, batch_idx: int) -> Tensor:
        loss = self.loss_of(self.model, batch)
        num_parts = self.trainer.accumulate_grad_batches
        part = loss.detach() / num_parts
        self._loss = part if self._loss is None else self._loss + part
        last_part = (batch_idx + 1) % num_parts == 0
        if last_part and (self.trainer.global_step + 1) % self.log_every_n_steps == 0:
            self.log(self.train_metric, self._loss, sync_dist=True)
            self.log_step(self.trainer.global_step + 1)
        return loss

    def log_step(self, num_steps: int) -> None:
        """Tells loggers how many optimizer steps are done; Lightning's own count is one less."""
        self.log("step", float(num_steps), batch_size=1, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient of the step; if it or the loss is not finite, stops or skips it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = full(
            torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        )
        loss, self._loss = self._loss, None
        assert loss is not None
        # A gradient scaler meets infinite gradients as a matter of course and skips their step.
        norm_counts = self.trainer.scaler is None
        bad = not torch.isfinite(loss + norm if norm_counts else loss).item()
        if self.trainer.world_size > 1:
            bad = self.trainer.strategy.reduce_boolean_decision(bad, all=False)
        if not bad:
            self._skipped_in_a_row = 0
        else:
            self._skipped_in_a_row += 1
            cause = (
                f"optimizer step {self.trainer.global_step + 1}: loss {loss.item():.4g}, gradient "
                f"norm {norm.item():.4g}"
            )
            if self.on_nonfinite == "stop" or self._skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                raise NonFiniteError(
                    f"{cause}. The weights were not touched by this step. A smaller optim.lr or a "
                    "longer optim.warmup_steps usually helps"
                )
            rank_zero_warn(f"{cause}: skipped", stacklevel=2)
            for parameter in parameters:  # the optimizer passes over what has no gradient
                parameter.grad = None
            return
        clip_norm = self.optim.clip_norm
        if clip_norm is not None and norm > clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)

    def on_validation_start(self) -> None:
        """Lets every rank evaluate the model by itself, if it is divided among them."""
        gather(self)

    def on_validation_epoch_end(self) -> None:
        self.log_step(self.trainer.global_step)
        scatter(self)

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        self.measure(self.model, self.val_metrics, batch, self.reference_errors(batch))
        self.log_dict(self.val_metrics.updated())

    def measure(
        self,
        model: Predictor,
        metrics: ValidationMetrics,
        batch: Episodes,
        reference_errors: Tensor | None,
    ) -> None:
        """Adds a validation batch to the metrics of a model."""
        all_errors = None
        if self.positions == "last":
            prediction = model.predict_query(batch.x, batch.y)
        else:
            all_positions = model(batch.x, batch.y)
            prediction = all_positions[:, -1]
            all_errors = mean_of_scored(self.error(all_positions, batch.target), batch.scored)
        target = batch.target[:, -1]
        errors = self.error(prediction, target)
        metrics.update(prediction, target, errors, all_errors, reference_errors)

    def reference_errors(self, batch: Episodes) -> Tensor | None:
        """Errors of the reference at the query, (batch,), if there is one."""
        if self.reference is None:
            return None
        return self.error(self.reference.predict_query(batch.x, batch.y), batch.target[:, -1])

    def _check_output(self, role: str, predictor: Predictor) -> None:
        if predictor.output != self._predicted:
            raise ValueError(
                f"loss {self.hparams['loss']!r} is made for output {self._predicted!r}, the {role} "
                f"predicts {predictor.output!r}"
            )

    def configure_optimizers(self) -> Any:
        """AdamW, and a schedule that is stepped after every optimizer step."""
        # Lightning does not unscale the gradients of a fused optimizer before they are clipped.
        fused = self.trainer.scaler is None
        optimizer = create_optimizer(self.model, self.optim, fused)
        schedule = create_schedule(optimizer, self.optim, self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": schedule,
                "interval": "step",
            },
        }
