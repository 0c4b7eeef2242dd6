"""Predictors on the same episodes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.metrics.errors import half_squared_error
from zoo.predictor import Predictor


@torch.no_grad()
def errors_at_every_position(
    predictors: Mapping[str, Predictor],
    x: Tensor,
    y: Tensor,
    target: Tensor,
    batch_size: int = 200,
) -> dict[str, Tensor]:
    """Half the squared error of each predictor, averaged over output coordinates.

    Args:
        predictors: By the name they get in the result.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        target: (num_episodes, length, d_y).
        batch_size: Episodes at once; solvers hold (batch_size, length, d_x, d_x) in float64.

    Returns:
        (num_episodes, length) for each predictor; the last column is the error at the query.
    """
    return {
        name: torch.cat(
            [
                half_squared_error(predictor(x_part, y_part), target_part)
                for x_part, y_part, target_part in zip(
                    *(torch.split(part, batch_size) for part in (x, y, target)), strict=True
                )
            ]
        )
        for name, predictor in predictors.items()
    }
