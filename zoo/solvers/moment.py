"""Linear predictors that need of the examples only A = sum_i x_i x_i^T and B = sum_i x_i y_i^T."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.nonfinite import as_asked, without_unusable
from zoo.solvers.solver import EpisodeFacts, Grid, Solver
from zoo.solvers.theory import optimal_step_size
from zoo.solvers.tuning import log_grid


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


class MomentSolver(Solver):
    """A linear predictor y_hat = x W whose weights are a function of the moments.

    A subclass implements `weights`. Moments and weights are float64, predictions have the type of
    the inputs. After an example that cannot be used (`zoo.solvers.nonfinite`) the predictions of
    its episode are NaN; other episodes and earlier positions are as they would be without it.

    Attributes:
        forgetting: What is left of the sums when an example is added to them.
    """

    forgetting: float = 1.0

    def weights(self, moments: Moments) -> Tensor:
        """W from the moments of each context, which are finite.

        The weights of a context must not depend, to the last bit, on the others beside it. Vector
        code rounds by where in memory a matrix begins, so contexts are never picked out of a batch.

        Returns:
            (..., d_x, d_y), float64; the prediction for x is x W, NaN where it cannot be trusted.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return self._prefixes_from(0, x, y)

    def _prefixes_from(self, first: int, x: Tensor, y: Tensor) -> Tensor:
        """`forward(x, y)[:, first:]`."""
        start = self._moments(x[:, :first], y[:, :first])
        later_x, later_y, undefined = without_unusable(x[:, first:-1], y[:, first:-1])
        moments = Moments(
            self._prefix_sums(start.A, later_x[..., :, None] * later_x[..., None, :]),
            self._prefix_sums(start.B, later_x[..., :, None] * later_y[..., None, :]),
            self._prefix_sums(start.y_squares, later_y.square().sum(-1)),
            torch.arange(first, x.shape[1], dtype=torch.float64, device=x.device),
        )
        W = self._weights_where_finite(moments)  # (batch, N + 1 - first, d_x, d_y)
        W = W.masked_fill(undefined[..., None, None], torch.nan)
        return as_asked(torch.einsum("bip,bipq->biq", x[:, first:].double(), W), x[:, first:])

    def _prefix_sums(self, start: Tensor, terms: Tensor) -> Tensor:
        """`start` (batch, ...) plus the first 0, ..., n of the terms (batch, n, ...)."""
        if self.forgetting == 1:
            return torch.cat([start[:, None], terms], dim=1).cumsum(1)
        sums = [start]
        for term in terms.unbind(1):
            sums.append(self.forgetting * sums[-1] + term)
        return torch.stack(sums, dim=1)

    def _moments(self, x: Tensor, y: Tensor) -> Moments:
        """Moments of all the given examples, (batch, ...); NaN if one cannot be used."""
        x, y, undefined = without_unusable(x, y)
        age = torch.arange(x.shape[1] - 1, -1, -1, dtype=x.dtype, device=x.device)
        weighted = self.forgetting ** age[:, None] * x
        moments = Moments(
            weighted.mT @ x,
            weighted.mT @ y,
            (self.forgetting**age * y.square().sum(-1)).sum(1),
            torch.tensor(float(x.shape[1]), dtype=x.dtype, device=x.device),
        )
        A = moments.A.masked_fill(undefined[:, -1, None, None], torch.nan)
        return moments._replace(A=A)

    def _weights_where_finite(self, moments: Moments) -> Tensor:
        """`weights`, and NaN where the moments are not finite, which factorizations refuse."""
        A, B, y_squares, num_seen = moments
        if A.is_meta:  # shapes alone: algorithms look at numbers to decide when they are done
            return torch.empty_like(B)
        finite = A.isfinite().all(-1).all(-1) & B.isfinite().all(-1).all(-1) & y_squares.isfinite()
        where = finite[..., None, None]
        A, B = torch.where(where, A, 0.0), torch.where(where, B, 0.0)
        W = self.weights(Moments(A, B, torch.where(finite, y_squares, 0.0), num_seen))
        return torch.where(where, W, torch.nan)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        W = self._weights_where_finite(self._moments(x[:, :-1], y[:, :-1]))
        return as_asked(torch.einsum("bp,bpq->bq", x[:, -1].double(), W), x[:, -1])

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Moments:
        device, _ = self.state_options(batch_size, device, dtype)
        A = torch.zeros(batch_size, self.d_x, self.d_x, device=device, dtype=torch.float64)
        return Moments(
            A, A.new_zeros(batch_size, self.d_x, self.d_y), A.new_zeros(batch_size), A.new_zeros(())
        )

    def observe(self, state: Moments, x: Tensor, y: Tensor) -> Moments:
        self.check_pairs(x, y, state)
        new = self._moments(x, y)
        left = self.forgetting ** x.shape[1]
        return Moments(
            left * state.A + new.A,
            left * state.B + new.B,
            left * state.y_squares + new.y_squares,
            state.num_seen + new.num_seen,
        )

    def predict(self, state: Moments, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        return as_asked(x_query.double() @ self._weights_where_finite(state), x_query)

    def state_size(self, num_context: int) -> int:
        return self.d_x * (self.d_x + self.d_y)


@register_solver("zero", PredictorConfig)
class Zero(MomentSolver):
    """Predicts zero: what an untrained model does, and the scale that other errors are seen on."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return not facts.labels_hidden

    def weights(self, moments: Moments) -> Tensor:
        return torch.zeros_like(moments.B)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        *_, undefined = without_unusable(x[:, :-1], y[:, :-1])
        return as_asked(torch.zeros_like(y).masked_fill(undefined[..., None], torch.nan), x)

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
        context_x, context_y, undefined = without_unusable(x[:, :-1], y[:, :-1])
        prediction = torch.zeros_like(y, dtype=torch.float64)
        for step_size in self.step_sizes:
            products = step_size * (v @ context_x.mT).tril(-1)  # (batch, N + 1, N)
            prediction = prediction + products @ context_y
            v = v - products @ context_x
        return as_asked(prediction.masked_fill(undefined[..., None], torch.nan), x)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        """The last row of `forward`, by the same recursion."""
        self.check_pairs(x, y)
        v = x[:, -1:].double()  # (batch, 1, d_x)
        context_x, context_y, undefined = without_unusable(x[:, :-1], y[:, :-1])
        prediction = torch.zeros(len(x), 1, self.d_y, dtype=torch.float64, device=x.device)
        for step_size in self.step_sizes:
            products = step_size * (v @ context_x.mT)  # (batch, 1, N)
            prediction = prediction + products @ context_y
            v = v - products @ context_x
        return as_asked(prediction[:, 0].masked_fill(undefined[:, -1:], torch.nan), x[:, -1])


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

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The best size of one step, by the closed form; several are fitted."""
        # Where no example says anything of the query the best step is none at all.
        if facts.linear is None or facts.linear.rho == 0 or given.get("num_steps", 1) != 1:
            return {}
        return {"step_size": optimal_step_size(facts.linear)}

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {"step_size": log_grid(0.02, 5.0, 25, facts.step_of_sum)}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.1, "num_steps": 3}


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

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_sizes": [0.1, 0.05]}
