"""The state as an algorithm: the weights that a predictor has after every example."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.analysis.checks import check_finite
from zoo.analysis.imitation import inverse_of
from zoo.metrics.alignment import cosines, mean_cosine
from zoo.metrics.errors import Summary
from zoo.predictor import Predictor


class ReadOut(NamedTuple):
    """What a predictor answers queries with, after i examples at position i.

    Attributes:
        W: The weights with q W nearest to its predictions, (batch, length, d_x, d_y), float64.
        nonlinear: sum |p - q W|^2 / sum |p|^2 over the queries, (batch, length): the part of the
            predictions p that no weights explain; zero where all are zero.
    """

    W: Tensor
    nonlinear: Tensor


class InTime(NamedTuple):
    """Weights W of a model beside those V of an algorithm, after i examples at position i.

    An update is what one example changes, W_(i+1) - W_i. Means over the episodes of a position are
    those of `mean_by_position`.

    Attributes:
        cosine: <W, V> / (|W| |V|), (batch, length); NaN where a norm is zero, as at position 0.
        difference: |W - V|_F / |V|_F, (batch, length); NaN where V is zero.
        update_cosine: The same of updates, (batch, length - 1).
        update_difference: (batch, length - 1).
    """

    cosine: Tensor
    difference: Tensor
    update_cosine: Tensor
    update_difference: Tensor


@torch.no_grad()
def read_out(predictor: Predictor, x: Tensor, y: Tensor, queries: Tensor) -> ReadOut:
    """Reads the weights out of a predictor's answers, after every number of examples.

    As `implicit_weights` at every position, with one pass over the examples. A predictor that is
    linear in the query, as one-layer learners and most solvers are, answers with W exactly; what
    is in its state may be scaled, rotated or not inverted yet.

    Args:
        predictor: Any predictor.
        x: Inputs, (batch, length, d_x).
        y: Labels, (batch, length, d_y). The last one is never read.
        queries: (batch, num_query, d_x) with num_query >= d_x, such as 4 d_x draws of an input.

    Raises:
        ValueError: As `inverse_of`, and if an answer is not finite.
    """
    q, inverse = queries.double(), inverse_of(queries, x)
    state = predictor.init_state(len(x), device=x.device, dtype=x.dtype)
    weights, nonlinear = [], []
    for i in range(x.shape[1]):
        answers = predictor.predict(state, queries).double()
        check_finite(answers=answers)
        weights.append(inverse @ answers)
        left = (answers - q @ weights[-1]).square().sum((1, 2))
        whole = answers.square().sum((1, 2))
        nonlinear.append(torch.where(whole == 0, 0.0, left / whole))
        if i + 1 < x.shape[1]:
            state = predictor.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    return ReadOut(torch.stack(weights, dim=1), torch.stack(nonlinear, dim=1))


def in_time(W: Tensor, V: Tensor) -> InTime:
    """Compares the weights of a model with those of an algorithm, and what examples change.

    Args:
        W: Of the model, (batch, length, d_x, d_y).
        V: Of the algorithm on the same episodes, of the same shape.

    Raises:
        ValueError: If the shapes differ, or a number is not finite.
    """
    if W.shape != V.shape or W.ndim != 4:
        raise ValueError(
            "both weights must be (batch, length, d_x, d_y), "
            f"got {tuple(W.shape)} and {tuple(V.shape)}"
        )
    check_finite(W=W, V=V)
    return InTime(*_compared(W, V), *_compared(W.diff(dim=1), V.diff(dim=1)))


def mean_by_position(values: Tensor) -> list[Summary | None]:
    """Means over the episodes of each position, with 95 % intervals, where values are defined.

    Args:
        values: A part of `InTime`, (batch, length).

    Returns:
        One for each position; None where fewer than two values are defined.
    """
    return [mean_cosine(at) for at in values.unbind(1)]


def _compared(W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and relative difference of matrices (batch, length, d_x, d_y), (batch, length)."""
    a, b = (part.flatten(2).flatten(0, 1).double() for part in (W, V))
    size = b.norm(dim=1)
    difference = torch.where(size > 0, (a - b).norm(dim=1) / size, torch.nan)
    return cosines(a, b).view(W.shape[:2]), difference.view(W.shape[:2])
