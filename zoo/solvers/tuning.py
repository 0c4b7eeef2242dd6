"""The arguments of a solver that are best on given episodes."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.predictor import Predictor
from zoo.registry import create_solver

# Finer values that are tried between the neighbours of the best one.
REFINED = 9


def tune(
    name: str,
    grid: Mapping[str, Sequence[Any]],
    x: Tensor,
    y: Tensor,
    target: Tensor,
    *,
    fixed: Mapping[str, Any] | None = None,
    positions: Literal["last", "all"] = "last",
) -> dict[str, Any]:
    """Tries all combinations of a grid and returns the one of least loss.

    That is 0.5*MSE for a solver of values and the cross entropy for one of logits.

    Use episodes of the training stream; those that a comparison is made on must not be seen here.

    Args:
        name: Registered name of a solver.
        grid: Values to try, for each argument.
        x: Inputs, (batch, length, d_x).
        y: Labels, (batch, length, d_y).
        target: What a prediction is scored on, (batch, length, d_y).
        fixed: Arguments that stay as they are.
        positions: Whether the query at the end counts or every position equally.

    Returns:
        `fixed` and the best of the grid, without d_x and d_y: arguments for `create_solver`. Among
        equals the first wins.

    Raises:
        ValueError: If the grid is empty, `positions` is unknown, target does not fit y, or no
            combination has a finite loss.
    """
    if positions not in ("last", "all"):
        raise ValueError(f"positions must be 'last' or 'all', got {positions!r}")
    if target.shape != y.shape:
        raise ValueError(
            f"target must have the shape of y, {tuple(y.shape)}, got {tuple(target.shape)}"
        )

    def loss(solver: Predictor) -> float:
        if positions == "last":
            return loss_of(solver, solver.predict_query(x, y), target[:, -1])
        return loss_of(solver, solver(x, y), target)

    return best_of(name, grid, loss, d_x=x.shape[-1], d_y=y.shape[-1], fixed=fixed)


def best_of(
    name: str,
    grid: Mapping[str, Sequence[Any]],
    loss: Callable[[Predictor], float],
    *,
    d_x: int,
    d_y: int,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """As `tune`, for any loss of a solver.

    Args:
        name: Registered name of a solver.
        grid: Values to try, for each argument.
        loss: What is to be least; NaN counts as infinite.
        d_x: Width of an input.
        d_y: Width of a label.
        fixed: Arguments that stay as they are.

    Raises:
        ValueError: If the grid is empty, or no combination has a finite loss.
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise ValueError(f"grid must hold at least one argument and one value of each, got {grid}")
    best: dict[str, Any] = {}
    least = math.inf
    for values in itertools.product(*grid.values()):
        arguments = {**(fixed or {}), **dict(zip(grid, values, strict=True))}
        solver = create_solver(name, d_x=d_x, d_y=d_y, **arguments)
        with torch.no_grad():
            found = loss(solver)
        if found < least:
            best, least = arguments, found
    if not best:
        raise ValueError(f"no combination of the grid gives {name} a finite loss: {grid}")
    return best


def refined(
    search: Callable[[dict[str, tuple[Any, ...]]], dict[str, Any]],
    grid: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """The best of a grid; of a single argument, of finer values between its neighbours too.

    Args:
        search: From a grid to arguments, the best of it among them, as `tune` with all else given.
        grid: Values to try, for each argument. Those of a single one are positive and ascend.
    """
    best = search({name: (*values,) for name, values in grid.items()})
    if len(grid) > 1:
        return best
    ((key, values),) = grid.items()
    i = values.index(best[key])
    low, high = values[max(0, i - 1)], values[min(len(values) - 1, i + 1)]
    if low == high:
        return best
    return search({key: (best[key], *log_grid(low, high, REFINED))})


def narrowed(
    search: Callable[[dict[str, tuple[Any, ...]]], dict[str, Any]],
    grid: Mapping[str, Sequence[float]],
    halvings: int,
) -> dict[str, Any]:
    """The best of a grid, then of an ever finer one around it.

    Tried are three values of every argument, in all combinations: the best so far, and those half
    the way to its neighbours. Where another one is better it is the next to be surrounded; where
    none is, the way is halved again. Arguments that hang together, such as a step size and a
    preconditioner, so become exact together.

    Args:
        search: As at `refined`.
        grid: Positive values to try, for each argument; nothing beyond them is tried.
        halvings: How many. Neighbours are at last apart by the 2^halvings-th root of what they
            were.

    Raises:
        ValueError: If a value is not above zero.
    """
    if any(not value > 0 for values in grid.values() for value in values):
        raise ValueError(f"only values above zero can be narrowed down, got {dict(grid)}")
    best = search({name: (*values,) for name, values in grid.items()})
    factors = {name: _widest(sorted(values)) ** 0.5 for name, values in grid.items()}
    while halvings:
        around = {}
        for name, values in grid.items():
            ends = best[name] / factors[name], best[name] * factors[name]
            inside = (min(max(end, min(values)), max(values)) for end in ends)
            around[name] = tuple(dict.fromkeys((best[name], *inside)))
        found = search(around)
        if found == best:
            factors = {name: factor**0.5 for name, factor in factors.items()}
            halvings -= 1
        best = found
    return best


def _widest(values: Sequence[float]) -> float:
    """The largest factor between neighbours."""
    return max((b / a for a, b in itertools.pairwise(values)), default=1.0)


def loss_of(solver: Predictor, prediction: Tensor, target: Tensor) -> float:
    """0.5*MSE of the predictions of a solver of values, the cross entropy of one of logits."""
    prediction, target = prediction.double(), target.double()
    if solver.output == "logits":
        return -(target * prediction.log_softmax(-1)).sum(-1).mean().item()
    return 0.5 * (prediction - target).square().mean().item()


def log_grid(low: float, high: float, num: int, unit: float = 1.0) -> tuple[float, ...]:
    """`num` numbers from `low` to `high` units, each the same factor above the one before.

    Raises:
        ValueError: Unless 0 < low < high and num is at least 2.
    """
    if not (0 < low < high < math.inf and num >= 2):
        raise ValueError(
            f"a grid needs 0 < low < high and num of at least 2, got {low}, {high} and {num}"
        )
    return tuple(unit * (low * (high / low) ** (i / (num - 1))) for i in range(num))
