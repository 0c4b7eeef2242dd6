"""One model in training, on one device or several."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.episodes import Episodes
from zoo.metrics.scoring import Scoring
from zoo.ops.precision import without_autocast
from zoo.predictor import Predictor
from zoo.registry import ModelSpec
from zoo.training.base import EpisodeModule, Loss, NonFiniteError, Positions, StepKind
from zoo.training.optim import create_optimizer, step_if, total_norm
from zoo.training.options import OptimConfig
from zoo.training.recorded import Found, RecordedStep, Watch
from zoo.training.sharding import full, gather, scatter, shard
from zoo.training.validation import ValidationMetrics

# A model that is not finite any more at any step would otherwise skip the rest of a run.
MAX_SKIPPED_IN_A_ROW = 10


class LitPredictor(EpisodeModule):
    """Trains a predictor on batches of episodes, as `EpisodeModule` says.

    Args:
        model: The architecture and its arguments.
        optim: Rates of the parameters and their course.
        seed: Of the initialisation.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        reference: An algorithm whose validation error the model's is divided by. Not saved.
        on_nonfinite: What a loss or gradient that is not finite does: `"stop"` the run, or `"skip"`
            the optimizer step, with a warning and at most ten times in a row.
        step: As of `EpisodeModule`.
        scoring: As of `EpisodeModule`.

    Raises:
        ValueError: As `EpisodeModule`.
    """

    val_metrics: ValidationMetrics

    def __init__(
        self,
        model: ModelSpec,
        optim: OptimConfig,
        seed: int = 0,
        positions: Positions = "last",
        loss: Loss = "mse",
        reference: Predictor | None = None,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        step: StepKind = "eager",
        scoring: Scoring | None = None,
    ) -> None:
        super().__init__(model, optim, positions, loss, reference, step, scoring)
        if len(optim.rates) > 1:
            raise ValueError(f"one model trains at one rate, got lr={list(optim.rates)}")
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite must be 'stop' or 'skip', got {on_nonfinite!r}")
        self.save_hyperparameters({"seed": seed, "on_nonfinite": on_nonfinite})
        self.seed = seed
        self.on_nonfinite = on_nonfinite
        self._loss: Tensor | None = None  # mean over the batches of the optimizer step under way
        self._skipped_in_a_row = 0
        self._recorded: RecordedStep | None = None

    def configure_model(self) -> None:
        """Builds the model once, from the seed."""
        if "model" in self._modules:
            return
        model = self.new_model(self.seed)
        self.check_model(model)
        self.model = model
        self.val_metrics = self.new_metrics()
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    def whole_models(self) -> dict[int, Predictor]:
        if self.device_mesh is None:
            return {self.seed: self.model.eval()}
        model = self.new_model(self.seed)
        model.load_state_dict({name: full(t) for name, t in self.model.state_dict().items()})
        return {self.seed: model.to(self.device).eval()}

    def configure_optimizers(self) -> Any:
        # Lightning does not unscale the gradients of a fused optimizer before they are clipped.
        self._adamw = create_optimizer(self.model, self.optim, fused=self.trainer.scaler is None)
        if self.step_kind != "eager":
            allowed = 0 if self.on_nonfinite == "stop" else MAX_SKIPPED_IN_A_ROW
            self.watch = Watch(1, self.device, allowed)
            self._rates = [
                self.watch.alive.new_zeros((), dtype=torch.float32)
                for _ in self._adamw.param_groups
            ]
            self._recorded = self.recorded(self._step)
            self._loss_of = self.compiled(self.loss_of)
        return self.with_schedule(self._adamw)

    def training_step(self, batch: Episodes, batch_idx: int) -> Tensor:
        if self._recorded is not None:
            self.take_step(batch)
            return self.end_step()
        loss = self.loss_of(self.model, batch)
        num_parts = self.trainer.accumulate_grad_batches
        part = loss.detach() / num_parts
        self._loss = part if self._loss is None else self._loss + part
        last_part = (batch_idx + 1) % num_parts == 0
        if last_part and self.is_logged():
            self.log(self.train_metric, self._loss, sync_dist=True)
            self.log_step(self.trainer.global_step + 1)
        return loss

    def take_step(self, episodes: Episodes) -> None:
        """A whole optimizer step that is recorded; `end_step` has to follow."""
        assert self._recorded is not None
        for rate, group in zip(self._rates, self._adamw.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._recorded(episodes)

    def _step(self, episodes: Episodes) -> None:
        """An optimizer step that does not wait for the device, and says so to the watch."""
        assert self.watch is not None
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = self._loss_of(self.model, episodes)
        with without_autocast(self.device):  # under which Lightning calls all of a training step
            loss.backward()
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = total_norm(gradients)
            losses, norms = loss.detach().view(1), norm.view(1)
            updated = self.watch.allowed(losses, norms)
            clip_norm = self.optim.clip_norm
            divisor = torch.ones_like(norm) if clip_norm is None else (norm + 1e-6) / clip_norm
            step_if(self._adamw, updated[0], self._rates, divisor.clamp(min=1))
            self.watch.note(losses, norms, updated)

    def log_losses(self, losses: list[float]) -> None:
        self.log(self.train_metric, losses[0])

    def judge(self, step: int, found: Found) -> None:
        if found.updated[0]:
            self._skipped_in_a_row = 0
        else:
            cause = f"loss {found.loss[0]:.4g}, gradient norm {found.norm[0]:.4g}"
            self._stop_or_skip(step, cause)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient of the step; if it or the loss is not finite, stops or skips it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = full(total_norm([p.grad for p in parameters if p.grad is not None]))
        loss, self._loss = self._loss, None
        assert loss is not None
        # A gradient scaler meets infinite gradients as a matter of course and skips their step.
        norm_counts = self.trainer.scaler is None
        bad = not torch.isfinite(loss + norm if norm_counts else loss).item()
        if self.trainer.world_size > 1:
            bad = self.trainer.strategy.reduce_boolean_decision(bad, all=False)
        if bad:
            cause = f"loss {loss.item():.4g}, gradient norm {norm.item():.4g}"
            self._stop_or_skip(self.trainer.global_step + 1, cause)
            for parameter in parameters:  # the optimizer passes over what has no gradient
                parameter.grad = None
            return
        self._skipped_in_a_row = 0
        clip_norm = self.optim.clip_norm
        if clip_norm is not None and norm > clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)

    def on_validation_start(self) -> None:
        """Lets every rank evaluate the model by itself, if it is divided among them."""
        super().on_validation_start()
        gather(self)

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        self.measure(self.model, self.val_metrics, batch, self.reference_errors(batch))
        self.log_dict(self.val_metrics.updated())

    def on_validation_epoch_end(self) -> None:
        self.log_step(self.trainer.global_step)
        scatter(self)

    def _stop_or_skip(self, step: int, found: str) -> None:
        self._skipped_in_a_row += 1
        cause = f"optimizer step {step}: {found}"
        if self.on_nonfinite == "stop" or self._skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{cause}. The weights were not touched by this step. A smaller optim.lr or a "
                "longer optim.warmup_steps usually helps"
            )
        rank_zero_warn(f"{cause}: skipped", stacklevel=3)
