"""Regression on features that nobody learned."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.least_squares import LeastSquares, leading_cholesky
from zoo.solvers.memory import MemorySolver, seen_mask
from zoo.solvers.moment import Moments
from zoo.solvers.nonfinite import as_asked, usable
from zoo.solvers.solver import EpisodeFacts, Grid, Solver
from zoo.solvers.tuning import log_grid

# The cosine of a larger angle is off by 1e-8 and more, by the rounding of the angle.
LARGEST_ANGLE = 1e8

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "sine_cosine": lambda x: torch.cat([x.sin(), x.cos()], dim=-1),
    "squares": torch.square,
}
# The map of the inputs in which a family of functions is linear.
OF_FAMILY = {"quadratic": "squares", "sine": "sine_cosine"}


class FixedFeaturesConfig(PredictorConfig):
    """Arguments of `fixed_features`, explained at `FixedFeatures`."""

    features: Literal["sine_cosine", "squares"]


@register_solver("fixed_features", FixedFeaturesConfig)
class FixedFeatures(Solver):
    """`least_squares` on phi(x), a named map of every coordinate: what is linear in it is exact.

    `features` "sine_cosine" is phi(x) = (sin x, cos x), for A sin(x + b) = A cos(b) sin x +
    A sin(b) cos x; "squares" is phi(x) = x * x.
    """

    def __init__(self, config: FixedFeaturesConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.map = FEATURES[config.features]
        num_features = self.features(torch.zeros(config.d_x)).shape[-1]
        self.solver = LeastSquares(PredictorConfig(d_x=num_features, d_y=config.d_y))

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The map in which the family is linear."""
        return {"features": OF_FAMILY[facts.family]} if facts.family in OF_FAMILY else {}

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.family in OF_FAMILY

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"features": "sine_cosine"}

    def features(self, x: Tensor) -> Tensor:
        """phi(x) in float64, NaN for inputs (..., d_x) that cannot be used."""
        return self.map(x.double()).masked_fill(~usable(x)[..., None], torch.nan)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return as_asked(self.solver(self.features(x), y.double()), x)

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return as_asked(self.solver.predict_query(self.features(x), y.double()), x[:, -1])

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Moments:
        return self.solver.init_state(batch_size, device, dtype)

    def observe(self, state: Any, x: Tensor, y: Tensor) -> Moments:
        self.check_pairs(x, y, state)
        return self.solver.observe(state, self.features(x), y.double())

    def predict(self, state: Any, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        return as_asked(self.solver.predict(state, self.features(x_query)), x_query)

    def state_size(self, num_context: int) -> int:
        return self.solver.state_size(num_context)


class RandomFeaturesRidgeConfig(PredictorConfig):
    """Arguments of `random_features_ridge`, explained at `RandomFeaturesRidge`."""

    bandwidth: PositiveFloat
    penalty: PositiveFloat
    num_features: PositiveInt = 256
    seed: NonNegativeInt = 0


@register_solver("random_features_ridge", RandomFeaturesRidgeConfig)
class RandomFeaturesRidge(MemorySolver):
    """Ridge regression on random Fourier features (Rahimi and Recht, 2007).

        phi(x) = sqrt(2 / m) cos(Omega x / bandwidth + b),  prediction = W phi(x),

    with Omega (m, d_x) from N(0, 1) and b (m,) from U(0, 2 pi), both drawn from `seed`, and W the
    minimum of sum_i |W phi(x_i) - y_i|^2 + `penalty` |W|^2. With many features m (`num_features`)
    this is ridge regression with the kernel exp(-|x - x'|^2 / (2 bandwidth^2)). Without examples
    the prediction is zero.
    """

    Omega: Tensor
    b: Tensor

    def __init__(self, config: RandomFeaturesRidgeConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.bandwidth = config.bandwidth
        self.penalty = config.penalty
        generator = torch.Generator().manual_seed(config.seed)
        m = config.num_features
        Omega = torch.randn(m, config.d_x, generator=generator, dtype=torch.float64)
        b = 2 * math.pi * torch.rand(m, generator=generator, dtype=torch.float64)
        self.register_buffer("Omega", Omega)
        self.register_buffer("b", b)

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        length = math.sqrt(facts.input_variance * facts.d_x)  # of an input
        return {
            "bandwidth": log_grid(0.1, 10.0, 7, length),
            "penalty": log_grid(1e-12, 1.0, 7),
        }

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.family in ("sine", "relu_network")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"bandwidth": 1.0, "penalty": 0.1, "num_features": 16}

    def features(self, x: Tensor) -> Tensor:
        """phi(x), (..., m) in float64."""
        return math.sqrt(2 / len(self.b)) * torch.cos(self._angles(x))

    def _angles(self, x: Tensor) -> Tensor:
        return x.double() @ self.Omega.double().mT / self.bandwidth + self.b.double()

    def usable_inputs(self, x: Tensor) -> Tensor:
        return self._angles(x).abs().amax(-1) <= LARGEST_ANGLE

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        # In the dual, where the Cholesky factors of all prefixes are the leading blocks of one.
        phi, phi_query = self.features(x), self.features(x_query)  # (..., m)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        L, factored = leading_cholesky(phi @ phi.mT + self.penalty * identity)
        V = torch.linalg.solve_triangular(L, y, upper=False)  # (batch, N, d_y)
        products = phi @ phi_query.flatten(1, 2).mT  # (batch, N, num_prefixes * num_query)
        Z = torch.linalg.solve_triangular(L, products, upper=False)
        Z = Z.unflatten(2, x_query.shape[1:3])  # (batch, N, num_prefixes, num_query)
        seen = seen_mask(num_seen, x.shape[1])  # (num_prefixes, N)
        prediction = torch.einsum("btpq,pt,btm->bpqm", Z, seen.to(x.dtype), V)
        lost = (seen & ~factored[:, None]).any(-1)  # (batch, num_prefixes)
        return prediction.masked_fill(lost[..., None, None], torch.nan)
