"""Linear predictors that need of the examples only A = sum_i x_i x_i^T and B = sum_i x_i y_i^T."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.predictor import Predictor
from zoo.registry import PredictorConfig, register_solver


class Moments(NamedTuple):
    """Sums over the examples of one or many contexts, in float64; the streaming state.

    Attributes:
        A: sum_i x_i x_i^T, (..., d_x, d_x).
        B: sum_i x_i y_i^T, (..., d_x, d_y).
        y_squares: sum_i |y_i|^2, (...).
        num_seen: Number of examples, in a shape that broadcasts with (...).
    """

    A: Tensor
    B: Tensor
    y_squares: Tensor
    num_seen: Tensor


class MomentSolver(Predictor):
    """A linear predictor y_hat = x W whose weights are a function of the moments.

    A subclass implements `weights`. Moments and weights are float64, predictions have the type of
    the inputs. After an example that holds NaN or infinity the predictions of its episode are NaN;
    other episodes and earlier positions are as they would be without it.
    """

    def weights(self, moments: Moments) -> Tensor:
        """W from the moments of each context, which are finite.

        Returns:
            (..., d_x, d_y), float64; the prediction for x is x W.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return self._prefixes_from(0, x, y)

    def _prefixes_from(self, first: int, x: Tensor, y: Tensor) -> Tensor:
        """`forward(x, y)[:, first:]`."""
        start = _moments(x[:, :first], y[:, :first])
        later_x, later_y = x[:, first:-1].double(), y[:, first:-1].double()
        moments = Moments(
            _prefix_sums(start.A, later_x[..., :, None] * later_x[..., None, :]),
            _prefix_sums(start.B, later_x[..., :, None] * later_y[..., None, :]),
            _prefix_sums(start.y_squares, later_y.square().sum(-1)),
            torch.arange(first, x.shape[1], dtype=torch.float64, device=x.device),
        )
        W = self._weights_where_finite(moments)  # (batch, N + 1 - first, d_x, d_y)
        return torch.einsum("bip,bipq->biq", x[:, first:].double(), W).to(x.dtype)

    def _weights_where_finite(self, moments: Moments) -> Tensor:
        """`weights`, and NaN where the moments are not finite, which factorizations refuse."""
        A, B, y_squares, num_seen = moments
        finite = A.isfinite().all(-1).all(-1) & B.isfinite().all(-1).all(-1) & y_squares.isfinite()
        where = finite[..., None, None]
        A, B = torch.where(where, A, 0.0), torch.where(where, B, 0.0)
        W = self.weights(Moments(A, B, torch.where(finite, y_squares, 0.0), num_seen))
        return torch.where(where, W, torch.nan)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        W = self._weights_where_finite(_moments(x[:, :-1], y[:, :-1]))
        return torch.einsum("bp,bpq->bq", x[:, -1].double(), W).to(x.dtype)

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Moments:
        A = torch.zeros(batch_size, self.d_x, self.d_x, device=device, dtype=torch.float64)
        return Moments(
            A, A.new_zeros(batch_size, self.d_x, self.d_y), A.new_zeros(batch_size), A.new_zeros(())
        )

    def observe(self, state: Moments, x: Tensor, y: Tensor) -> Moments:
        self.check_pairs(x, y, state)
        return Moments(*(old + new for old, new in zip(state, _moments(x, y), strict=True)))

    def predict(self, state: Moments, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        return (x_query.double() @ self._weights_where_finite(state)).to(x_query.dtype)

    def state_size(self, num_context: int) -> int:
        return self.d_x * (self.d_x + self.d_y)


@register_solver("zero", PredictorConfig)
class Zero(MomentSolver):
    """Predicts zero: what an untrained model does, and the scale that other errors are seen on."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, moments: Moments) -> Tensor:
        return torch.zeros_like(moments.B)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return torch.zeros_like(y, dtype=x.dtype)

    def state_size(self, num_context: int) -> int:
        return 0


@register_solver("averaging", PredictorConfig)
class Averaging(MomentSolver):
    """W = X^T Y / i after i examples (Garg et al., arXiv 2208.01066).

    A gradient step from zero weights whose size shrinks with the number of examples; consistent
    for inputs of identity covariance.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, moments: Moments) -> Tensor:
        return moments.B / moments.num_seen.clamp(min=1)[..., None, None]

    def state_size(self, num_context: int) -> int:
        return self.d_x * self.d_y


class GradientDescentConfig(PredictorConfig):
    """Arguments of `gradient_descent`, explained at `GradientDescent`."""

    step_size: PositiveFloat
    num_steps: NonNegativeInt = 1


class _Descent(MomentSolver):
    """W_j = W_(j-1) - eta_j (A W_(j-1) - B) from W_0 = 0, with eta_j = `step_sizes[j - 1]`."""

    step_sizes: tuple[float, ...]

    def weights(self, moments: Moments) -> Tensor:
        W = torch.zeros_like(moments.B)
        for step_size in self.step_sizes:
            W = W - step_size * (moments.A @ W - moments.B)
        return W

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """All prefixes without their moments.

        With W_0 = 0 and steps that commute, the prediction x W_k is the sum over j of
        eta_j v_j B, where v_1 = x and v_(j+1) = v_j - eta_j v_j A; v A and v B are sums over the
        examples so far, weighted by their products with v.
        """
        self.check_pairs(x, y)
        v = x.double()  # (batch, N + 1, d_x)
        context_x, context_y, undefined = without_nonfinite(v[:, :-1], y[:, :-1].double())
        prediction = torch.zeros_like(y, dtype=torch.float64)
        for step_size in self.step_sizes:
            products = step_size * (v @ context_x.mT).tril(-1)  # (batch, N + 1, N)
            prediction = prediction + products @ context_y
            v = v - products @ context_x
        return prediction.masked_fill(undefined[..., None], torch.nan).to(x.dtype)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        """The last row of `forward`, by the same recursion."""
        self.check_pairs(x, y)
        v = x[:, -1:].double()  # (batch, 1, d_x)
        context_x, context_y, undefined = without_nonfinite(x[:, :-1].double(), y[:, :-1].double())
        prediction = torch.zeros(len(x), 1, self.d_y, dtype=torch.float64, device=x.device)
        for step_size in self.step_sizes:
            products = step_size * (v @ context_x.mT)  # (batch, 1, N)
            prediction = prediction + products @ context_y
            v = v - products @ context_x
        return prediction[:, 0].masked_fill(undefined[:, -1:], torch.nan).to(x.dtype)


@register_solver("gradient_descent", GradientDescentConfig)
class GradientDescent(_Descent):
    """W_j = W_{j-1} - eta (A W_{j-1} - B), j = 1..num_steps, from W_0 = 0.

    A W - B is the gradient of 1/2 sum_i |x_i W - y_i|^2. The step size eta (`step_size`) multiplies
    this sum, not a mean, and is one number for all prefixes. The best one for one step is
    `zoo.solvers.theory.optimal_step_size`.
    """

    def __init__(self, config: GradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.num_steps = config.num_steps
        self.step_sizes = (config.step_size,) * config.num_steps


class ScheduledGradientDescentConfig(PredictorConfig):
    """Arguments of `scheduled_gradient_descent`, explained at `ScheduledGradientDescent`."""

    step_sizes: Annotated[tuple[PositiveFloat, ...], Field(strict=False)]


@register_solver("scheduled_gradient_descent", ScheduledGradientDescentConfig)
class ScheduledGradientDescent(_Descent):
    """Gradient descent with a step size of its own for every step.

    W_j = W_{j-1} - eta_j (A W_{j-1} - B) from W_0 = 0, with eta_j = `step_sizes[j - 1]`; each
    multiplies the gradient of the sum. Steps commute, so the order does not matter.
    `zoo.solvers.theory` gives those with the best guarantee, `chebyshev_step_sizes`, and those with
    the least mean error, `best_step_sizes`.
    """

    def __init__(self, config: ScheduledGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_sizes = config.step_sizes


def _moments(x: Tensor, y: Tensor) -> Moments:
    """Moments of all the given examples, (batch, ...)."""
    x_t, y = x.double().mT, y.double()  # (batch, d_x, num_examples)
    num_seen = torch.tensor(float(x.shape[1]), dtype=torch.float64, device=x.device)
    return Moments(x_t @ x_t.mT, x_t @ y, y.square().sum((1, 2)), num_seen)


def _prefix_sums(start: Tensor, terms: Tensor) -> Tensor:
    """`start` (batch, ...) plus the first 0, ..., n of the terms (batch, n, ...), side by side."""
    return torch.cat([start[:, None], terms], dim=1).cumsum(1)


def without_nonfinite(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sets examples that hold NaN or infinity to zero, and says which positions come after one.

    Args:
        x: Inputs of the context, (batch, N, d_x).
        y: Labels of the context, (batch, N, d_y).

    Returns:
        x, y, and (batch, N + 1) bool.
    """
    bad = ~(x.isfinite().all(-1) & y.isfinite().all(-1))  # (batch, N)
    undefined = torch.cat([bad.new_zeros(len(bad), 1), bad], dim=1).cumsum(1) > 0
    return x.masked_fill(bad[..., None], 0.0), y.masked_fill(bad[..., None], 0.0), undefined
