"""Several seeds and rates of one configuration, trained side by side in one process."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from datamodules.episodes import Episodes
from zoo.metrics.scoring import Scoring
from zoo.ops.precision import without_autocast
from zoo.predictor import Predictor
from zoo.registry import ModelSpec
from zoo.training.base import (
    Choice,
    EpisodeModule,
    Loss,
    NonFiniteError,
    Positions,
    StepKind,
    passed_over,
)
from zoo.training.optim import parameter_groups
from zoo.training.options import OptimConfig, replicas_of
from zoo.training.recorded import Found, Watch
from zoo.training.replica_adamw import ReplicaAdamW
from zoo.training.validation import ValidationMetrics

T = TypeVar("T")

APART = "python train.py -m seed=0,1,2 trains runs by themselves"


class LitReplicas(EpisodeModule):
    """Trains the same predictor from several seeds at one or more rates, side by side.

    Replicas are the seeds at the first rate of `optim.lr`, at the second, and so on. Episodes are
    `(num_replicas, batch, ...)`, every parameter of `model` has a first dimension that counts the
    replicas, and each learns what a run by itself with that seed and rate learns: the gradient of
    the sum of the losses, which have no parameter in common, is clipped by the norm of each and
    `ReplicaAdamW` steps entry by entry. Replicas are one batch under `torch.vmap`, or their losses
    are computed in turn where `Predictor.replicas_in_turn_on` says so.

    A replica whose loss, gradient or updated weights are not finite keeps its last finite weights
    from then on and is left out of all that is logged. Under the names of `LitPredictor` the means
    over the others are logged, of several rates at the one that leads in validation, and with the
    prefix `seed_N/` or `lr_RATE/seed_N/` the values of each.

    Args:
        model: The architecture and its arguments.
        optim: Rates of the parameters and their course.
        seeds: Of the initialisations.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        reference: An algorithm whose validation error the model's is divided by. Not saved.
        step: As of `EpisodeModule`.
        scoring: As of `EpisodeModule`.

    Attributes:
        replicas: Rate and seed of each.
        names: Of the replicas, as prefixes of what they log.
        lost: Why a replica was left out, by its place.

    Raises:
        ValueError: As `EpisodeModule`, or if seeds are missing or not different.
    """

    watch: Watch

    def __init__(
        self,
        model: ModelSpec,
        optim: OptimConfig,
        seeds: list[int],
        positions: Positions = "last",
        loss: Loss = "mse",
        reference: Predictor | None = None,
        step: StepKind = "eager",
        scoring: Scoring | None = None,
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {seeds}")
        super().__init__(model, optim, positions, loss, reference, step, scoring)
        self.save_hyperparameters({"seeds": seeds})
        self.seeds = seeds
        named = replicas_of(optim, seeds)
        self.names, self.replicas = list(named), list(named.values())
        self.lost: dict[int, str] = {}
        self._leading = optim.rates[0][0]  # the rate that would be kept now
        self._last_validation: tuple[int, list[float]] = -1, []  # its step, and errors
        self._losses = torch.zeros(())  # of the batches of the step under way, once there are some

    def configure_model(self) -> None:
        """Builds a model from each seed and stacks their parameters."""
        if "model" in self._modules:
            return
        models = [self.new_model(seed) for _, seed in self.replicas]
        self.check_model(models[0])
        parameters, _ = stack_module_state(list[nn.Module](models))
        self.model = models[0]
        metrics = nn.ModuleList(self.new_metrics() for _ in self.replicas)
        self.metrics_of_replicas = cast(Sequence[ValidationMetrics], metrics)
        for name, stacked in parameters.items():
            owner, _, own_name = name.rpartition(".")
            setattr(self.model.get_submodule(owner), own_name, nn.Parameter(stacked))

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, self.optim, least_ndim=3)
        for group in groups:
            rates = [pair[group["name"] == "ssm"] for pair in self.optim.rates]
            group["peaks"] = [rate for rate in rates for _ in self.seeds]
        betas = self.optim.beta1, self.optim.beta2
        self._adamw = ReplicaAdamW(groups, betas, self.optim.clip_norm)
        device = self._adamw.parameters[0].device
        self.watch = Watch(len(self.replicas), device)
        self._recorded = self.recorded(self._step)
        self._losses_of = self.compiled(self._each_loss)
        return self.with_schedule(self._adamw)

    def check_model(self, model: Predictor) -> None:
        """Raises ValueError if the model has buffers: they may differ and are not stacked."""
        super().check_model(model)
        if buffers := [name for name, _ in model.named_buffers()]:
            raise ValueError(
                "replicas have parameters alone and cannot train a model with buffers, got "
                f"{self.spec.name} with {', '.join(buffers)}; {APART}"
            )

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raises ValueError if the trainer has more than one device or scales gradients."""
        super().check_trainer(trainer)
        if not isinstance(trainer.strategy, SingleDeviceStrategy) or trainer.scaler is not None:
            raise ValueError(
                f"{len(self.replicas)} seeds or rates in one process need one device and precision "
                f"32-true or bf16-mixed, got {type(trainer.strategy).__name__} and "
                f"{trainer.precision}; {APART}"
            )
        if hooks := passed_over(trainer):
            raise ValueError(f"several seeds or rates do not call {', '.join(hooks)}; {APART}")

    def takes_turns_on(self, device: torch.device) -> bool:
        """Whether the losses of replicas are computed in turn instead of as one batch."""
        return device.type in self.model.replicas_in_turn_on

    def whole_models(self) -> dict[int, Predictor]:
        models = {}
        for i in self._alive():
            lr, seed = self.replicas[i]
            if lr == self.choice.rate[0]:
                model = self.new_model(seed)
                model.load_state_dict({name: t[i] for name, t in self.model.state_dict().items()})
                models[seed] = model.to(self.device).eval()
        return models

    @property
    def diverged(self) -> dict[int, str]:
        """At the rate that is kept."""
        pairs = ((*self.replicas[i], cause) for i, cause in self.lost.items())
        return {seed: cause for lr, seed, cause in pairs if lr == self.choice.rate[0]}

    @property
    def causes(self) -> dict[str, str]:
        return {self.names[i]: cause for i, cause in self.lost.items()}

    def log_prefix(self, seed: int) -> str:
        return self.names[self.replicas.index((self.choice.rate[0], seed))] + "/"

    def objective(self) -> float | None:
        """The mean over the seeds, at the rate that is kept; infinite if one of them diverged."""
        if self.diverged:
            return math.inf
        rate, errors = self.choice
        if not errors:
            return super().objective()
        found = errors[f"{rate[0]:g}"].values()
        return fmean(found) if len(found) == len(self.seeds) else math.inf

    @cached_property
    def choice(self) -> Choice:
        """The rate at which most seeds are left with a finite error, and their mean is least.

        Errors are those by which models are compared in validation, after the last step.
        """
        if len(self.optim.rates) == 1:
            return super().choice
        choice = self._choice_by(self._validation_errors())
        if not any(choice.errors.values()):
            raise NonFiniteError("no rate has a finite validation error; smaller ones usually do")
        return choice

    def _choice_by(self, values: Sequence[float]) -> Choice:
        """The choice by the errors of the replicas."""
        errors: dict[str, dict[str, float]] = {f"{lr:g}": {} for lr, _ in self.optim.rates}
        for i in self._alive():
            lr, seed = self.replicas[i]
            if math.isfinite(values[i]):
                errors[f"{lr:g}"][str(seed)] = values[i]

        def badness(rate: tuple[float, float]) -> tuple[int, float]:
            found = errors[f"{rate[0]:g}"].values()
            return -len(found), sum(found)

        return Choice(min(self.optim.rates, key=badness), errors)

    def _validation_errors(self) -> list[float]:
        """Of each replica, as last validated if that was after the last step."""
        step, values = self._last_validation
        if step != self.trainer.global_step:
            with torch.no_grad():
                for batch in self.trainer.datamodule.val_batches():  # type: ignore[attr-defined]
                    self.validation_step(batch.to(self.device), 0)
            taken = [metrics.take() for metrics in self.metrics_of_replicas]
            values = [found[self.val_metric].item() for found in taken]
        return values

    def on_train_start(self) -> None:
        """Leaves out those that were left out before a run was resumed."""
        self.watch.alive[list(self.lost)] = False

    def training_step(self, batch: Episodes, batch_idx: int) -> Tensor:
        num_parts = self.trainer.accumulate_grad_batches
        part = batch_idx % num_parts
        last = part == num_parts - 1
        if self._recorded is not None:
            self.take_step(batch)
        else:
            if last:
                self._adamw.follow()
            self._step(batch, part, num_parts)
        if not last:
            return self.watch.alive.new_zeros((), dtype=torch.float32)
        return self.end_step(look=self._recorded is None)

    def take_step(self, episodes: Episodes) -> None:
        """A whole optimizer step that is recorded; `end_step` has to follow."""
        assert self._recorded is not None
        self._adamw.follow()
        self._recorded(episodes)

    def _step(self, episodes: Episodes, part: int = 0, num_parts: int = 1) -> None:
        """The gradient of a part of the step's episodes; with the last, the update."""
        try:
            losses = self._losses_of(episodes) / num_parts
        except RuntimeError as error:
            if "Batching rule not implemented" not in str(error):
                raise
            raise ValueError(
                f"{self.spec.name} cannot be trained side by side, torch.vmap says: "
                f"{str(error).partition('. ')[0]}. Either other operations, or "
                f"replicas_in_turn_on = ({self.device.type!r},) in its class; {APART}"
            ) from None
        with without_autocast(self.device):  # under which Lightning calls all of a training step
            gradients = torch.autograd.grad(losses.sum(), self._adamw.parameters)
            self._adamw.take(gradients, add=part > 0)
            losses = losses.detach()
            if part > 0:
                losses = losses + self._losses
            self._losses = losses
            if part == num_parts - 1:
                norms = self._adamw.norms()
                updated = self._adamw.step(self.watch.allowed(losses, norms), norms)
                self.watch.note(losses, norms, updated)

    def _each_loss(self, episodes: Episodes) -> Tensor:
        """Of each replica on its own episodes, (num_replicas,)."""

        def loss(parameters: Mapping[str, Tensor], episodes: Episodes) -> Tensor:
            return self._apply_to(parameters, self.loss_of, episodes)

        if self.takes_turns_on(self.device):
            pairs = zip(self._rows(), episodes.unbind(), strict=True)
            return torch.stack([loss(parameters, rows) for parameters, rows in pairs])
        # Fused attention has no backward for the strides that torch.vmap gives it.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.vmap(loss)(dict(self.model.named_parameters()), episodes)

    def log_losses(self, losses: list[float]) -> None:
        self._log_each({self.train_metric: torch.tensor(losses)}, self._alive())

    def judge(self, step: int, found: Found) -> None:
        for i in self._alive():
            if not found.updated[i]:
                cause = f"loss {found.loss[i]:.4g}, gradient norm {found.norm[i]:.4g}"
                if math.isfinite(found.loss[i] + found.norm[i]):
                    cause = "weights that are not finite"
                self._leave_out(i, f"optimizer step {step}: {cause}")

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        reference_errors = self.reference_errors(batch)
        for parameters, metrics in zip(self._rows(), self.metrics_of_replicas, strict=True):
            self._apply_to(parameters, self.measure, metrics, batch, reference_errors)

    def on_validation_epoch_end(self) -> None:
        """Logs what the metrics of the replicas have gathered, and empties them."""
        found = [metrics.take() for metrics in self.metrics_of_replicas]
        values = {name: torch.stack([each[name] for each in found]) for name in found[0]}
        errors = values[self.val_metric].tolist()
        self._last_validation = self.trainer.global_step, errors
        self._leading = self._choice_by(errors).rate[0]
        self._log_each(values, self._alive())
        self.log_step(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["lost"] = self.lost
        step, errors = self._last_validation
        if step >= 0:
            checkpoint["last_validation"] = {"step": step, "errors": errors}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.lost = self.lost_in(checkpoint)
        if "last_validation" in checkpoint:
            found = checkpoint["last_validation"]
            self._last_validation = found["step"], found["errors"]
            self._leading = self._choice_by(found["errors"]).rate[0]

    def lost_in(self, checkpoint: dict[str, Any]) -> dict[int, str]:
        """Which replicas were left out; checkpoints that knew one rate alone name the seeds."""
        if "diverged" in checkpoint:
            return {self.seeds.index(seed): cause for seed, cause in checkpoint["diverged"].items()}
        return dict(checkpoint["lost"])

    def _alive(self) -> list[int]:
        return [i for i in range(len(self.replicas)) if i not in self.lost]

    def _leave_out(self, i: int, cause: str) -> None:
        self.lost[i] = cause
        lr, seed = self.replicas[i]
        who = f"seed {seed}" if len(self.optim.rates) == 1 else f"seed {seed} at rate {lr:g}"
        num_left = len(self._alive())
        if num_left == 0:
            raise NonFiniteError(
                f"every seed has diverged, {who} at {cause}. A smaller optim.lr or a longer "
                "optim.warmup_steps usually helps"
            )
        rank_zero_warn(
            f"{who} has diverged and keeps its last weights; {num_left} of "
            f"{len(self.replicas)} go on. {cause}",
            stacklevel=2,
        )

    def _log_each(self, values: Mapping[str, Tensor], of_whom: list[int]) -> None:
        """Logs values (num_replicas,) of these replicas, and the mean at the leading rate."""
        leading = [i for i in of_whom if self.replicas[i][0] == self._leading]
        for name, each in values.items():
            if leading:
                self.log(name, each[leading].mean())
            for i in of_whom:
                self.log(f"{self.names[i]}/{name}", each[i])

    def _rows(self) -> list[dict[str, Tensor]]:
        """The parameters of each replica."""
        names = [name for name, _ in self.model.named_parameters()]
        rows = zip(*(p.unbind(0) for p in self.model.parameters()), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _apply_to(
        self, parameters: Mapping[str, Tensor], function: Callable[..., T], *args: Any
    ) -> T:
        """`function(model, *args)` with these parameters in the model."""
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        result: T = functional_call(_Applied(self.model), named, (function, *args))
        return result


class _Applied(nn.Module):
    """A model as a part of a module that applies any function to it, as functional_call wants."""

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., T], *args: Any) -> T:
        return function(self.model, *args)
