"""Algorithms that go back to the examples themselves."""

from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.predictor import BufferState
from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.nonfinite import as_asked, usable, without_unusable
from zoo.solvers.solver import EpisodeFacts, Solver

# float64 numbers of one activation of the networks that `two_layer_network` trains together.
NUMBERS_IN_CACHE = 2**17


class MemorySolver(Solver):
    """A predictor whose state is the examples seen so far.

    A subclass implements `answer`, for many prefixes of a context at once. It computes in float64,
    predictions have the type of the inputs. After an example that cannot be used
    (`zoo.solvers.nonfinite`) the predictions of its episode are NaN.
    """

    def usable_inputs(self, x: Tensor) -> Tensor:
        """Which inputs (..., d_x), of float64, the algorithm can use; (...) bool."""
        return usable(x)

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        """Predictions for queries after some of the examples; all tensors are float64.

        Args:
            x: Inputs of the context, (batch, N, d_x), finite.
            y: Labels of the context, (batch, N, d_y), finite.
            num_seen: How many of the examples each prefix holds, (num_prefixes,), int64.
            x_query: (batch, num_prefixes, num_query, d_x).

        Returns:
            (batch, num_prefixes, num_query, d_y).
        """
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        num_seen = torch.arange(x.shape[1], device=x.device)
        return self._answer(x[:, :-1], y[:, :-1], num_seen, x[:, :, None])[:, :, 0]

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return self.predict(BufferState(x[:, :-1], y[:, :-1]), x[:, -1:])[:, 0]

    def predict(self, state: BufferState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        num_seen = torch.tensor([state.x.shape[1]], device=x_query.device)
        return self._answer(state.x, state.y, num_seen, x_query[:, None])[:, 0]

    def _answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        if x.is_meta:  # shapes alone: algorithms look at numbers to decide when they are done
            return x_query.new_empty(*x_query.shape[:-1], self.d_y)
        inputs, asked = x.double(), x_query.double()
        inputs = inputs.masked_fill(~self.usable_inputs(inputs)[..., None], torch.nan)
        inputs, labels, undefined = without_unusable(inputs, y)
        bad_query = ~self.usable_inputs(asked)[..., None]
        prediction = self.answer(inputs, labels, num_seen, asked.masked_fill(bad_query, 0.0))
        undefined = undefined[:, num_seen, None, None] | bad_query
        return as_asked(prediction.masked_fill(undefined, torch.nan), x_query)


def seen_mask(num_seen: Tensor, num_context: int) -> Tensor:
    """Which examples each prefix holds, (num_prefixes, num_context) bool."""
    return torch.arange(num_context, device=num_seen.device) < num_seen[:, None]


class KNNConfig(PredictorConfig):
    """Arguments of `knn`, explained at `KNN`."""

    k: PositiveInt = 3
    weighting: Literal["uniform", "inverse_distance"] = "uniform"


@register_solver("knn", KNNConfig)
class KNN(MemorySolver):
    """The mean label of the k examples nearest to the query (Garg et al., arXiv 2208.01066).

    Distances are euclidean; among equally near examples the earlier one counts. With fewer than k
    examples all of them count, without any the prediction is zero. With `weighting`
    "inverse_distance" an example at distance r has weight 1 / r; examples at distance zero, where
    there are any, have all the weight.
    """

    def __init__(self, config: KNNConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.k = config.k
        self.weighting = config.weighting

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.family in ("sine", "relu_network")

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        batch, num_prefixes, num_query, _ = x_query.shape
        # Not by inner products: an example at the query shall be at distance zero.
        distance = torch.cdist(
            x_query.flatten(1, 2), x, compute_mode="donot_use_mm_for_euclid_dist"
        ).view(batch, num_prefixes, num_query, x.shape[1])
        unseen = ~seen_mask(num_seen, x.shape[1])
        distance = distance.masked_fill(unseen[:, None], torch.inf)
        distance, nearest = distance.sort(dim=-1, stable=True)
        distance, nearest = distance[..., : self.k], nearest[..., : self.k]  # (..., k)
        weight = distance.isfinite().to(x.dtype)
        if self.weighting == "inverse_distance":
            exact = distance == 0
            inverse = 1 / distance.masked_fill(exact, 1.0)  # whose gradient at zero would be NaN
            weight = torch.where(exact.any(-1, keepdim=True), exact.to(x.dtype), inverse)
        episode = torch.arange(batch, device=x.device)[:, None, None, None]
        labels = y[episode, nearest]  # (batch, num_prefixes, num_query, k, d_y)
        total = torch.einsum("bpqk,bpqkm->bpqm", weight, labels)
        norm = weight.sum(-1, keepdim=True)
        return total / torch.where(norm > 0, norm, 1.0)


class TwoLayerNetworkConfig(PredictorConfig):
    """Arguments of `two_layer_network`, explained at `TwoLayerNetwork`."""

    width: PositiveInt = 100
    step_size: PositiveFloat = 5e-3
    num_steps: NonNegativeInt = 100
    seed: NonNegativeInt = 0


@register_solver("two_layer_network", TwoLayerNetworkConfig)
class TwoLayerNetwork(MemorySolver):
    """x -> relu(x W_1 + b_1) W_2 + b_2, trained on the examples (Garg et al., arXiv 2208.01066).

    `num_steps` steps of Adam with rate `step_size` on the mean over the examples of half the
    squared error, all examples in every step. Every prefix of every episode trains a network of its
    own from the same start, which `seed` draws: weights from U(-1, 1) / sqrt(fan-in), biases zero.
    Without examples the prediction is zero.
    """

    W_1: Tensor
    W_2: Tensor

    def __init__(self, config: TwoLayerNetworkConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.width = config.width
        self.step_size = config.step_size
        self.num_steps = config.num_steps
        generator = torch.Generator().manual_seed(config.seed)
        for name, (fan_in, fan_out) in {
            "W_1": (config.d_x, config.width),
            "W_2": (config.width, config.d_y),
        }.items():
            uniform = torch.rand(fan_in, fan_out, generator=generator, dtype=torch.float64)
            self.register_buffer(name, (2 * uniform - 1) / fan_in**0.5)

    # It stands beside no family, not even ReLU networks: it trains a network at every position of
    # every episode, which for 10,000 episodes of 21 positions takes nine minutes on one core.

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"width": 8, "num_steps": 10}

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        # Networks that train together stay in the processor's cache, which is most of the speed.
        episodes = max(1, NUMBERS_IN_CACHE // (len(num_seen) * (x.shape[1] + 4) * self.width))
        parts = (torch.split(part, episodes) for part in (x, y, x_query))
        return torch.cat(
            [self._train_and_answer(x_, y_, num_seen, q) for x_, y_, q in zip(*parts, strict=True)]
        )

    def _train_and_answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        x, y = x[:, None], y[:, None]  # (batch, 1, N, d)
        seen = seen_mask(num_seen, x.shape[2]).to(x.dtype)
        weight = (seen / num_seen.clamp(min=1)[:, None])[:, :, None]  # (num_prefixes, N, 1)
        starts = (
            self.W_1,
            self.W_1.new_zeros(1, self.width),
            self.W_2,
            self.W_2.new_zeros(1, self.d_y),
        )
        adam = _Adam(
            [start.double().expand(len(x), len(num_seen), *start.shape) for start in starts],
            self.step_size,
        )
        for _ in range(self.num_steps):
            W_1, b_1, W_2, b_2 = adam.parameters
            hidden = (x @ W_1 + b_1).relu()  # (batch, num_prefixes, N, width)
            error = weight * (hidden @ W_2 + b_2 - y)
            back = (error @ W_2.mT) * (hidden > 0)
            adam.step([x.mT @ back, back.sum(-2, True), hidden.mT @ error, error.sum(-2, True)])
        W_1, b_1, W_2, b_2 = adam.parameters
        prediction = (x_query @ W_1 + b_1).relu() @ W_2 + b_2
        return prediction * (num_seen > 0)[:, None, None]


class _Adam:
    """Adam with its usual constants for networks side by side, whose gradients are given."""

    def __init__(self, parameters: list[Tensor], step_size: float) -> None:
        self.parameters = parameters
        self.step_size = step_size
        self.num_steps = 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: list[Tensor]) -> None:
        self.num_steps += 1
        for i, gradient in enumerate(gradients):
            self.first[i] = self.first[i].lerp(gradient, 0.1)
            self.second[i] = self.second[i].lerp(gradient.square(), 0.001)
            first = self.first[i] / (1 - 0.9**self.num_steps)
            second = self.second[i] / (1 - 0.999**self.num_steps)
            moved = second > 0  # the gradient of the root of zero would be NaN
            root = torch.where(moved, torch.where(moved, second, 1.0).sqrt(), 0.0)
            self.parameters[i] = self.parameters[i] - self.step_size * first / (root + 1e-8)
