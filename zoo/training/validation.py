"""What validation measures of one model."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassCalibrationError

from zoo.metrics.classification import NUM_BINS, correct


class ValidationMetrics(nn.Module):
    """What validation measures of one model, by the names it is logged under.

    Args:
        error_name: Of the error, as in `val/half_mse_query`.
        num_classes: Of labels that are classes, None where they are values.
    """

    def __init__(self, error_name: str, num_classes: int | None) -> None:
        super().__init__()
        self.error_name = error_name
        self.query = MeanMetric()
        self.all = MeanMetric()
        self.ratio = RatioOfMeans()
        self.accuracy: MeanMetric | None = None
        self.calibration: MulticlassCalibrationError | None = None
        if num_classes is not None:
            self.accuracy = MeanMetric()
            self.calibration = MulticlassCalibrationError(num_classes, n_bins=NUM_BINS)

    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        errors: Tensor,
        all_errors: Tensor | None,
        reference_errors: Tensor | None,
    ) -> None:
        """Adds a batch.

        Args:
            prediction: At the query, (batch, d_y).
            target: At the query, (batch, d_y).
            errors: At the query, (batch,).
            all_errors: Means over the scored positions, (batch,), where the loss is taken there.
            reference_errors: Those of the reference at the query, (batch,), if there is one.
        """
        self.query.update(errors)
        if all_errors is not None:
            self.all.update(all_errors)
        if self.accuracy is not None and self.calibration is not None:
            self.accuracy.update(correct(prediction, target))
            self.calibration.update(prediction.softmax(-1), target.argmax(-1))
        if reference_errors is not None:
            self.ratio.update(errors, reference_errors)

    def updated(self) -> dict[str, Metric]:
        """Those that were given something."""
        named: dict[str, Metric | None] = {
            f"val/{self.error_name}_query": self.query,
            f"val/{self.error_name}_all": self.all,
            "val/accuracy": self.accuracy,
            "val/calibration_error": self.calibration,
            "val/ratio_to_gradient_descent": self.ratio,
        }
        return {name: m for name, m in named.items() if m is not None and m.update_called}

    def take(self) -> dict[str, Tensor]:
        """The values of those that were given something, which are then empty again."""
        values = {}
        for name, metric in self.updated().items():
            values[name] = metric.compute()
            metric.reset()
        return values


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
