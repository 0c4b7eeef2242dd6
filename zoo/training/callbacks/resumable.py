"""Saving between optimizer steps, and stopping there when a signal asks for it."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from zoo.terminal import StoppedBySignal, ending_signals
from zoo.training.base import NonFiniteError
from zoo.training.directory import LAST_STATE
from zoo.training.private import delay_forced_end
from zoo.training.sharding import full

# How long a rank that has lost another one may take to notice, say so and end.
LAST_WORDS_S = 60


class Resumable(Checkpoint):
    """Keeps `DIRECTORY/last.ckpt` such that a run resumed from it ends as if never interrupted.

    It is saved every `every_n_steps` optimizer steps, at the last step, and when one of
    `ending_signals` came: then the optimizer step under way is finished on all ranks, with its
    validation if one is due, the state saved and `StoppedBySignal` raised. A second SIGINT exits at
    once and leaves the checkpoint before.

    Args:
        directory: Where the checkpoint goes.
        every_n_steps: Steps between two saves.
    """

    def __init__(self, directory: Path, every_n_steps: int = 500) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.path = directory / LAST_STATE
        self.every_n_steps = every_n_steps
        self.wall_time_s = 0.0
        self._signum: int | None = None
        self._handlers: dict[int, Any] = {}
        self._last_step = 0
        self._last_time = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"wall_time_s": self.wall_time_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wall_time_s = state_dict["wall_time_s"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has set its own SIGTERM handler by now, which would stop in the middle of a
        # step; it puts the original one back when the trainer is torn down.
        self._handlers = {
            signum: signal.signal(signum, self._request_stop) for signum in ending_signals()
        }
        self._last_step = trainer.global_step
        self._last_time = time.monotonic()
        delay_forced_end(LAST_WORDS_S)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        # Lightning does not come back to a validation that follows a step after which it was saved.
        num_batches = trainer.global_step * trainer.accumulate_grad_batches
        interval = trainer.val_check_batch
        validation_follows = interval is not None and num_batches % interval == 0
        if trainer.global_step > self._last_step and not validation_follows:
            self._between_steps(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._between_steps(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handlers()
        if self._signum is not None:  # it came after the last step was saved
            raise StoppedBySignal(self._signum, trainer.global_step)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _between_steps(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = self._last_step = trainer.global_step
        stop = self._signum is not None
        if trainer.world_size > 1:  # a signal may reach one rank alone, or each at another step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            now = time.monotonic()
            self.wall_time_s += now - self._last_time
            self._last_time = now
            for name, parameter in pl_module.named_parameters():
                if not full(parameter.isfinite().all()):
                    raise NonFiniteError(f"after optimizer step {step}, {name} is not finite")
            trainer.save_checkpoint(self.path)
        if stop:
            raise StoppedBySignal(self._signum or signal.SIGTERM, step)

    def _restore_handlers(self) -> None:
        # Before Lightning tears down its own, or the signals of the rest of the process go to it.
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._signum == signal.SIGINT:
            raise SystemExit(128 + signum)
        self._signum = signum
