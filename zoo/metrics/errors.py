"""Squared errors, their means with intervals, and ratios of paired errors."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

# Half the width of a normal 95 % interval in standard errors.
Z_95 = 1.959964
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Interval(NamedTuple):
    """A mean over episodes with its 95 % interval, value - ci95 to value + ci95.

    The interval is that of the normal approximation, which for the thousands of episodes used here
    agrees with a bootstrap over episodes.
    """

    value: float
    ci95: float


class Summary(NamedTuple):
    """What is said of the values of a quantity over episodes.

    Attributes:
        value: Their mean.
        ci95: Half the width of its 95 % interval; None where there is none to be given.
        median: Their median; None for what is no error, such as a cosine, and for ratios.
        tail_share: Share of the mean that the worst 0.1 % of the episodes carry; of a ratio the
            larger one of both errors. None for what is no error, and for errors of rounding.
        lowest: Of the means of ten further sets of as many episodes, drawn apart, where the tail is
            too heavy for an interval.
        highest: Of the same.
    """

    value: float
    ci95: float | None = None
    median: float | None = None
    tail_share: float | None = None
    lowest: float | None = None
    highest: float | None = None


def half_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """1/2 (prediction - target)^2, averaged over the output coordinates, the last dimension."""
    return 0.5 * (prediction - target).square().mean(-1)


def mean_of_scored(errors: Tensor, scored: Tensor) -> Tensor:
    """Mean of errors (batch, length) over the scored positions of each episode, (batch,)."""
    return errors.masked_fill(~scored, 0.0).sum(1) / scored.sum(1)


def mean_interval(values: Tensor) -> Interval:
    """Mean of independent values (num_episodes,) with its 95 % interval.

    Raises:
        ValueError: If there are fewer than two, which say nothing of their spread.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got {len(values)}")
    values = values.double()
    return Interval(values.mean().item(), Z_95 * values.std().item() / math.sqrt(len(values)))


def interval_or_none(values: Tensor) -> Interval | None:
    """`mean_interval`, or None where there are too few values for one."""
    return mean_interval(values) if len(values) > 1 else None


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of one or more runs, and half its 95 % interval (Student's t); None for a single one."""
    if len(values) < 2:
        return mean(values), None
    t = T_975[min(len(values) - 1, len(T_975)) - 1]
    return mean(values), t * stdev(values) / math.sqrt(len(values))


def ratio_interval(numerator: Tensor, denominator: Tensor) -> Interval:
    """mean(numerator) / mean(denominator) of paired values, both (num_episodes,).

    The interval is that of the delta method: with ratio R, the standard error of
    mean(numerator - R denominator) / mean(denominator).
    """
    a, b = numerator.double(), denominator.double()
    ratio = a.mean() / b.mean()
    ci95 = Z_95 * (a - ratio * b).std() / (b.mean() * math.sqrt(len(a)))
    return Interval(ratio.item(), ci95.item())


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
