"""Whether the validation loss had stopped falling before the rate decayed."""

import math
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import numpy as np

from zoo.training.options import OptimConfig

# Converged: over the last third of the constant phase the loss changes by less than this share.
THRESHOLD = 0.02
# Validations in that third from which a fall can be read.
LEAST_VALIDATIONS = 4


class Verdict(NamedTuple):
    """What is said of a run's convergence.

    Attributes:
        verdict: `"converged"`, `"not converged"`, or `"unknown"` for too few validations, or some
            that have no logarithm.
        fall: Share by which the loss fell over the last third of the constant phase, by a straight
            line through the logarithms of the losses; None if unknown.
        num_validations: In that third.
    """

    verdict: Literal["converged", "not converged", "unknown"]
    fall: float | None
    num_validations: int


class Convergence(pl.Callback):
    """Keeps the validation loss, and says at the end whether a run had converged.

    The rate is constant from the end of the warm-up to the start of the decay. Over the last third
    of that phase the loss of a run that has converged falls by less than 2 %, and rises by no more.

    Args:
        metric: Logged name of the loss.
        optim: The course of the rate.
        max_steps: Of the run.
    """

    def __init__(self, metric: str, optim: OptimConfig, max_steps: int) -> None:
        self.metric = metric
        stop = max_steps * (1 - optim.decay_share)
        self.phase = stop - (stop - optim.warmup_steps) / 3, stop
        self.losses: dict[int, float] = {}

    @property
    def state_key(self) -> str:
        """One for each metric, since a run may have several of these."""
        return self._generate_state_key(metric=self.metric)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "phase": list(self.phase)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run that goes on for longer has had a decay in between: its phase begins afresh.
        if state_dict["phase"] == list(self.phase):
            self.losses = dict(state_dict["losses"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            self.losses[trainer.global_step] = value.item()

    @property
    def verdict(self) -> Verdict:
        """What the validations so far say."""
        first, last = self.phase
        steps = [step for step in self.losses if first <= step <= last]
        readable = all(0 < self.losses[step] < math.inf for step in steps)
        if len(steps) < LEAST_VALIDATIONS or not readable:
            return Verdict("unknown", None, len(steps))
        slope, _ = np.polyfit(steps, [math.log(self.losses[step]) for step in steps], 1)
        fall = 1 - math.exp(slope * (last - first))
        return Verdict(verdict_of(fall), fall, len(steps))


def verdict_of(fall: float | None) -> Literal["converged", "not converged", "unknown"]:
    """What a fall of the loss says; a negative one is a rise."""
    if fall is None:
        return "unknown"
    return "converged" if abs(fall) < THRESHOLD else "not converged"
