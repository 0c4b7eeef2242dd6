"""Algorithms that need of the examples only A = sum_i x_i x_i^T and B = sum_i x_i y_i^T."""

from typing import NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.predictor import Predictor
from zoo.registry import PredictorConfig, register_solver

# A singular value of the inputs below this fraction of the largest counts as zero: what float64
# moments can still tell from rounding.
RELATIVE_RANK_TOLERANCE = 1e-6


class MomentState(NamedTuple):
    """The moments of the examples seen so far, in float64.

    Attributes:
        A: sum_i x_i x_i^T, (batch, d_x, d_x).
        B: sum_i x_i y_i^T, (batch, d_x, d_y).
        num_seen: Number of examples.
    """

    A: Tensor
    B: Tensor
    num_seen: int


class MomentSolver(Predictor):
    """A linear predictor y_hat = x W whose weights are a function of the moments.

    A subclass implements `weights`. Moments and weights are float64, predictions have the type of
    the inputs.
    """

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        """W from the moments of each context.

        Args:
            A: (..., d_x, d_x), float64.
            B: (..., d_x, d_y), float64.

        Returns:
            (..., d_x, d_y); the prediction for x is x W.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        context_x, context_y = x[:, :-1].double(), y[:, :-1].double()
        A = context_x[..., :, None] * context_x[..., None, :]  # (batch, N, d_x, d_x)
        B = context_x[..., :, None] * context_y[..., None, :]  # (batch, N, d_x, d_y)
        W = self.weights(_prefix_sums(A), _prefix_sums(B))  # (batch, N + 1, d_x, d_y)
        return torch.einsum("bip,bipq->biq", x.double(), W).to(x.dtype)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        A, B = _moments(x[:, :-1], y[:, :-1])
        return torch.einsum("bp,bpq->bq", x[:, -1].double(), self.weights(A, B)).to(x.dtype)

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MomentState:
        A = torch.zeros(batch_size, self.d_x, self.d_x, device=device, dtype=torch.float64)
        return MomentState(A, A.new_zeros(batch_size, self.d_x, self.d_y), 0)

    def observe(self, state: MomentState, x: Tensor, y: Tensor) -> MomentState:
        self.check_pairs(x, y)
        A, B = _moments(x, y)
        return MomentState(state.A + A, state.B + B, state.num_seen + x.shape[1])

    def predict(self, state: MomentState, x_query: Tensor) -> Tensor:
        self.check_queries(x_query)
        return (x_query.double() @ self.weights(state.A, state.B)).to(x_query.dtype)

    def state_size(self, num_context: int) -> int:
        return self.d_x * (self.d_x + self.d_y)


@register_solver("zero", PredictorConfig)
class Zero(MomentSolver):
    """Predicts zero: what an untrained model does, and the scale that other errors are seen on."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        return torch.zeros_like(B)

    def state_size(self, num_context: int) -> int:
        return 0


class GradientDescentConfig(PredictorConfig):
    """Arguments of `gradient_descent`, explained at `GradientDescent`."""

    step_size: PositiveFloat
    num_steps: NonNegativeInt = 1


@register_solver("gradient_descent", GradientDescentConfig)
class GradientDescent(MomentSolver):
    """W_j = W_{j-1} - eta (A W_{j-1} - B), j = 1..num_steps, from W_0 = 0.

    A W - B is the gradient of 1/2 sum_i |x_i W - y_i|^2. The step size eta (`step_size`) multiplies
    this sum, not a mean, and is one number for all prefixes. The best one for one step is
    `zoo.solvers.theory.optimal_step_size`.
    """

    def __init__(self, config: GradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.num_steps = config.num_steps

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        W = torch.zeros_like(B)
        for _ in range(self.num_steps):
            W = W - self.step_size * (A @ W - B)
        return W


@register_solver("least_squares", PredictorConfig)
class LeastSquares(MomentSolver):
    """The W of minimum norm among those that minimise sum_i |x_i W - y_i|^2: W = A^+ B.

    By Cholesky factors where A is safely invertible, else by eigenvectors of A, where directions
    with less than 1e-6 of the largest singular value of the inputs are left out.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        L, info = torch.linalg.cholesky_ex(A)
        pivots = torch.diagonal(L, dim1=-2, dim2=-1)
        safe = (info == 0) & (
            pivots.amin(-1) > 10 * RELATIVE_RANK_TOLERANCE * pivots.amax(-1)
        )  # (...)
        W = torch.zeros_like(B)
        W[safe] = torch.cholesky_solve(B[safe], L[safe])
        singular = ~safe
        inverse = torch.linalg.pinv(A[singular], rtol=RELATIVE_RANK_TOLERANCE**2, hermitian=True)
        W[singular] = inverse @ B[singular]
        return W


class RidgeConfig(PredictorConfig):
    """Arguments of `ridge`, explained at `Ridge`."""

    penalty: PositiveFloat


@register_solver("ridge", RidgeConfig)
class Ridge(MomentSolver):
    """W = (A + lambda I)^-1 B.

    With lambda (`penalty`) = sigma^2 / tau^2 this is the posterior mean, and so the best of all
    predictors, for gaussian weights of variance tau^2 and gaussian label noise of variance sigma^2.
    """

    def __init__(self, config: RidgeConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.penalty = config.penalty

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        shift = self.penalty * torch.eye(self.d_x, dtype=A.dtype, device=A.device)
        return torch.cholesky_solve(B, torch.linalg.cholesky(A + shift))


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A (batch, d_x, d_x) and B (batch, d_x, d_y) of all the given examples."""
    x_t = x.double().mT  # (batch, d_x, num_examples)
    return x_t @ x_t.mT, x_t @ y.double()


def _prefix_sums(terms: Tensor) -> Tensor:
    """Sums over the first 0, 1, ..., N examples, (batch, N + 1, ...)."""
    nothing = terms.new_zeros(terms.shape[0], 1, *terms.shape[2:])
    return torch.cat([nothing, terms], dim=1).cumsum(1)
