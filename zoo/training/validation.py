"""What validation measures of one model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassCalibrationError

from zoo.metrics.classification import NUM_BINS
from zoo.metrics.scoring import Place

PLACES: tuple[Place, ...] = ("query", "all")


class ValidationMetrics(nn.Module):
    """What validation measures of one model, by the names it is logged under.

    Args:
        losses: Names of the losses, each measured at the query and over all scored positions.
        num_classes: Where the calibration of logits is measured; None elsewhere.
        reference: Name of the algorithm whose error the model's is divided by.
    """

    def __init__(self, losses: Sequence[str], num_classes: int | None, reference: str) -> None:
        super().__init__()
        self.ratio_name = f"val/ratio_to_{reference}"
        names = [validation_name(loss, place) for loss in losses for place in PLACES]
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})
        self.calibration: MulticlassCalibrationError | None = None
        if num_classes is not None:
            self.calibration = MulticlassCalibrationError(num_classes, n_bins=NUM_BINS)
        self.ratio = RatioOfMeans()

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Adds the losses (batch,) of a batch of episodes, by names of `validation_name`."""
        for name, values in losses.items():
            mean = self.means[name]
            assert isinstance(mean, MeanMetric)
            mean.update(values)

    def calibrate(self, logits: Tensor, target: Tensor) -> None:
        """Adds the queries of a batch, both (batch, d_y), where calibration is measured."""
        if self.calibration is not None:
            self.calibration.update(logits.softmax(-1), target.argmax(-1))

    def compare(self, errors: Tensor, reference_errors: Tensor) -> None:
        """Adds the errors (batch,) of a batch beside those of the reference."""
        self.ratio.update(errors, reference_errors)

    def updated(self) -> dict[str, Metric]:
        """Those that were given something."""
        named: dict[str, Any] = {
            **dict(self.means.items()),
            "val/calibration_error": self.calibration,
            self.ratio_name: self.ratio,
        }
        return {name: m for name, m in named.items() if m is not None and m.update_called}

    def take(self) -> dict[str, Tensor]:
        """The values of those that were given something, which are then empty again."""
        values = {}
        for name, metric in self.updated().items():
            values[name] = metric.compute()
            metric.reset()
        return values


def validation_name(loss: str, place: Place) -> str:
    """What a loss is logged as; an accuracy without a place is that at the query."""
    return "val/accuracy" if (loss, place) == ("accuracy", "query") else f"val/{loss}_{place}"


class RatioOfMeans(Metric):
    """Ratio of the mean errors of two predictors on the same episodes."""

    full_state_update = False
    numerator: Tensor
    denominator: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("numerator", "denominator"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, numerator: Tensor, denominator: Tensor) -> None:
        """Adds a batch of paired errors, each (batch,)."""
        self.numerator += numerator.double().sum()
        self.denominator += denominator.double().sum()

    def compute(self) -> Tensor:
        """Scalar ratio."""
        return self.numerator / self.denominator
