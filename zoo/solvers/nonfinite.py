"""What all solvers do with numbers that they cannot use: the episode is NaN from there on."""

import torch
from torch import Tensor

# Larger numbers are taken for a fault like infinity: beside their squares, or those of what is
# computed from them, float64 holds nothing of the other examples.
LARGEST = 1e20


def usable(values: Tensor) -> Tensor:
    """Whether the vectors (..., d) hold finite numbers alone, none beyond `LARGEST`; (...) bool."""
    return values.abs().amax(-1).double() <= LARGEST  # which float16 rounds to infinity


def after_unusable(x: Tensor, y: Tensor) -> Tensor:
    """Which positions come after an example that cannot be used, (batch, N + 1) bool.

    Args:
        x: Inputs of the context, (batch, N, d_x).
        y: Labels of the context, (batch, N, d_y).
    """
    return _after(~(usable(x) & usable(y)))


def without_unusable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sets examples that cannot be used to zero, and says which positions come after one.

    Args:
        x: Inputs of the context, (batch, N, d_x).
        y: Labels of the context, (batch, N, d_y).

    Returns:
        x and y in float64, and (batch, N + 1) bool.
    """
    x, y = x.double(), y.double()
    bad = ~(usable(x) & usable(y))  # (batch, N)
    return x.masked_fill(bad[..., None], 0.0), y.masked_fill(bad[..., None], 0.0), _after(bad)


def as_asked(prediction: Tensor, x_query: Tensor) -> Tensor:
    """Predictions (..., d_y) in the type of their queries (..., d_x).

    NaN where that type cannot hold them, and for queries that cannot be used.
    """
    prediction = prediction.to(x_query.dtype)
    defined = usable(x_query)[..., None] & prediction.isfinite()
    return torch.where(defined, prediction, torch.nan)


def _after(bad: Tensor) -> Tensor:
    """Whether one of the examples (batch, N) before each position was bad, (batch, N + 1)."""
    return torch.cat([bad.new_zeros(len(bad), 1), bad], dim=1).cumsum(1) > 0
