"""Plateaus in the course of training: when a model leaves the zero predictor, and where it stands.

A loss stands where it falls clearly slower than before and after, by more than its scatter.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, linear_regression, median
from typing import NamedTuple

# Of the error of zero: what is below has left it.
LEFT_ZERO = 0.95
# Of the rates before and behind it: what falls slower stands.
SLOWER = 0.25
# Log losses of one stretch are apart from an even course by at most so many times their scatter,
# and by what the slowest fall that is too fast falls with one validation.
APART = 5.0
# Standard errors by which that must be so.
ERRORS = 4.0


class Plateau(NamedTuple):
    """A stretch of training over which a loss stands.

    Attributes:
        first: Optimizer steps at its first validation.
        last: At its last one.
        level: The mean of the losses.
    """

    first: int
    last: int
    level: float


def leaves_zero(losses: Mapping[int, float], zero: float) -> int | None:
    """The first of two validations in a row whose loss is below 0.95 of that of zero.

    Args:
        losses: In validation, by optimizer steps.
        zero: That of predicting zero on the same episodes.

    Returns:
        Its optimizer steps, None if there is none.

    Raises:
        ValueError: If a loss, or that of zero, is not finite.
    """
    steps = sorted(losses)
    _check_finite(losses, steps)
    if not math.isfinite(zero):
        raise ValueError(f"the loss of zero must be finite, got {zero}")
    for one, two in pairwise(steps):
        if max(losses[one], losses[two]) < LEFT_ZERO * zero:
            return one
    return None


def plateaus(
    losses: Mapping[int, float], until: int | None = None, least: int = 4, fall: float = 0.1
) -> list[Plateau]:
    """The plateaus of a loss, in their order.

    A rate is the slope of the log loss over validations, by least squares, with its standard error
    from the scatter between validations. A plateau is a stretch of `least` or more validations in
    which the rate of falling, and four standard errors, is below a quarter of the rates over the
    `least` validations before and behind it, less four standard errors. What begins with the first
    validation has none before. There is no step in it: without its slope, log losses are apart by
    at most five times the scatter and that quarter. And the loss must fall below its level by the
    share `fall` later on.
    A loss that falls evenly, however slowly, has no plateau, nor has one that levels off for good.
    Of stretches that overlap the longest counts.

    Args:
        losses: In validation, by optimizer steps; above zero.
        until: Steps up to which losses are looked at, such as where the learning rate begins to
            decay, which makes a loss fall by itself; None for all.
        least: Validations in a plateau, and before and behind it; at least 3.
        fall: The share of its level by which the loss falls afterwards.

    Raises:
        ValueError: If a loss is not above zero or not finite, `least` is below 3, or `fall` is no
            share.
    """
    if least < 3:
        raise ValueError(f"a plateau needs at least 3 validations, got least = {least}")
    if not 0 <= fall < 1:
        raise ValueError(f"fall must be a share, from 0 to below 1, got {fall}")
    steps = [step for step in sorted(losses) if until is None or step <= until]
    _check_finite(losses, steps)
    for step in steps:
        if losses[step] <= 0:
            raise ValueError(
                f"plateaus are those of losses above zero, got {losses[step]} at step {step}"
            )
    logs = [math.log(losses[step]) for step in steps]
    scatter = _scatter(logs)
    stretches = [
        (start, end)
        for start in range(len(steps))
        for end in range(start + least - 1, len(steps) - 1)
        if _stands(logs, start, end, scatter, least)
    ]
    found: list[tuple[int, int]] = []
    for start, end in sorted(stretches, key=lambda stretch: stretch[0] - stretch[1]):
        level = math.exp(fmean(logs[start : end + 1]))
        falls = math.exp(min(logs[end + 1 :])) < (1 - fall) * level
        if falls and all(end < first or last < start for first, last in found):
            found.append((start, end))
    return [
        Plateau(steps[i], steps[j], fmean(losses[step] for step in steps[i : j + 1]))
        for i, j in sorted(found)
    ]


def _check_finite(losses: Mapping[int, float], steps: Sequence[int]) -> None:
    for step in steps:
        if not math.isfinite(losses[step]):
            raise ValueError(f"losses must be finite, got {losses[step]} at step {step}")


def _stands(logs: Sequence[float], start: int, end: int, scatter: float, least: int) -> bool:
    """Whether a loss falls clearly slower from start to end than before and behind it."""
    around = [logs[end : end + least + 1]]
    if start:
        around.append(logs[max(0, start - least) : start + 1])
    part = logs[start : end + 1]
    # The rate at which a stretch would fall too fast.
    fast = SLOWER * min(_rate(side) - ERRORS * _error(len(side), scatter) for side in around)
    rate = _rate(part)
    if not rate + ERRORS * _error(len(part), scatter) < fast:
        return False
    bent = [log + rate * i for i, log in enumerate(part)]
    return max(bent) - min(bent) <= APART * scatter + fast


def _rate(logs: Sequence[float]) -> float:
    """By how much the log loss falls with each validation."""
    return -linear_regression(range(len(logs)), logs).slope


def _error(num: int, scatter: float) -> float:
    """The standard error of a rate over so many validations."""
    return scatter / math.sqrt(num * (num**2 - 1) / 12)


def _scatter(logs: Sequence[float]) -> float:
    """The standard deviation of log losses around their course, from second differences."""
    if len(logs) < 3:
        return 0.0
    bends = [abs(a - 2 * b + c) for a, b, c in zip(logs, logs[1:], logs[2:], strict=False)]
    # A normal variable is by half within 0.6745 standard deviations; that of a bend is sqrt(6).
    return median(bends) / (0.6745 * math.sqrt(6))
