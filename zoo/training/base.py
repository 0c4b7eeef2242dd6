"""What a module that trains on episodes is, whether of one model or of several side by side."""

import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.episodes import Episodes
from zoo.metrics.classification import cross_entropy
from zoo.metrics.errors import half_squared_error, mean_of_scored
from zoo.metrics.scoring import Place, Scoring
from zoo.predictor import Predictor
from zoo.registry import ModelSpec
from zoo.training.optim import create_schedule
from zoo.training.options import OptimConfig
from zoo.training.recorded import (
    Found,
    RecordedStep,
    Watch,
    as_it_is,
    cuda_graph,
    times_of_ways,
)
from zoo.training.validation import ValidationMetrics, validation_name

T = TypeVar("T")

Loss = Literal["mse", "cross_entropy"]
Positions = Literal["last", "all"]
StepKind = Literal["eager", "graph", "compile", "auto"]

# Of each loss: its name in metrics, the error of (..., d_y) against (..., d_y), and the kind of
# prediction it is made for.
_ERRORS: dict[Loss, tuple[str, Callable[[Tensor, Tensor], Tensor], str]] = {
    "mse": ("half_mse", half_squared_error, "value"),
    "cross_entropy": ("cross_entropy", cross_entropy, "logits"),
}


class Choice(NamedTuple):
    """A rate that was chosen among those of `optim.lr`.

    Attributes:
        rate: Its lr and ssm_lr.
        errors: Validation errors, as `EpisodeModule.val_metric` has them, of what is left, by rate
            and by seed; empty where there was no choice.
    """

    rate: tuple[float, float]
    errors: dict[str, dict[str, float]]


class NonFiniteError(RuntimeError):
    """A loss or gradient was infinite or not a number; the weights are those before the step."""


class EpisodeModule(pl.LightningModule):
    """The loss, the optimizer and the validation of a predictor on batches of episodes.

    The loss is 0.5*MSE over scored positions, episodes and output coordinates, or the cross entropy
    over scored positions and episodes. Where the scoring knows what is right, validation logs the
    share of right predictions as well, and the expected calibration error of classes with labels.
    Training losses are logged as often as the trainer says.

    Args:
        model: The architecture and its arguments.
        optim: Rates of the parameters and their course.
        positions: `"last"` trains on the query alone, `"all"` on every scored position.
        loss: `"mse"` for predictors of values, `"cross_entropy"` for predictors of logits.
        reference: An algorithm whose validation error the model's is divided by. Not saved.
        step: How an optimizer step is taken, as `zoo.training.options.TrainerSettings` has it.
        scoring: How predictions are scored; None where the loss says all of it.

    Raises:
        ValueError: If an argument is out of range, or the loss is not made for what the reference
            predicts.
    """

    model: Predictor
    on_nonfinite: Literal["stop", "skip"] = "stop"
    # What steps that do not wait for the device have found; None where each step waits.
    watch: Watch | None = None

    def __init__(
        self,
        model: ModelSpec,
        optim: OptimConfig,
        positions: Positions,
        loss: Loss,
        reference: Predictor | None,
        step: StepKind = "eager",
        scoring: Scoring | None = None,
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
        self.error_name, self.error, self._predicted = _ERRORS[loss]
        self.scoring = scoring or Scoring(classes=loss == "cross_entropy")
        self.reference: Predictor | None = None
        self.reference_name = "gradient_descent"
        if reference is not None:
            self.compare_with(reference)
        self.step_kind: StepKind = step
        self.chosen_way: Literal["graph", "eager"] | None = None  # by auto, once it has timed both

    def whole_models(self) -> dict[int, Predictor]:
        """The trained models that did not diverge by their seeds, in eval mode.

        They are there on each rank; all of them have to ask.
        """
        raise NotImplementedError

    @property
    def diverged(self) -> dict[int, str]:
        """Why a seed was left out of the training, by seed."""
        return {}

    def log_prefix(self, seed: int) -> str:
        """Of the names of what is logged of a seed's trained model."""
        return ""

    @property
    def causes(self) -> dict[str, str]:
        """Why a replica was left out of the training, by its name."""
        return {}

    @property
    def choice(self) -> Choice:
        """The rate of what is kept, to be asked after the training."""
        return Choice(self.optim.rates[0], {})

    def objective(self) -> float | None:
        """What a search minimises: the last validation error, if there was one."""
        error = self.trainer.callback_metrics.get(self.val_metric)
        return None if error is None else error.item()

    def compare_with(self, reference: Predictor, name: str = "gradient_descent") -> None:
        """Sets the algorithm whose validation error the model's is divided by.

        Raises:
            ValueError: If the loss is not made for what it predicts.
        """
        self._check_output("reference", reference)
        self.reference, self.reference_name = reference, name

    def check_model(self, model: Predictor) -> None:
        """Raises ValueError if this module cannot train such a model."""
        self._check_output("model", model)
        model.check_positions(self.positions)

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raises ValueError if this module cannot be trained by such a trainer."""
        obstacles = _obstacles(trainer)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if self.step_kind == "auto" and (obstacles or not on_gpu):
            self.step_kind = "eager"
        if self.step_kind == "graph" and not on_gpu:
            obstacles.append("a CPU")
        if self.step_kind != "eager" and obstacles:
            raise ValueError(
                f"trainer.step={self.step_kind} does not go with {' and '.join(obstacles)}; "
                "trainer.step=eager does"
            )
        if self.step_kind == "compile" and not (on_gpu or has_compiler()):
            raise ValueError(
                "trainer.step=compile needs a C++ compiler (g++, or what CXX names), and there is "
                "none; trainer.step=eager needs none"
            )

    @property
    def compared_at(self) -> Place:
        """Where validation compares the model with algorithms."""
        return self.scoring.compared_at(self.positions)

    @property
    def val_metric(self) -> str:
        """Name under which the validation error that models are compared by is logged."""
        return validation_name(self.error_name, self.compared_at)

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
        is_calibrated = self.loss == "cross_entropy" and not self.scoring.labels_hidden
        num_classes = self.spec.config.d_y if is_calibrated else None
        return ValidationMetrics(self.scoring.loss_names, num_classes, self.reference_name)

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
        target, output, losses = episodes.target, self._predicted, {}
        if self.positions == "last":
            prediction = model.predict_query(episodes.x, episodes.y)
        else:
            everywhere = model(episodes.x, episodes.y)
            prediction = everywhere[:, -1]
            for name, values in self.scoring.losses(everywhere, target, output).items():
                over_all = mean_of_scored(values, episodes.scored)
                losses[validation_name(name, "all")] = over_all
        for name, values in self.scoring.losses(prediction, target[:, -1], output).items():
            losses[validation_name(name, "query")] = values
        metrics.update(losses)
        metrics.calibrate(prediction, target[:, -1])
        if reference_errors is not None:
            metrics.compare(losses[self.val_metric], reference_errors)

    def reference_errors(self, episodes: Episodes) -> Tensor | None:
        """Errors of the reference where it is compared, (batch,), if there is one."""
        return None if self.reference is None else self.errors_of(self.reference, episodes)

    def errors_of(self, predictor: Predictor, episodes: Episodes) -> Tensor:
        """Errors of a predictor where predictors are compared, (batch,)."""
        if self.compared_at == "query":
            prediction = predictor.predict_query(episodes.x, episodes.y)
            return self.error(prediction, episodes.target[:, -1])
        errors = self.error(predictor(episodes.x, episodes.y), episodes.target)
        return mean_of_scored(errors, episodes.scored)

    def configure_optimizers(self) -> Any:
        """As `with_schedule` has it."""
        raise NotImplementedError

    def with_schedule(self, optimizer: Optimizer) -> Any:
        """An optimizer, and a schedule that is stepped after every optimizer step."""
        schedule = create_schedule(optimizer, self.optim, self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def recorded(self, step: Callable[[Episodes], None]) -> RecordedStep | None:
        """The step of this module as one that is recorded; None where it is taken eagerly."""
        if self.step_kind == "eager":
            return None
        assert self.watch is not None
        return RecordedStep(step, self.watch, self._record)

    def _record(self, step: Callable[[], None]) -> Callable[[], object]:
        """Records a step in the way that is asked for, or was found to be the faster."""
        if self.step_kind == "auto" and self.chosen_way is None:
            times = times_of_ways(step)
            self.chosen_way = "graph" if times["graph"] <= times["eager"] else "eager"
            found = ", ".join(f"{way} {ms:.2f} ms" for way, ms in times.items())
            self.print(f"a step of the model takes {found}: trainer.step={self.chosen_way}")
        on_gpu = self.device.type == "cuda"
        return cuda_graph(step) if on_gpu and self.chosen_way != "eager" else as_it_is(step)

    def take_step(self, episodes: Episodes) -> None:
        """A whole optimizer step that is recorded; `end_step` has to follow."""
        raise NotImplementedError

    def end_step(self, look: bool = False) -> Tensor:
        """Looks at what was found if it is time or asked for, and logs; a loss for Lightning."""
        assert self.watch is not None
        step = self.trainer.global_step + 1
        if self.watch.count() or look or self.is_logged():
            losses = self.look(step)
            if self.is_logged():
                self.log_losses(losses)
                self.log_step(step)
        return self.watch.alive.new_zeros((), dtype=torch.float32)

    def log_losses(self, losses: list[float]) -> None:
        """Logs the training losses of the replicas."""
        raise NotImplementedError

    def judge(self, step: int, found: Found) -> None:
        """Acts on what an optimizer step, counted from 1, has found.

        Raises:
            NonFiniteError: If the training cannot go on.
        """
        raise NotImplementedError

    def look(self, last_step: int) -> list[float]:
        """Judges the steps that nobody has looked at; returns the losses of the last, if any."""
        assert self.watch is not None
        found = self.watch.look()
        for i, of_step in enumerate(found):
            self.judge(last_step - len(found) + 1 + i, of_step)
        return found[-1].loss if found else []

    def on_validation_start(self) -> None:
        """Judges before anything is measured."""
        if self.watch is not None:
            self.look(self.trainer.global_step)

    def on_train_end(self) -> None:
        """Judges the last steps."""
        if self.watch is not None:
            self.look(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Judges before anything is saved; saves which way of taking a step was chosen."""
        if self.watch is not None:
            self.look(self.trainer.global_step)
        if self.chosen_way is not None:
            checkpoint["chosen_way"] = self.chosen_way

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on in the way that was chosen before."""
        if self.step_kind == "auto":
            self.chosen_way = checkpoint.get("chosen_way")

    def __setattr__(self, name: str, value: Any) -> None:
        """Without the search for parameters where Lightning notes the name of every hook."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # Where there is a watch, `training_step` is the whole optimizer step, and Lightning counts it.

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Nothing where there is a watch, as the next two."""
        if self.watch is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """As `backward`."""
        if self.watch is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """As `backward`, but for the call of `training_step`."""
        if self.watch is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def compiled(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function as torch.compile has it, where that is asked for."""
        return torch.compile(function) if self.step_kind == "compile" else function

    def _check_output(self, role: str, predictor: Predictor) -> None:
        if predictor.output != self._predicted:
            raise ValueError(
                f"loss {self.loss!r} is made for output {self._predicted!r}, the {role} predicts "
                f"{predictor.output!r}"
            )


def _obstacles(trainer: pl.Trainer) -> list[str]:
    """What a step that does not wait for the device cannot do."""
    found = {
        type(trainer.strategy).__name__: not isinstance(trainer.strategy, SingleDeviceStrategy),
        f"trainer.precision={trainer.precision}": trainer.scaler is not None,
        f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}": (
            trainer.accumulate_grad_batches > 1
        ),
    }
    found |= {name: True for name in passed_over(trainer)}
    return [name for name, is_there in found.items() if is_there]


def passed_over(trainer: pl.Trainer) -> list[str]:
    """The callbacks, with their hooks, that nobody calls where `training_step` is all of a step."""
    return [
        f"{hook} of {type(callback).__name__}"
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        for hook in ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
        # Not of the class alone: LambdaCallback has its hooks in the instance.
        if getattr(getattr(callback, hook), "__func__", None) is not getattr(pl.Callback, hook)
    ]


def has_compiler() -> bool:
    """Whether there is what torch.compile needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None
