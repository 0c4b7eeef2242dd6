"""Regression on features that nobody learned."""

import math

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.memory import MemorySolver, seen_mask


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
        self.register_buffer("Omega", Omega, persistent=False)
        self.register_buffer("b", b, persistent=False)

    def features(self, x: Tensor) -> Tensor:
        """phi(x), (..., m) in float64."""
        angle = x.double() @ self.Omega.double().mT / self.bandwidth + self.b.double()
        return math.sqrt(2 / len(self.b)) * torch.cos(angle)

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        # In the dual, where the Cholesky factors of all prefixes are the leading blocks of one.
        phi, phi_query = self.features(x), self.features(x_query)  # (..., m)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        L = torch.linalg.cholesky(phi @ phi.mT + self.penalty * identity)
        V = torch.linalg.solve_triangular(L, y, upper=False)  # (batch, N, d_y)
        products = phi @ phi_query.flatten(1, 2).mT  # (batch, N, num_prefixes * num_query)
        Z = torch.linalg.solve_triangular(L, products, upper=False)
        Z = Z.unflatten(2, x_query.shape[1:3])  # (batch, N, num_prefixes, num_query)
        seen = seen_mask(num_seen, x.shape[1]).to(x.dtype)  # (num_prefixes, N)
        return torch.einsum("btpq,pt,btm->bpqm", Z, seen, V)
