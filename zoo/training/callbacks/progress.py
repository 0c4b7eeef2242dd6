"""Progress of a run in the terminal."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from zoo.training.base import EpisodeModule
from zoo.training.replicas import LitReplicas

# Logged values that are shown, by a label short enough for a terminal 80 columns wide.
SHOWN = {"val/ratio_to_gradient_descent": "val/GD", "alignment/cosine": "cos"}
# The same where labels are hidden.
SHOWN_HIDDEN = {"val/ratio_to_uniform": "val/uniform", "val/accuracy_all": "accuracy"}

# Seconds after which something is said again where there is no bar.
QUIET = 10.0


class Progress(ProgressBar):
    """Steps done, time left, training loss, and how far validation is from the reference.

    `loss` is the training loss logged last, `val/GD` the validation error divided by that of one
    gradient step, `cos` the cosine of their sensitivities; where labels are hidden, `val/uniform`
    is the error divided by that of a guess, and `accuracy` is shown. In a terminal this is a bar;
    elsewhere a line after each validation, before one that may take long, and whenever there was
    none for ten seconds. What is about to be done is said at the start.

    Args:
        refresh_every: Steps between two updates, which on a GPU wait for the device.
    """

    def __init__(self, refresh_every: int = 50) -> None:
        super().__init__()
        if refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {refresh_every}")
        self.refresh_every = refresh_every
        self._console = Console()
        self._bar: Bar | None = None
        self._train_metric = ""
        self._shown = SHOWN
        self._first_step = 0
        self._start: float | None = None
        self._said = float("-inf")  # when the last line was printed
        self._validation_start = 0.0
        self._validation_s = float("inf")  # how long the last one took

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self._console.quiet = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EpisodeModule)
        self._train_metric = pl_module.train_metric
        self._shown = SHOWN_HIDDEN if pl_module.scoring.labels_hidden else SHOWN
        self._first_step, self._start = trainer.global_step, time.monotonic()
        every = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
        steps = f"from step {trainer.global_step} to {trainer.max_steps}"
        self._say(f"training {steps}, validating every {every}")
        if isinstance(pl_module, LitReplicas):
            in_turn = pl_module.takes_turns_on(pl_module.device)
            way = "in turn within every step" if in_turn else "as one batch"
            replicas = f"{len(pl_module.replicas)} replicas {way}"
            self._say(f"{replicas}; no alignment or figures before the end")
        if self._console.is_terminal and not self._console.quiet:
            self._bar = Bar(
                BarColumn(bar_width=15),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
            )
            self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, text="")
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._bar is not None:
            if trainer.global_step % self.refresh_every == 0:
                self._update(trainer, self._text(trainer))
        elif self._is_quiet():
            self._say_step(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_start = time.monotonic()
        if self._bar is None and self._validation_s >= QUIET:
            self._say(f"validating after step {trainer.global_step}")

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        text = f"validating, batch {batch_idx + 1} of {sum(trainer.num_val_batches)}"
        if self._bar is not None:
            self._update(trainer, text)
        elif self._is_quiet():
            self._say(text)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_s = time.monotonic() - self._validation_start
        if self._bar is not None:
            self._update(trainer, self._text(trainer))
        elif trainer.training or trainer.state.fn == "fit":
            self._say_step(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._start is None:  # a run that is resumed after its last step
            self._say(f"all {trainer.max_steps} steps are done; a larger max_steps trains on")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _update(self, trainer: pl.Trainer, text: str) -> None:
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, text=text)

    def _is_quiet(self) -> bool:
        return time.monotonic() - self._said >= QUIET

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, soft_wrap=True)

    def _say_step(self, trainer: pl.Trainer) -> None:
        self._say(f"step {trainer.global_step}/{trainer.max_steps}  {self._text(trainer)}")

    def _text(self, trainer: pl.Trainer) -> str:
        parts = []
        metrics = trainer.callback_metrics
        for name, label in {self._train_metric: "loss", **self._shown}.items():
            if name in metrics:
                parts.append(f"{label} {metrics[name].item():.4f}")
        assert self._start is not None
        seconds = time.monotonic() - self._start
        parts.append(f"{(trainer.global_step - self._first_step) / seconds:.0f}/s")
        return "  ".join(parts)
