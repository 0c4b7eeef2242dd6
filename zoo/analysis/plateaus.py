"""Plateaus in the course of training: when a model leaves the zero predictor, and where it stands.

A loss stands where it changes little over several validations in a row.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

# Of the error of zero: what is below has left it.
LEFT_ZERO = 0.95


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
    """
    steps = sorted(losses)
    for one, two in pairwise(steps):
        if max(losses[one], losses[two]) < LEFT_ZERO * zero:
            return one
    return None


def plateaus(
    losses: Mapping[int, float], within: float = 0.05, least: int = 4, fall: float = 0.1
) -> list[Plateau]:
    """The plateaus of a loss, in their order.

    A plateau is a stretch of validations in a row whose largest loss is at most `1 + within` times
    the smallest, as long as it can be from its first one on. It counts where there are `least` of
    them and the loss later falls below its level by the share `fall`, or training ends in it.

    Args:
        losses: In validation, by optimizer steps; above zero.
        within: By how much losses of a plateau differ, as a share.
        least: Validations in it.
        fall: The share of its level by which the loss falls afterwards.

    Raises:
        ValueError: If a loss is not above zero.
    """
    steps = sorted(losses)
    if any(not losses[step] > 0 for step in steps):
        raise ValueError("plateaus are those of losses above zero")
    found, start = [], 0
    while start < len(steps):
        end, low, high = start, losses[steps[start]], losses[steps[start]]
        while end + 1 < len(steps):
            value = losses[steps[end + 1]]
            if max(high, value) > (1 + within) * min(low, value):
                break
            end, low, high = end + 1, min(low, value), max(high, value)
        stretch = steps[start : end + 1]
        level = sum(losses[step] for step in stretch) / len(stretch)
        later = [losses[step] for step in steps[end + 1 :]]
        if len(stretch) >= least and (not later or min(later) < (1 - fall) * level):
            found.append(Plateau(stretch[0], stretch[-1], level))
            start = end + 1
        else:
            start += 1
    return found
