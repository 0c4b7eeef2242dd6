"""How many threads of a CPU an optimizer step has."""

import time
from collections.abc import Callable

import lightning.pytorch as pl
import torch

from zoo.threads import describe, free_cores, most_threads, take_free_cores

# Seconds between two looks at what other processes use.
LOOK_EVERY = 5.0


class Threads(pl.Callback):
    """Trains with as many threads as are of use, at most as many as find a free core.

    It looks again every few seconds. Several devices, and a GPU, are left to Lightning.

    Args:
        worth: Threads that are of use for a step.
        say: Is told what was chosen, when training starts.
    """

    def __init__(self, worth: int, say: Callable[[str], None]) -> None:
        self.worth = worth
        self._say = say
        self._next_look = float("inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu":
            self._choose()
            self._say(f"training with {describe(torch.get_num_threads(), self.worth)}")

    def on_train_batch_start(self, *_: object) -> None:
        if time.monotonic() >= self._next_look:
            self._choose()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._next_look < float("inf"):
            take_free_cores()

    def _choose(self) -> None:
        torch.set_num_threads(min(self.worth, free_cores(most_threads())))
        self._next_look = time.monotonic() + LOOK_EVERY
