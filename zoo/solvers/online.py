"""Algorithms that take the examples one at a time."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.nonfinite import as_asked, without_unusable
from zoo.solvers.solver import EpisodeFacts, Grid, StreamingSolver
from zoo.solvers.theory import optimal_forgetting, optimal_step_size
from zoo.solvers.tuning import log_grid

Fraction = Annotated[float, Field(gt=0, le=1)]


class OnlineSolver(StreamingSolver):
    """A predictor with a state of constant size and a rule that updates it with one example.

    A subclass implements `start`, `update` and `answer`. The state is a NamedTuple of float64
    tensors and counts, predictions have the type of the inputs. The loop over examples is a Python
    loop; the episodes of a batch go through it together. After an example that cannot be used
    (`zoo.solvers.nonfinite`) the state and the predictions of its episode are NaN.
    """

    def update(self, state: Any, x: Tensor, y: Tensor) -> Any:
        """The state after one more example, x (batch, d_x) and y (batch, d_y), both float64."""
        raise NotImplementedError

    def answer(self, state: Any, x_query: Tensor) -> Tensor:
        """Predictions (batch, num_query, d_y) for x_query (batch, num_query, d_x), float64."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        queries = x.double()
        state = self.start(len(x), x.device)
        predictions = [self.answer(state, queries[:, :1])]
        for i in range(x.shape[1] - 1):
            state = self._after(state, x[:, i : i + 1], y[:, i : i + 1])
            predictions.append(self.answer(state, queries[:, i + 1 : i + 2]))
        return as_asked(torch.cat(predictions, dim=1), x)

    def observe(self, state: Any, x: Tensor, y: Tensor) -> Any:
        self.check_pairs(x, y, state)
        return self._after(state, x, y)

    def _after(self, state: Any, x: Tensor, y: Tensor) -> Any:
        x, y, undefined = without_unusable(x, y)
        for x_i, y_i, bad in zip(x.unbind(1), y.unbind(1), undefined[:, 1:].unbind(1), strict=True):
            updated = self.update(state, x_i, y_i)
            state = type(state)(*(_nan_where(bad, part) for part in updated))
        return state

    def predict(self, state: Any, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        return as_asked(self.answer(state, x_query.double()), x_query)


def _nan_where(bad: Tensor, part: Any) -> Any:
    """A tensor (batch, ...) of a state without the episodes that are bad; a count as it is."""
    if not isinstance(part, Tensor):
        return part
    return part.masked_fill(bad.view(-1, *[1] * (part.ndim - 1)), torch.nan)


class MeanState(NamedTuple):
    """The sum of the labels, (batch, d_y), and their number."""

    total: Tensor
    num_seen: int


@register_solver("mean", PredictorConfig)
class Mean(OnlineSolver):
    """The mean of the labels so far, whatever the input; zero before the first."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def start(self, batch_size: int, device: torch.device | str | None) -> MeanState:
        return MeanState(torch.zeros(batch_size, self.d_y, device=device, dtype=torch.float64), 0)

    def update(self, state: MeanState, x: Tensor, y: Tensor) -> MeanState:
        return MeanState(state.total + y, state.num_seen + 1)

    def answer(self, state: MeanState, x_query: Tensor) -> Tensor:
        mean = state.total / max(state.num_seen, 1)
        return mean[:, None].expand(-1, x_query.shape[1], -1)

    def state_size(self, num_context: int) -> int:
        return self.d_y


class WeightState(NamedTuple):
    """Weights of a linear predictor, (batch, d_x, d_y)."""

    W: Tensor


class LinearOnlineSolver(OnlineSolver):
    """An online solver whose prediction is x W, with W in its state and zero at the start."""

    def start(self, batch_size: int, device: torch.device | str | None) -> Any:
        return WeightState(self.zero_weights(batch_size, device))

    def answer(self, state: Any, x_query: Tensor) -> Tensor:
        prediction: Tensor = x_query @ state.W
        return prediction

    def state_size(self, num_context: int) -> int:
        return self.d_x * self.d_y

    def zero_weights(self, batch_size: int, device: torch.device | str | None) -> Tensor:
        """(batch_size, d_x, d_y), float64."""
        return torch.zeros(batch_size, self.d_x, self.d_y, device=device, dtype=torch.float64)


class MinibatchGradientDescentConfig(PredictorConfig):
    """Arguments of `minibatch_gradient_descent`, explained at `MinibatchGradientDescent`."""

    step_size: PositiveFloat
    window: PositiveInt


class WindowState(NamedTuple):
    """Weights at the start of the mini-batch, its gradient so far, (batch, d_x, d_y), and count."""

    W: Tensor
    gradient: Tensor
    num_in_window: int


@register_solver("minibatch_gradient_descent", MinibatchGradientDescentConfig)
class MinibatchGradientDescent(LinearOnlineSolver):
    """W_i = W_s - eta sum_(s < j <= i) x_j (x_j W_s - y_j)^T, s the last multiple of b before i.

    The mini-batches are b (`window`) examples each, in order. All gradients of a mini-batch are
    taken at the weights W_s at its start, and every prediction uses those of the mini-batch so far:
    the inner loop of TTT-linear (arXiv 2407.04620) with a constant rate. The step size eta
    (`step_size`) multiplies the sum over examples.
    """

    def __init__(self, config: MinibatchGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.window = config.window

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {"step_size": log_grid(0.02, 5.0, 25, facts.step_of_sum)}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.05, "window": 3}

    def start(self, batch_size: int, device: torch.device | str | None) -> WindowState:
        W = self.zero_weights(batch_size, device)
        return WindowState(W, W, 0)

    def update(self, state: WindowState, x: Tensor, y: Tensor) -> WindowState:
        gradient = state.gradient + outer(x, residual(state.W, x, y))
        if state.num_in_window + 1 < self.window:
            return WindowState(state.W, gradient, state.num_in_window + 1)
        return WindowState(state.W - self.step_size * gradient, torch.zeros_like(gradient), 0)

    def answer(self, state: WindowState, x_query: Tensor) -> Tensor:
        prediction: Tensor = x_query @ (state.W - self.step_size * state.gradient)
        return prediction

    def state_size(self, num_context: int) -> int:
        return 2 * self.d_x * self.d_y


class OnlineGradientDescentConfig(PredictorConfig):
    """Arguments of `online_gradient_descent`, explained at `OnlineGradientDescent`."""

    step_size: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    forgetting: Fraction = 1.0
    num_passes: PositiveInt = 1


class MomentumState(NamedTuple):
    """Weights and velocity, (batch, d_x, d_y)."""

    W: Tensor
    V: Tensor


@register_solver("online_gradient_descent", OnlineGradientDescentConfig)
class OnlineGradientDescent(LinearOnlineSolver):
    """W <- alpha W, then V <- mu V - eta x_i (x_i W - y_i)^T, W <- W + V, for every example.

    The forgetting alpha comes first, so that the error is that of the decayed weights; the second
    step is taken `num_passes` times before the next example comes. mu is the momentum.

    With mu = 0, alpha = 1 and one pass this is the least mean squares rule, and the delta rule of
    DeltaNet (arXiv 2406.06484) with a constant gain; with alpha below 1 that of Gated DeltaNet
    (arXiv 2412.06464); with n passes that of DeltaProduct (arXiv 2502.10297) whose n keys are the
    same. Without momentum n passes are one of step size (1 - (1 - eta |x|^2)^n) / |x|^2.
    """

    def __init__(self, config: OnlineGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.momentum = config.momentum
        self.forgetting = config.forgetting
        self.num_passes = config.num_passes

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        grid: Grid = {"step_size": log_grid(0.02, 5.0, 25, facts.step_of_example)}
        if facts.rho is not None:
            grid["forgetting"] = (0.5, 0.6, 0.7, 0.8, 0.85, *(0.88 + 0.02 * i for i in range(7)))
        return grid

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.05, "momentum": 0.3, "forgetting": 0.9, "num_passes": 2}

    def start(self, batch_size: int, device: torch.device | str | None) -> MomentumState:
        W = self.zero_weights(batch_size, device)
        return MomentumState(W, W)

    def update(self, state: MomentumState, x: Tensor, y: Tensor) -> MomentumState:
        W, V = self.forgetting * state.W, state.V
        for _ in range(self.num_passes):
            V = self.momentum * V - self.step_size * outer(x, residual(W, x, y))
            W = W + V
        return MomentumState(W, V)

    def state_size(self, num_context: int) -> int:
        return (2 if self.momentum else 1) * self.d_x * self.d_y


class WeightedGradientDescentConfig(PredictorConfig):
    """Arguments of `weighted_gradient_descent`, explained at `WeightedGradientDescent`."""

    step_size: PositiveFloat
    forgetting: Fraction


@register_solver("weighted_gradient_descent", WeightedGradientDescentConfig)
class WeightedGradientDescent(LinearOnlineSolver):
    """W_i = lambda W_(i-1) + eta x_i y_i^T: one step of gradient descent from zero that forgets.

    After i examples W = eta sum_j lambda^(i-j) x_j y_j^T, a step of size eta (`step_size`) on the
    squares weighted by powers of lambda (`forgetting`). It is what a GD-SSM layer computes whose
    decay is lambda in every entry. The best of both under drift: `zoo.solvers.theory`.
    """

    def __init__(self, config: WeightedGradientDescentConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size
        self.forgetting = config.forgetting

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The best forgetting and the size of step that is best for it, by the closed form."""
        if facts.linear is None or facts.linear.rho == 0 or "step_size" in given:
            return {}
        forgetting = given.get("forgetting")
        if not isinstance(forgetting, int | float):  # the config refuses what is no number
            forgetting = optimal_forgetting(facts.linear)
        step_size = optimal_step_size(facts.linear, forgetting)
        return {"step_size": step_size, "forgetting": forgetting}

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {
            "step_size": log_grid(0.1, 20.0, 31, facts.step_of_sum),
            "forgetting": tuple(0.5 + 0.02 * i for i in range(26)),
        }

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.rho is not None

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.1, "forgetting": 0.9}

    def update(self, state: WeightState, x: Tensor, y: Tensor) -> WeightState:
        return WeightState(self.forgetting * state.W + self.step_size * outer(x, y))


class NormalizedLMSConfig(PredictorConfig):
    """Arguments of `normalized_lms`, explained at `NormalizedLMS`."""

    step_size: Annotated[float, Field(gt=0, lt=2)] = 1.0


@register_solver("normalized_lms", NormalizedLMSConfig)
class NormalizedLMS(LinearOnlineSolver):
    """W_i = W_(i-1) - beta x_i (x_i W_(i-1) - y_i)^T / |x_i|^2 (Kaczmarz; Widrow and Hoff, 1960).

    With beta (`step_size`) = 1 the new weights fit the newest example exactly: the delta rule on
    keys of unit length. An input of zero changes nothing.
    """

    def __init__(self, config: NormalizedLMSConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size

    def update(self, state: WeightState, x: Tensor, y: Tensor) -> WeightState:
        gain = self.step_size * quotient(x, x.square().sum(-1, keepdim=True))
        return WeightState(state.W - outer(gain, residual(state.W, x, y)))


class LonghornConfig(PredictorConfig):
    """Arguments of `longhorn`, explained at `Longhorn`."""

    step_size: PositiveFloat


@register_solver("longhorn", LonghornConfig)
class Longhorn(LinearOnlineSolver):
    """W_i = W_(i-1) - beta / (1 + beta |x_i|^2) x_i (x_i W_(i-1) - y_i)^T (arXiv 2407.14207).

    The implicit online step: W_i minimises |W - W_(i-1)|^2 + beta |x_i W - y_i|^2, so that any
    beta (`step_size`) is stable.
    """

    def __init__(self, config: LonghornConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.step_size = config.step_size

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        return {"step_size": log_grid(0.1, 1e4, 21, facts.step_of_example)}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"step_size": 0.5}

    def update(self, state: WeightState, x: Tensor, y: Tensor) -> WeightState:
        gain = self.step_size * x / (1 + self.step_size * x.square().sum(-1, keepdim=True))
        return WeightState(state.W - outer(gain, residual(state.W, x, y)))


def residual(W: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x W - y, (batch, d_y)."""
    return torch.einsum("bp,bpq->bq", x, W) - y


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of each episode: (batch, p, q) from (batch, p) and (batch, q)."""
    return a[:, :, None] * b[:, None, :]


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient, and zero where the denominator is zero."""
    nothing = denominator == 0
    return torch.where(nothing, 0.0, numerator / denominator.masked_fill(nothing, 1.0))
