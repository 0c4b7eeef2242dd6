"""Posterior means that are updated with one example at a time."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.nonfinite import as_asked, without_unusable
from zoo.solvers.online import (
    Fraction,
    LinearOnlineSolver,
    outer,
    quotient,
    residual,
)
from zoo.solvers.solver import EpisodeFacts, Grid, StreamingSolver
from zoo.solvers.tuning import log_grid

# Weights are NaN from the update on that may move them, by rounding, by more than this fraction of
# their size before and after it.
TRUSTED = 1e-4
# Log likelihoods of a pool that are worked on together: 16 MB.
NUMBERS_AT_ONCE = 2**21

_Row = Annotated[tuple[float, ...], Field(strict=False)]
_Matrix = Annotated[tuple[_Row, ...], Field(strict=False)]


class CovarianceState(NamedTuple):
    """Weights (batch, d_x, d_y), and S (batch, d_x, d_x): S^T S is the covariance of a column."""

    W: Tensor
    S: Tensor


class RecursiveLeastSquaresConfig(PredictorConfig):
    """Arguments of `recursive_least_squares`, explained at `RecursiveLeastSquares`."""

    penalty: PositiveFloat
    forgetting: Fraction = 1.0


@register_solver("recursive_least_squares", RecursiveLeastSquaresConfig)
class RecursiveLeastSquares(LinearOnlineSolver):
    """Minimises sum_j f^(i-j) |x_j W - y_j|^2 + f^i lambda |W|^2 after i examples, recursively.

    With P_0 = I / lambda: k = P x / (f + x P x), W <- W - k (x W - y)^T, P <- (P - k x^T P) / f,
    in terms of a square root of P, in which one large input does not cost the digits of others.

    Forgetting f = 1 is `ridge` with the same penalty lambda. With f below 1 the penalty is
    forgotten like an example; `ridge` with forgetting keeps it. P then grows as f^-i in directions
    that inputs no longer reach; once rounding would decide about W, predictions are NaN.
    """

    def __init__(self, config: RecursiveLeastSquaresConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.penalty = config.penalty
        self.forgetting = config.forgetting

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {
            "penalty": log_grid(1e-4, 1e2, 7, facts.input_variance),
            "forgetting": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 1.0),
        }

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.rho is not None

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"penalty": 0.5, "forgetting": 0.95}

    def start(self, batch_size: int, device: torch.device | str | None) -> CovarianceState:
        W = self.zero_weights(batch_size, device)
        eye = torch.eye(self.d_x, device=device, dtype=torch.float64)
        return CovarianceState(W, (self.penalty**-0.5 * eye).expand(batch_size, -1, -1))

    def update(self, state: CovarianceState, x: Tensor, y: Tensor) -> CovarianceState:
        return _condition(state.W, self.forgetting**-0.5 * state.S, x, y, noise=1.0)

    def state_size(self, num_context: int) -> int:
        return self.d_x * (self.d_x + self.d_y)


class KalmanFilterConfig(PredictorConfig):
    """Arguments of `kalman_filter`, explained at `KalmanFilter`."""

    transition: Annotated[float, Field(ge=0, le=1)]
    noise_variance: NonNegativeFloat
    weight_variance: PositiveFloat = 1.0


@register_solver("kalman_filter", KalmanFilterConfig)
class KalmanFilter(LinearOnlineSolver):
    """The posterior mean of weights that drift, and so the best predictor for them (Kalman, 1960).

    Model: w_i = rho w_(i-1) + sqrt(1 - rho^2) xi_i with w_1 and xi_i from N(0, s^2 I), and
    y_i = w_i . x_i plus noise of variance sigma^2; each coordinate of y has weights of its own.
    Between two examples the mean W and covariance P become rho W and rho^2 P + (1 - rho^2) s^2 I,
    an example is taken in by k = P x / (sigma^2 + x P x), W <- W - k (x W - y)^T,
    P <- P - k x^T P; in terms of a square root of P, in which one large input does not cost the
    digits of others. A query is asked after one more drift: the prediction is rho x W.

    rho is `transition`, sigma^2 `noise_variance`, s^2 `weight_variance`. With rho = 1 this is
    `ridge` with penalty sigma^2 / s^2.

    Raises:
        ValueError: For rho = 1 without noise, where P becomes singular: that is `least_squares`.
    """

    def __init__(self, config: KalmanFilterConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        if config.transition == 1 and config.noise_variance == 0:
            raise ValueError(
                "transition 1 needs a noise_variance above 0, got 0; without drift and noise the "
                "best predictor is least_squares"
            )
        self.transition = config.transition
        self.noise_variance = config.noise_variance
        self.weight_variance = config.weight_variance

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """Drift, noise and the variance of the weights, where all is as the filter assumes."""
        if not facts.clean or facts.weight_variance is None:
            return {}
        return {
            "transition": 1.0 if facts.rho is None else facts.rho,
            "noise_variance": facts.noise_variance,
            "weight_variance": facts.weight_variance,
        }

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        """Where weights drift as it assumes; without drift and noise that is least squares."""
        still = facts.rho == 1 and facts.noise_variance == 0
        return facts.rho is not None and facts.clean and not still

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"transition": 0.9, "noise_variance": 0.3}

    def start(self, batch_size: int, device: torch.device | str | None) -> CovarianceState:
        W = self.zero_weights(batch_size, device)
        eye = torch.eye(self.d_x, device=device, dtype=torch.float64)
        return CovarianceState(W, (self.weight_variance**0.5 * eye).expand(batch_size, -1, -1))

    def update(self, state: CovarianceState, x: Tensor, y: Tensor) -> CovarianceState:
        rho = self.transition
        W = rho * state.W
        drift = ((1 - rho**2) * self.weight_variance) ** 0.5
        eye = torch.eye(self.d_x, device=x.device, dtype=x.dtype).expand_as(state.S)
        S = torch.cat([rho * state.S, drift * eye], dim=1)  # (batch, 2 d_x, d_x)
        return _condition(W, S, x, y, self.noise_variance**0.5)

    def answer(self, state: CovarianceState, x_query: Tensor) -> Tensor:
        return self.transition * (x_query @ state.W)

    def state_size(self, num_context: int) -> int:
        return self.d_x * (self.d_x + self.d_y)


class DMMSEConfig(PredictorConfig):
    """Arguments of `dmmse`, explained at `DMMSE`."""

    pool: Annotated[tuple[_Matrix, ...], Field(strict=False, min_length=1)]
    noise_variance: PositiveFloat


class PoolState(NamedTuple):
    """Log likelihood of the examples under each member of the pool, (batch, num_members)."""

    log_likelihood: Tensor


@register_solver("dmmse", DMMSEConfig)
class DMMSE(StreamingSolver):
    """The posterior mean of weights drawn from a known pool (Raventos et al., arXiv 2306.15063).

    W = sum_j p_j W_j with p_j proportional to exp(-sum_i |x_i W_j - y_i|^2 / (2 sigma^2)), the best
    predictor for weights drawn uniformly from the `pool` of matrices W_j (d_x, d_y) and label noise
    of variance sigma^2 (`noise_variance`). Before the first example W is the mean of the pool.
    Rounding moves the exponents by some 1e-16 sum_i |x_i|^2 |W_j|^2 / sigma^2.

    Raises:
        ValueError: If a member of the pool is not (d_x, d_y).
    """

    pool: Tensor

    def __init__(self, config: DMMSEConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        for j, member in enumerate(config.pool):
            if [len(row) for row in member] != [config.d_y] * config.d_x:
                raise ValueError(
                    f"each member of the pool must be {config.d_x} rows of {config.d_y} numbers, "
                    f"got rows of {[len(row) for row in member]} in member {j}"
                )
        self.noise_variance = config.noise_variance
        pool = torch.tensor(config.pool, dtype=torch.float64)
        self.register_buffer("pool", pool)

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The pool and the noise, where labels have no other fault than that noise."""
        if not facts.clean or "pool" not in facts.told:
            return {}
        return {"pool": facts.told["pool"].mT.tolist(), "noise_variance": facts.noise_variance}

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.clean and "pool" in facts.told and facts.noise_variance > 0

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        pool = torch.linspace(-1, 1, 5 * d_x * d_y).view(5, d_x, d_y).tolist()
        return {"pool": pool, "noise_variance": 0.5}

    def start(self, batch_size: int, device: torch.device | str | None) -> PoolState:
        return PoolState(
            torch.zeros(batch_size, len(self.pool), device=device, dtype=torch.float64)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        episodes = max(1, NUMBERS_AT_ONCE // (x.shape[1] * len(self.pool)))
        parts = zip(x.split(episodes), y.split(episodes), strict=True)
        return as_asked(torch.cat([self._everywhere(*part) for part in parts]), x)

    def observe(self, state: PoolState, x: Tensor, y: Tensor) -> PoolState:
        self.check_pairs(x, y, state)
        x, y, undefined = without_unusable(x, y)
        found = state.log_likelihood + self._log_likelihood(_squares_of(x, y).sum(1))
        return PoolState(found.masked_fill(undefined[:, -1:], torch.nan))

    def predict(self, state: PoolState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        W = self._mean(state.log_likelihood)
        return as_asked(x_query.double() @ W, x_query)

    def _everywhere(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions (batch, length, d_y) after 0, 1, ... examples."""
        told_x, told_y, undefined = without_unusable(x[:, :-1], y[:, :-1])
        sums = torch.nn.functional.pad(_squares_of(told_x, told_y).cumsum(1), (0, 0, 1, 0))
        W = self._mean(self._log_likelihood(sums))
        predictions = torch.einsum("blp,blpq->blq", x.double(), W)
        return predictions.masked_fill(undefined[..., None], torch.nan)

    def _log_likelihood(self, sums: Tensor) -> Tensor:
        """Of examples under each member, (..., num_members), from sums of `_squares_of`.

        sum_i |x_i W - y_i|^2 = <sum x x^T, W W^T> - 2 <sum x y^T, W> + sum |y|^2 is a product of
        matrices for all members: each example by itself would pass over the whole pool again.
        """
        pool = self.pool.double()
        ones = pool.new_ones(len(pool), 1)
        of_members = torch.cat([(pool @ pool.mT).flatten(1), -2 * pool.flatten(1), ones], dim=1)
        return (sums @ (of_members / (-2 * self.noise_variance)).mT).clamp(max=0.0)

    def _mean(self, log_likelihood: Tensor) -> Tensor:
        """Posterior means (..., d_x, d_y)."""
        means = log_likelihood.softmax(-1) @ self.pool.double().flatten(1)
        return means.view(*means.shape[:-1], self.d_x, self.d_y)

    def state_size(self, num_context: int) -> int:
        return len(self.pool)


def _squares_of(x: Tensor, y: Tensor) -> Tensor:
    """Of each example all of x x^T, x y^T and |y|^2, (batch, N, d_x^2 + d_x d_y + 1)."""
    parts = [
        (x[..., :, None] * x[..., None, :]).flatten(2),
        (x[..., :, None] * y[..., None, :]).flatten(2),
        y.square().sum(-1, keepdim=True),
    ]
    return torch.cat(parts, dim=-1)


def _condition(W: Tensor, S: Tensor, x: Tensor, y: Tensor, noise: float) -> CovarianceState:
    """Gaussian weights given one more example, whose label has noise of that standard deviation.

    The joint covariance of label and weights is M^T M for M = [[noise, 0], [S x, S]], and for the
    triangular factor R of M = Q R: its first row is the deviation of the label and what of each
    weight goes with it, and S below are the weights given the label. Rounding moves the gain by
    some 1e-16 |S|^2 |x| / variance.

    Args:
        W: Mean, (batch, d_x, d_y).
        S: (batch, n, d_x) with n at least d_x; the covariance is S^T S.
        x: (batch, d_x).
        y: (batch, d_y).
        noise: Standard deviation.
    """
    rows = torch.cat([S @ x[:, :, None], S], dim=2)
    first = torch.zeros_like(rows[:, :1])
    first[:, :, 0] = noise
    R = torch.linalg.qr(torch.cat([first, rows], dim=1)).R  # (batch, 1 + d_x, 1 + d_x)
    gain = quotient(R[:, 0, 1:], R[:, 0, :1])
    error = residual(W, x, y)
    new = W - outer(gain, error)
    # Examples that contradict each other bring weights to zero: those before count as well.
    size = W.flatten(1).norm(dim=1) + new.flatten(1).norm(dim=1)
    rounding = torch.finfo(W.dtype).eps * S.square().sum((1, 2)) * x.norm(dim=1) * error.norm(dim=1)
    lost = rounding > TRUSTED * R[:, 0, 0].square() * size
    return CovarianceState(new.masked_fill(lost[:, None, None], torch.nan), R[:, 1:, 1:])
