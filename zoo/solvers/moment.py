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
        return self._prefixes_from(0, x, y)

    def _prefixes_from(self, first: int, x: Tensor, y: Tensor) -> Tensor:
        """`forward(x, y)[:, first:]`."""
        A, B = _moments(x[:, :first], y[:, :first])
        later_x, later_y = x[:, first:-1].double(), y[:, first:-1].double()
        A = _prefix_sums(A, later_x[..., :, None] * later_x[..., None, :])
        B = _prefix_sums(B, later_x[..., :, None] * later_y[..., None, :])
        W = self.weights(A, B)  # (batch, N + 1 - first, d_x, d_y)
        return torch.einsum("bip,bipq->biq", x[:, first:].double(), W).to(x.dtype)

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

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return torch.zeros_like(y, dtype=x.dtype)

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

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """All prefixes without their moments.

        With W_0 = 0 and steps that commute, the prediction x W_k is the sum over j of
        eta v_j B, where v_0 = x and v_(j+1) = v_j - eta v_j A; v A and v B are sums over the
        examples so far, weighted by their products with v.
        """
        self.check_pairs(x, y)
        v = x.double()  # (batch, N + 1, d_x)
        context_x, context_y = v[:, :-1], y[:, :-1].double()
        prediction = torch.zeros_like(y, dtype=torch.float64)
        for _ in range(self.num_steps):
            products = self.step_size * (v @ context_x.mT).tril(-1)  # (batch, N + 1, N)
            prediction = prediction + products @ context_y
            v = v - products @ context_x
        return prediction.to(x.dtype)


@register_solver("least_squares", PredictorConfig)
class LeastSquares(MomentSolver):
    """The W of minimum norm among those that minimise sum_i |x_i W - y_i|^2: W = A^+ B.

    By Cholesky factors where they are safe: of A or, with fewer examples than coordinates, of the
    inner products of the inputs. Else by eigenvectors of A, where directions with less than 1e-6 of
    the largest singular value of the inputs are left out.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, A: Tensor, B: Tensor) -> Tensor:
        L, safe = _safe_cholesky(A)
        W = torch.zeros_like(B)
        W[safe] = torch.cholesky_solve(B[safe], L[safe])
        singular = ~safe
        inverse = torch.linalg.pinv(A[singular], rtol=RELATIVE_RANK_TOLERANCE**2, hermitian=True)
        W[singular] = inverse @ B[singular]
        return W

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        num_dual = min(x.shape[1] - 1, self.d_x)
        prediction = torch.empty_like(y, dtype=x.dtype)
        dual, safe = self._dual_prefixes(x[:, : num_dual + 1], y[:, :num_dual])
        prediction[:, : num_dual + 1] = dual.to(x.dtype)
        if num_dual < x.shape[1] - 1:
            prediction[:, num_dual + 1 :] = self._prefixes_from(num_dual + 1, x, y)
        unsafe = ~safe
        prediction[unsafe] = super().forward(x[unsafe], y[unsafe])
        return prediction

    def _dual_prefixes(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions for n + 1 inputs from the n <= d_x labels before them.

        W_i = X_i^T (X_i X_i^T)^-1 Y_i, and the Cholesky factors of all X_i X_i^T are the leading
        blocks of one, L. With Z = L^-1 X x^T and V = L^-1 Y, prediction i is
        sum_(t < i) Z[t, i] V[t].

        Returns:
            Predictions (batch, n + 1, d_y) in float64, and which episodes they are good for.
        """
        x = x.double()
        products = x[:, :-1] @ x.mT  # (batch, n, n + 1)
        L, safe = _safe_cholesky(products[..., :-1])
        Z = torch.linalg.solve_triangular(L, products, upper=False)
        V = torch.linalg.solve_triangular(L, y.double(), upper=False)
        return Z.triu(1).mT @ V, safe


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


def _safe_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors of (..., n, n), and for which of them (...) their pivots are far from zero.

    A factor that is not safe is replaced by the identity.
    """
    L, info = torch.linalg.cholesky_ex(A)
    if A.shape[-1] == 0:
        return L, info == 0
    pivots = torch.diagonal(L, dim1=-2, dim2=-1)
    safe = (info == 0) & (pivots.amin(-1) > 10 * RELATIVE_RANK_TOLERANCE * pivots.amax(-1))
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.where(safe[..., None, None], L, identity), safe


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A (batch, d_x, d_x) and B (batch, d_x, d_y) of all the given examples."""
    x_t = x.double().mT  # (batch, d_x, num_examples)
    return x_t @ x_t.mT, x_t @ y.double()


def _prefix_sums(start: Tensor, terms: Tensor) -> Tensor:
    """`start` (batch, ...) plus the first 0, ..., n of the terms (batch, n, ...), side by side."""
    return torch.cat([start[:, None], terms], dim=1).cumsum(1)
