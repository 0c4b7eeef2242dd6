"""Descent on the moments with more than a step size: preconditioned, and GD++."""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.moment import Moments, MomentSolver
from zoo.solvers.solver import EpisodeFacts, Grid
from zoo.solvers.tuning import log_grid

_Row = Annotated[tuple[float, ...], Field(strict=False)]


class PreconditionedGradientDescentConfig(PredictorConfig):
    """Arguments of `preconditioned_gradient_descent`, explained at its class."""

    preconditioner: Annotated[tuple[_Row, ...], Field(strict=False)]
    num_steps: NonNegativeInt = 1


@register_solver("preconditioned_gradient_descent", PreconditionedGradientDescentConfig)
class PreconditionedGradientDescent(MomentSolver):
    """W_j = W_(j-1) - Gamma (A W_(j-1) - B), j = 1..num_steps, from W_0 = 0.

    Gamma (`preconditioner`), the rows of a (d_x, d_x) matrix, multiplies the gradient of the sum.
    Ahn et al. (arXiv 2306.00297) find one such step in a trained linear transformer; the best Gamma
    for one step on gaussian inputs is `zoo.solvers.theory.optimal_preconditioner`.

    Raises:
        ValueError: If `preconditioner` is not (d_x, d_x).
    """

    Gamma: Tensor

    def __init__(self, config: PreconditionedGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        widths = [len(row) for row in config.preconditioner]
        if widths != [config.d_x] * config.d_x:
            raise ValueError(
                f"preconditioner must be {config.d_x} rows of {config.d_x} numbers, "
                f"got rows of {widths}"
            )
        self.num_steps = config.num_steps
        Gamma = torch.tensor(config.preconditioner, dtype=torch.float64)
        self.register_buffer("Gamma", Gamma)

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        preconditioner = torch.linspace(-0.1, 0.2, d_x**2).view(d_x, d_x).tolist()
        return {"preconditioner": preconditioner, "num_steps": 2}

    def weights(self, moments: Moments) -> Tensor:
        Gamma = self.Gamma.double()
        W = torch.zeros_like(moments.B)
        for _ in range(self.num_steps):
            W = W - Gamma @ (moments.A @ W - moments.B)
        return W


class GradientDescentPlusPlusConfig(PredictorConfig):
    """Arguments of `gradient_descent_plus_plus`, explained at `GradientDescentPlusPlus`."""

    step_size: PositiveFloat
    gamma: NonNegativeFloat
    num_steps: NonNegativeInt = 1


@register_solver("gradient_descent_plus_plus", GradientDescentPlusPlusConfig)
class GradientDescentPlusPlus(MomentSolver):
    """GD++ (von Oswald et al., arXiv 2212.07677): every step moves inputs and labels at once.

    From the same old tokens a step takes off the labels, and off the prediction for the query, a
    gradient step of size eta (`step_size`), and replaces the inputs of examples and query by
    (I - gamma A) x, with A of the old inputs. With T_0 = I and
    T_j = T_(j-1) (I - gamma T_(j-1) A T_(j-1)), all of them polynomials in A, the weights for an
    untransformed query are

        W_j = W_(j-1) - eta T_(j-1)^2 (A W_(j-1) - B),  j = 1..num_steps,  from W_0 = 0.

    So one step is one of gradient descent. gamma and eta multiply sums over the examples; where the
    paper has gamma / N, divide by N.
    """

    def __init__(self, config: GradientDescentPlusPlusConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.gamma = config.gamma
        self.num_steps = config.num_steps

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {
            "step_size": log_grid(0.02, 5.0, 13, facts.step_of_sum),
            "gamma": (0.0, *log_grid(0.02, 2.0, 9, facts.step_of_sum)),
        }

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.1, "gamma": 0.02, "num_steps": 3}

    def weights(self, moments: Moments) -> Tensor:
        A, B = moments.A, moments.B
        T = torch.eye(self.d_x, dtype=A.dtype, device=A.device).expand_as(A)
        W = torch.zeros_like(B)
        for _ in range(self.num_steps):
            W = W - self.step_size * T @ (T @ (A @ W - B))
            T = T - self.gamma * T @ T @ A @ T
        return W
