"""Softmax regression: p = softmax(x W) over K classes, with one-hot labels y and K = d_y.

Both solvers descend sum_i (logsumexp(x_i W) - y_i . x_i W), the cross entropy of the examples. Its
gradient is sum_i x_i (p_i - y_i)^T. Predictions are logits.
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.memory import MemorySolver, seen_mask
from zoo.solvers.solver import EpisodeFacts, Grid
from zoo.solvers.tuning import log_grid

# Newton's method ends when no weight moves by more than this fraction of the largest; what is left
# of the error is of the order of its square.
STEP_TOLERANCE = 1e-7
MAX_NEWTON_STEPS = 100
MAX_HALVINGS = 40


class SoftmaxGradientDescentConfig(PredictorConfig):
    """Arguments of `softmax_gradient_descent`, explained at `SoftmaxGradientDescent`."""

    step_size: PositiveFloat
    num_steps: NonNegativeInt = 1


@register_solver("softmax_gradient_descent", SoftmaxGradientDescentConfig)
class SoftmaxGradientDescent(MemorySolver):
    """W_j = W_(j-1) - eta sum_i x_i (softmax(x_i W_(j-1)) - y_i)^T, j = 1..num_steps, W_0 = 0.

    The step size eta (`step_size`) multiplies the gradient of the sum. After one step the logits
    for a query q are eta sum_i (y_i - 1/K) (x_i . q).
    """

    output = "logits"

    def __init__(self, config: SoftmaxGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.num_steps = config.num_steps

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {"step_size": log_grid(0.1, 100.0, 25, facts.step_of_sum)}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.1, "num_steps": 3}

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        seen = seen_mask(num_seen, x.shape[1])[:, :, None]  # (num_prefixes, N, 1)
        x, y = x[:, None], y[:, None]  # (batch, 1, N, d)
        W = x.new_zeros(len(x), len(num_seen), self.d_x, self.d_y)
        for _ in range(self.num_steps):
            W = W - self.step_size * x.mT @ (seen * ((x @ W).softmax(-1) - y))
        return x_query @ W


class LogisticRegressionConfig(PredictorConfig):
    """Arguments of `logistic_regression`, explained at `LogisticRegression`."""

    penalty: PositiveFloat


@register_solver("logistic_regression", LogisticRegressionConfig)
class LogisticRegression(MemorySolver):
    """The minimum of the cross entropy summed over the examples plus lambda / 2 |W|^2.

    lambda is `penalty`; without it separable examples have no minimum. By Newton's method with
    halved steps where the objective does not fall, all contexts at once. Where it has not converged
    after 100 steps the prediction is NaN; labels that are not one-hot are the usual cause.
    """

    output = "logits"

    def __init__(self, config: LogisticRegressionConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.penalty = config.penalty

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {"penalty": log_grid(1e-2, 1e2, 9)}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"penalty": 0.5}

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        seen = seen_mask(num_seen, x.shape[1])[:, :, None].to(x.dtype)  # (num_prefixes, N, 1)
        x, y = x[:, None], y[:, None]  # (batch, 1, N, d)

        def objective(W: Tensor) -> Tensor:
            logits = x @ W
            losses = logits.logsumexp(-1, keepdim=True) - (y * logits).sum(-1, keepdim=True)
            penalty = self.penalty / 2 * W.square().sum((-2, -1))
            return penalty + (seen * losses).sum((-2, -1))

        W: Tensor = x.new_zeros(len(x), len(num_seen), self.d_x, self.d_y)
        settled = torch.zeros(W.shape[:2], dtype=torch.bool, device=x.device)
        for _ in range(MAX_NEWTON_STEPS):
            p = (x @ W).softmax(-1)  # (batch, num_prefixes, N, K)
            gradient = x.mT @ (seen * (p - y)) + self.penalty * W
            step = self._newton_step(x[:, 0], seen * p, p, gradient)
            new = _descend(objective, W, step, (gradient * step).sum((-2, -1)))
            # A context that has come to its end does not move while others go on.
            W = torch.where(settled[..., None, None], W, new)
            small = step.abs().amax((-2, -1)) <= STEP_TOLERANCE * W.abs().amax((-2, -1))
            settled = settled | small
            if settled.all():
                break
        return x_query @ W.masked_fill(~settled[..., None, None], torch.nan)

    def _newton_step(self, x: Tensor, weight: Tensor, p: Tensor, gradient: Tensor) -> Tensor:
        """H^-1 gradient, H = sum_i x_i x_i^T (x) (diag(p_i) - p_i p_i^T) + lambda I."""
        classes = torch.eye(self.d_y, dtype=x.dtype, device=x.device)
        same_class = torch.einsum("bip,bnik,biq->bnpqk", x, weight, x)
        H = torch.einsum("bnpqk,kl->bnpkql", same_class, classes)
        H = H.flatten(-2).flatten(-3, -2)  # (batch, num_prefixes, d_x K, d_x K)
        features = torch.einsum("bip,bnik->bnipk", x, p).flatten(-2)
        weighted = torch.einsum("bip,bnik->bnipk", x, weight).flatten(-2)
        H = H - weighted.mT @ features
        H = H + self.penalty * torch.eye(H.shape[-1], dtype=x.dtype, device=x.device)
        step: Tensor = torch.linalg.solve_ex(H, gradient.flatten(-2)[..., None]).result
        return step.view_as(gradient)


def _descend(
    objective: Callable[[Tensor], Tensor], W: Tensor, step: Tensor, slope: Tensor
) -> Tensor:
    """W - t step, with t = 1 halved until the objective falls in proportion to the slope."""
    start = objective(W)
    slack = 64 * torch.finfo(W.dtype).eps * start.abs()  # rounding, which is all that is left
    t = torch.ones_like(start)
    for _ in range(MAX_HALVINGS):
        new = W - t[..., None, None] * step
        too_high = objective(new) > start - 1e-4 * t * slope + slack
        if not too_high.any():
            break
        t = torch.where(too_high, t / 2, t)
    return new
