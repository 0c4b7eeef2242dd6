"""When a run first came close enough."""

from typing import Any

import lightning.pytorch as pl


class TimeToSolution(pl.Callback):
    """Notes the first validation at which a ratio was at most, or an accuracy at least, so much.

    Attributes:
        first_step: The optimizer step of that validation, None before it; as exact as the
            interval between validations.

    Args:
        metric: Logged name of the ratio or the accuracy.
        threshold: What a ratio has to come down to.
        least: What an accuracy has to come up to.
    """

    def __init__(
        self,
        metric: str = "val/ratio_to_gradient_descent",
        threshold: float = 1.01,
        least: float = 0.99,
    ) -> None:
        self.metric = metric
        self.threshold = threshold
        self.least = least
        self.first_step: int | None = None

    @property
    def state_key(self) -> str:
        """One for each metric, since a run may have several of these."""
        return self._generate_state_key(metric=self.metric)

    def state_dict(self) -> dict[str, Any]:
        return {"first_step": self.first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first_step = state_dict["first_step"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if self.first_step is None and value is not None and self._is_enough(value.item()):
            self.first_step = trainer.global_step

    def _is_enough(self, value: float) -> bool:
        return value >= self.least if "accuracy" in self.metric else value <= self.threshold
