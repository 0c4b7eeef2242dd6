"""Several seeds of one configuration, trained side by side in one process."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from datamodules.episodes import Episodes
from zoo.predictor import Predictor
from zoo.registry import ModelSpec
from zoo.training.base import EpisodeModule, Loss, NonFiniteError, Positions
from zoo.training.options import OptimConfig
from zoo.training.validation import ValidationMetrics

T = TypeVar("T")

APART = "python train.py -m seed=0,1,2 trains runs by themselves"


class LitReplicas(EpisodeModule):
    """Trains the same predictor from several seeds on episodes `(num_seeds, batch, ...)`.

    Every parameter of `model` has a first dimension that counts the replicas; all else is as in
    `LitPredictor`, and replica i learns what a run by itself with `seed=seeds[i]` learns. The loss
    is the sum of the replicas' losses, which have no parameter in common; AdamW works entry by
    entry, and the gradient of each replica is clipped by its own norm. Replicas are one batch under
    `torch.vmap`, or take the step in turn where `Predictor.replicas_in_turn_on` says so.

    A replica whose loss, gradient or updated weights are not finite keeps its last finite weights
    from then on and is left out of all that is logged. Under the names of `LitPredictor` the means
    over the others are logged, with the prefix `seed_N/` the values of each.

    Args:
        model: The architecture and its arguments.
        optim: Rates of the parameters and their course.
        seeds: Of the initialisations, one for each replica.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        reference: An algorithm whose validation error the model's is divided by. Not saved.

    Raises:
        ValueError: As `EpisodeModule`, or if seeds are missing or not different.
    """

    stacked = True

    def __init__(
        self,
        model: ModelSpec,
        optim: OptimConfig,
        seeds: list[int],
        positions: Positions = "last",
        loss: Loss = "mse",
        reference: Predictor | None = None,
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {seeds}")
        super().__init__(model, optim, positions, loss, reference)
        self.save_hyperparameters({"seeds": seeds})
        self.seeds = seeds
        self._losses: Tensor | None = None  # of the optimizer step under way, (num_seeds,)
        self._before: list[Tensor] = []  # the parameters before the optimizer step under way

    def configure_model(self) -> None:
        """Builds a model from each seed and stacks their parameters."""
        if "model" in self._modules:
            return
        models = [self.new_model(seed) for seed in self.seeds]
        self.check_model(models[0])
        parameters, _ = stack_module_state(list[nn.Module](models))
        self.model = models[0]
        metrics = nn.ModuleList(self.new_metrics() for _ in self.seeds)
        self.metrics_of_replicas = cast(Sequence[ValidationMetrics], metrics)
        for name, stacked in parameters.items():
            owner, _, own_name = name.rpartition(".")
            setattr(self.model.get_submodule(owner), own_name, nn.Parameter(stacked))

    def check_model(self, model: Predictor) -> None:
        """Raises ValueError if the model has buffers: they may differ and are not stacked."""
        super().check_model(model)
        if buffers := [name for name, _ in model.named_buffers()]:
            raise ValueError(
                "replicas have parameters alone and cannot train a model with buffers, got "
                f"{self.spec.name} with {', '.join(buffers)}; {APART}"
            )

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raises ValueError if the trainer has more than one device, batch or type of numbers."""
        for name, given, allowed in [
            ("trainer: the number of devices", trainer.world_size, 1),
            ("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
            ("trainer.precision", str(trainer.precision), "32-true"),
        ]:
            if given != allowed:
                raise ValueError(
                    f"{name} must be {allowed} with several seeds, got {given} with "
                    f"seeds={len(self.seeds)}; {APART}"
                )

    def takes_turns_on(self, device: torch.device) -> bool:
        """Whether replicas take a step in turn instead of as one batch."""
        return device.type in self.model.replicas_in_turn_on

    def whole_models(self) -> dict[int, Predictor]:
        models = {}
        for i in self._alive():
            model = self.new_model(self.seeds[i])
            model.load_state_dict({name: t[i] for name, t in self.model.state_dict().items()})
            models[self.seeds[i]] = model.to(self.device).eval()
        return models

    def training_step(self, batch: Episodes, batch_idx: int) -> Tensor:
        def loss(parameters: Mapping[str, Tensor], episodes: Episodes) -> Tensor:
            return self._apply_to(parameters, self.loss_of, episodes)

        if self.takes_turns_on(self.device):
            pairs = zip(self._replicas(), batch.unbind(), strict=True)
            losses = torch.stack([loss(parameters, episodes) for parameters, episodes in pairs])
        else:
            losses = torch.vmap(loss)(dict(self.model.named_parameters()), batch)
        self._losses = losses.detach()
        if self.is_logged():
            finite = [i for i in self._alive() if self._losses[i].isfinite()]
            self._log_each({self.train_metric: self._losses}, finite)
            self.log_step(self.trainer.global_step + 1)
        return losses.sum()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient of each replica; leaves out those that are not finite."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = _rows(gradients).norm(dim=1)
        assert self._losses is not None
        for i, (loss, norm) in enumerate(torch.stack([self._losses, norms], dim=1).tolist()):
            if self.seeds[i] not in self.diverged and not math.isfinite(loss + norm):
                cause = f"loss {loss:.4g}, gradient norm {norm:.4g}"
                self._leave_out(i, f"optimizer step {self.trainer.global_step + 1}: {cause}")
        self._losses = None
        if self.diverged:
            left_out = self._left_out()
            norms[left_out] = 0
            for gradient in gradients:  # so that no moment of the optimizer stays infinite
                gradient[left_out] = 0
        clip_norm = self.optim.clip_norm
        if clip_norm is not None and (norms > clip_norm).any():
            factors = (clip_norm / (norms + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates the replicas, and takes the update back for those that are left out."""
        parameters = list(self.model.parameters())
        with torch.no_grad():
            for parameter, old in zip(parameters, self._before, strict=True):
                old.copy_(parameter)
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            finite = _rows(parameters).isfinite().all(1).tolist()
            for i in self._alive():
                if not finite[i]:
                    step = self.trainer.global_step + 1
                    self._leave_out(i, f"optimizer step {step}: weights that are not finite")
            if self.diverged:
                left_out = self._left_out()
                for parameter, old in zip(parameters, self._before, strict=True):
                    parameter[left_out] = old[left_out]

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        reference_errors = self.reference_errors(batch)
        replicas = zip(self._replicas(), self.metrics_of_replicas, strict=True)
        for parameters, metrics in replicas:
            self._apply_to(parameters, self.measure, metrics, batch, reference_errors)

    def on_validation_epoch_end(self) -> None:
        """Logs what the metrics of the replicas have gathered, and empties them."""
        found = [metrics.take() for metrics in self.metrics_of_replicas]
        values = {name: torch.stack([each[name] for each in found]) for name in found[0]}
        self._log_each(values, self._alive())
        self.log_step(self.trainer.global_step)

    def configure_optimizers(self) -> Any:
        self._before = [torch.empty_like(parameter) for parameter in self.model.parameters()]
        return super().configure_optimizers()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diverged"] = self.diverged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.diverged = dict(checkpoint["diverged"])

    def _alive(self) -> list[int]:
        return [i for i, seed in enumerate(self.seeds) if seed not in self.diverged]

    def _left_out(self) -> list[int]:
        return [i for i, seed in enumerate(self.seeds) if seed in self.diverged]

    def _leave_out(self, i: int, cause: str) -> None:
        seed = self.seeds[i]
        self.diverged[seed] = cause
        num_left = len(self._alive())
        if num_left == 0:
            raise NonFiniteError(
                f"every seed has diverged, seed {seed} at {cause}. A smaller optim.lr or a longer "
                "optim.warmup_steps usually helps"
            )
        rank_zero_warn(
            f"seed {seed} has diverged and keeps its last weights; {num_left} of "
            f"{len(self.seeds)} go on. {cause}",
            stacklevel=2,
        )

    def _log_each(self, values: Mapping[str, Tensor], of_whom: list[int]) -> None:
        """Logs values (num_seeds,) of these replicas, and their mean."""
        for name, each in values.items():
            if of_whom:
                self.log(name, each[of_whom].mean())
            for i in of_whom:
                self.log(f"seed_{self.seeds[i]}/{name}", each[i])

    def _replicas(self) -> list[dict[str, Tensor]]:
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


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    """All that belongs to each replica, (num_seeds, numel)."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)
