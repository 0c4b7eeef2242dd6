"""Linear function families."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from datamodules.family import Drawn, FunctionFamily, normal, random_subset
from datamodules.lazy import torch
from datamodules.spec import Probability
from datamodules.stream import fixed_generator

if TYPE_CHECKING:
    from torch import Tensor


class LinearFamily(FunctionFamily):
    """y = W x with one W (d_y, d_x) for each episode."""

    def weights(self, x: Tensor, d_y: int, generator: torch.Generator) -> Tensor:
        """Draws W for each episode, (batch, d_y, d_x); x (batch, length, d_x) says where."""
        raise NotImplementedError

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        W = self.weights(x, d_y, generator)
        return Drawn(x, x @ W.mT, latents={"weights": W})


class Linear(LinearFamily):
    """y = W x with one W (d_y, d_x) for each episode, W[q, p] ~ N(M[q, p], scale^2).

    Source: Garg et al. 2022 (arXiv 2208.01066) for scalar labels; the published GD-SSM code for
    vector labels. There M = 0, and given x, E y = 0 and E y^2 = scale^2 |x|^2 in each coordinate.
    With `mean_scale` the functions of all episodes have something in common that a learned start
    can know: M is drawn once, its entries N(0, mean_scale^2), and E y = M x given x.

    Attributes:
        scale: Standard deviation of an entry of W around its mean.
        mean_scale: Standard deviation of an entry of M over seeds; 0 for M = 0.
        mean_seed: Of M; training, validation and test have the same one.
    """

    name: Literal["linear"] = "linear"
    scale: PositiveFloat = 1.0
    mean_scale: NonNegativeFloat = 0.0
    mean_seed: int = 0

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return (self.scale**2 + self.mean_scale**2) * d_x * input_variance

    def mean(self, d_x: int, d_y: int) -> Tensor:
        """M, float32 (d_y, d_x) on the CPU."""
        generator = fixed_generator("mean", self.mean_seed)
        return self.mean_scale * torch.randn(d_y, d_x, generator=generator)

    def weights(self, x: Tensor, d_y: int, generator: torch.Generator) -> Tensor:
        W = normal(x.shape[0], d_y, x.shape[2], like=x, generator=generator, scale=self.scale)
        if self.mean_scale == 0:
            return W
        return W + self.mean(x.shape[2], d_y).to(x)  # (batch, d_y, d_x)


class SparseLinear(LinearFamily):
    """y = W x; in each row of W a random subset of the entries is N(0, scale^2), the rest zero.

    Source: Garg et al. 2022 (arXiv 2208.01066). Given x, E y = 0 and
    E y^2 = scale^2 |x|^2 num_nonzero / d_x.

    Attributes:
        num_nonzero: Entries of a row that are not zero; another subset for each row and episode.
        scale: Standard deviation of such an entry.
    """

    name: Literal["sparse_linear"] = "sparse_linear"
    num_nonzero: PositiveInt = 3
    scale: PositiveFloat = 1.0

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        if self.num_nonzero > d_x:
            raise ValueError(f"num_nonzero must be at most d_x = {d_x}, got {self.num_nonzero}")

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return self.scale**2 * self.num_nonzero * input_variance

    def weights(self, x: Tensor, d_y: int, generator: torch.Generator) -> Tensor:
        shape = (x.shape[0], d_y, x.shape[2])
        W = normal(*shape, like=x, generator=generator, scale=self.scale)
        return W * random_subset(shape[:2], shape[2], self.num_nonzero, x.device, generator)


class LinearPool(LinearFamily):
    """y = W_j x, j uniform over a fixed pool of matrices W_1, ..., W_M.

    The entries of the pool are N(0, scale^2), drawn once. Source: Raventos et al. 2023 (arXiv
    2306.15063). Given x, E y^2 = scale^2 |x|^2 on average over pools; a small one differs from it.

    Attributes:
        pool_size: Number M of matrices.
        pool_seed: Of the pool; training, validation and test draw from the same one.
        scale: Standard deviation of an entry, over pools.
    """

    name: Literal["linear_pool"] = "linear_pool"
    pool_size: PositiveInt = 64
    pool_seed: int = 0
    scale: PositiveFloat = 1.0

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return self.scale**2 * d_x * input_variance

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        return {"pool": self.pool(d_x, d_y)}

    def pool(self, d_x: int, d_y: int) -> Tensor:
        """All matrices, float32 (pool_size, d_y, d_x) on the CPU."""
        return self.scale * _unit_pool(self.pool_size, self.pool_seed, d_x, d_y)

    def weights(self, x: Tensor, d_y: int, generator: torch.Generator) -> Tensor:
        return self._member(self._numbers(x, generator), x, d_y)

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        j = self._numbers(x, generator)
        W = self._member(j, x, d_y)
        return Drawn(x, x @ W.mT, latents={"weights": W, "pool_member": j})

    def _numbers(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(self.pool_size, x.shape[:1], generator=generator, device=x.device)

    def _member(self, j: Tensor, x: Tensor, d_y: int) -> Tensor:
        pool = _unit_pool(self.pool_size, self.pool_seed, x.shape[2], d_y)
        return self.scale * pool[j.cpu()].to(x)  # (batch, d_y, d_x)


class LinearDrift(FunctionFamily):
    """y_i = W_i x_i with weights that drift, W_i = rho W_{i-1} + sqrt(1 - rho^2) Xi_i.

    The entries of W_0 and of all Xi_i are N(0, scale^2); so are those of every W_i, and between W_i
    and W_j they have correlation rho^|i - j|. The target of a position is that of its own W_i: the
    query asks for weights that drifted once more than those of the last example. Given x,
    E y^2 = scale^2 |x|^2. The family is ours.

    Attributes:
        rho: From 0, other weights at each position, to 1, the same at all.
        scale: Standard deviation of an entry of W_i.
    """

    name: Literal["linear_drift"] = "linear_drift"
    rho: Probability = 0.95
    scale: PositiveFloat = 1.0

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return self.scale**2 * d_x * input_variance

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, length, d_x = x.shape
        Xi = normal(batch, length, d_y, d_x, like=x, generator=generator, scale=self.scale)
        # W_i = sum_j mixing[i, j] Xi_j, where Xi_0 is W_0.
        lag = torch.arange(length, device=x.device)
        lag = lag[:, None] - lag  # (length, length)
        mixing = torch.where(lag >= 0, x.new_tensor(self.rho) ** lag.clamp(min=0), 0.0)
        mixing[:, 1:] *= math.sqrt(1 - self.rho**2)
        W = torch.einsum("ij,bjqp->biqp", mixing, Xi)
        return Drawn(x, torch.einsum("biqp,bip->biq", W, x), latents={"weights": W})


@lru_cache(maxsize=4)
def _unit_pool(pool_size: int, pool_seed: int, d_x: int, d_y: int) -> Tensor:
    generator = fixed_generator("pool", pool_seed)
    return torch.randn(pool_size, d_y, d_x, generator=generator)
