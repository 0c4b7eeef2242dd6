"""Squared errors, their means with intervals, and ratios of paired errors."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple, TypeVar

from torch import Tensor

# Half the width of a normal 95 % interval in standard errors.
Z_95 = 1.959964
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

# A mean of which the worst 0.1 % of the episodes carry more than a tenth has no interval: what
# decides about it is mostly not in the sample.
WORST = 1e-3
HEAVY = 0.1
# Sets of episodes, as large as the one measured and drawn apart, whose means are shown instead.
NUM_APART = 10

Key = TypeVar("Key", bound=Hashable)


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


def tail_share(values: Tensor) -> float:
    """Share of the mean of errors (num_episodes,) that the worst 0.1 % of the episodes carry.

    Of fewer than 1,000 episodes it is the part of the worst one that belongs to 0.1 % of them.
    """
    worst = WORST * len(values)
    top = values.double().topk(math.ceil(worst)).values
    carried = top.sum() - (math.ceil(worst) - worst) * top[-1]
    total = values.double().sum().item()
    return 0.0 if total == 0 else carried.item() / total


def is_rounding(values: Tensor, negligible: float) -> bool:
    """Whether errors (num_episodes,) are at or below `negligible` even in the worst 0.1 %.

    A small mean alone would not tell: one wrong episode in ten thousand is no rounding.
    """
    of_worst = tail_share(values) * values.double().mean().item() / WORST
    return of_worst <= negligible


def is_heavy(values: Tensor) -> bool:
    """Whether the mean of errors (num_episodes,) says little: its tail is heavy.

    The worst 0.1 % of the episodes carry more than a tenth of it or, of a few episodes, its 95 %
    interval reaches zero.
    """
    value, ci95 = mean_interval(values)
    return tail_share(values) > HEAVY or ci95 > value


def error_summary(
    values: Tensor, negligible: float = 0.0, apart: Sequence[float] | None = None
) -> Summary:
    """What is said of errors over episodes.

    Args:
        values: Errors, none below zero, (num_episodes,), of at least two episodes.
        negligible: Errors that are at or below it are rounding, as `is_rounding` has it, with
            neither interval nor tail.
        apart: Means of further sets, as `means_apart` gives them; needed where a tail is heavy.

    Raises:
        ValueError: If there are fewer than two values.
    """
    value, ci95 = mean_interval(values)
    ordered = values.double().sort().values
    median = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]).item() / 2
    if value > 0 and is_rounding(values, negligible):
        return Summary(value, median=median)
    share = tail_share(values)
    if not is_heavy(values):
        return Summary(value, ci95, median, share)
    between = (min(apart), max(apart)) if apart else (None, None)
    return Summary(value, None, median, share, *between)


def means_apart(measure: Callable[[int], Mapping[Key, Tensor]]) -> dict[Key, list[float]]:
    """Means over each of ten further sets of episodes.

    Args:
        measure: From the number of a set, from 1, to values over its episodes by name.
    """
    sets = [
        {name: values.double().mean().item() for name, values in measure(i).items()}
        for i in range(1, NUM_APART + 1)
    ]
    return {name: [found[name] for found in sets] for name in sets[0]}


def error_summaries(
    found: Mapping[Key, Tensor], measure: Callable[[int], Mapping[Key, Tensor]] | None = None
) -> dict[Key, Summary]:
    """`error_summary` of several errors over the same episodes.

    Args:
        found: Errors by name, each (num_episodes,).
        measure: The same over the further set of a number, as `means_apart` takes it; called where
            the tail of one of them is heavy.
    """
    heavy = measure is not None and any(map(is_heavy, found.values()))
    apart = means_apart(measure) if measure is not None and heavy else {}
    return {name: error_summary(values, apart=apart.get(name)) for name, values in found.items()}


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


def ratio_summary(
    numerator: Tensor,
    denominator: Tensor,
    apart: Callable[[], tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Summary:
    """mean(numerator) / mean(denominator) of paired errors, both (num_episodes,).

    Where the tail of one of them is heavy the ratio has no interval either.

    Args:
        numerator: Errors.
        denominator: Errors of another predictor on the same episodes.
        apart: Means of both over the same further sets, asked for where a tail is heavy.
    """
    ratio = ratio_interval(numerator, denominator)
    if not is_heavy(numerator) and not is_heavy(denominator):
        return Summary(*ratio)
    share = max(tail_share(numerator), tail_share(denominator))
    if apart is None:
        return Summary(ratio.value, tail_share=share)
    ratios = [a / b for a, b in zip(*apart(), strict=True)]
    return Summary(ratio.value, tail_share=share, lowest=min(ratios), highest=max(ratios))
