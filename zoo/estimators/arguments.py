"""The arguments of a solver that are best on data of one's own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.predictor import Predictor
from zoo.registry import check_solver_arguments
from zoo.solvers.solver import EpisodeFacts, solver_of
from zoo.solvers.tuning import best_of, loss_of

NUM_FOLDS = 5
# Rows that are looked at.
MAX_ROWS = 2_000


def fitted_arguments(name: str, x: Tensor, y: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are given, and what of the solver's grid is best for the others.

    Best is what has the least error in five folds of the rows: every fifth row is left out of the
    context and asked for. At most 2,000 rows are looked at.

    Args:
        name: Of a solver.
        x: Inputs of unit variance, (num_rows, d_x).
        y: Labels, (num_rows, d_y).
        given: Arguments that are settled.

    Raises:
        ValueError: If one of the given arguments is unknown or has a wrong value.
    """
    solver_class, d_x, d_y = solver_of(name), x.shape[1], y.shape[1]
    check_solver_arguments(name, given)
    facts = EpisodeFacts(
        d_x=d_x,
        d_y=d_y,
        num_context=len(x),
        output=solver_class.output,
        input_variance=x.square().mean().item() or 1.0,
    )
    arguments = {**solver_class.known(facts, given), **given}
    grid = {key: tried for key, tried in solver_class.grid(facts).items() if key not in arguments}
    if not grid:
        return arguments
    num_folds = min(NUM_FOLDS, len(x))
    rows = min(MAX_ROWS, len(x)) // num_folds * num_folds
    fold = torch.arange(rows, device=x.device) % num_folds
    out = torch.stack([(fold == number).nonzero()[:, 0] for number in range(num_folds)])
    kept = torch.stack([(fold != number).nonzero()[:, 0] for number in range(num_folds)])

    def loss(solver: Predictor) -> float:
        state = solver.observe(solver.init_state(num_folds, x.device), x[kept], y[kept])
        return loss_of(solver, solver.predict(state, x[out]), y[out])

    return best_of(name, grid, loss, d_x=d_x, d_y=d_y, fixed=arguments)
