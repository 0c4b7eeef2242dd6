"""Function families that are not linear in x."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from datamodules.family import Drawn, FunctionFamily, normal, random_subset
from datamodules.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Quadratic(FunctionFamily):
    """y = W (x * x) / sqrt(3), entries of W (d_y, d_x) N(0, 1), * entry by entry.

    Source: Garg et al. 2022 (arXiv 2208.01066). Given x, E y = 0 and E y^2 = sum_p x_p^4 / 3; over
    x ~ N(0, I) that is d_x, as with linear functions.
    """

    name: Literal["quadratic"] = "quadratic"

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        W = normal(x.shape[0], d_y, x.shape[2], like=x, generator=generator)
        return Drawn(x, x.square() @ W.mT / math.sqrt(3), latents={"weights": W})


class ReluNetwork(FunctionFamily):
    """y = sqrt(2 / hidden) W_2 relu(W_1 x), W_1 (hidden, d_x) and W_2 (d_y, hidden).

    Their entries are N(0, 1). Source: Garg et al. 2022 (arXiv 2208.01066). Given x, E y = 0 and
    E y^2 = |x|^2.

    Attributes:
        hidden: Width of the hidden layer.
    """

    name: Literal["relu_network"] = "relu_network"
    hidden: PositiveInt = 100

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return d_x * input_variance

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, _, d_x = x.shape
        W_1 = normal(batch, self.hidden, d_x, like=x, generator=generator)
        W_2 = normal(batch, d_y, self.hidden, like=x, generator=generator)
        target = math.sqrt(2 / self.hidden) * (x @ W_1.mT).relu_() @ W_2.mT
        return Drawn(x, target, latents={"W_1": W_1, "W_2": W_2})


class DecisionTree(FunctionFamily):
    """A full binary tree; each node asks for the sign of one coordinate, each leaf holds a label.

    The coordinate of every node is uniformly chosen, the labels of the leaves are N(0, 1), a
    positive coordinate goes to the right. Source: Garg et al. 2022 (arXiv 2208.01066). Given x,
    E y = 0 and E y^2 = 1.

    Attributes:
        depth: Questions on the way to a leaf, at most 20; the tree has 2^depth leaves.
    """

    name: Literal["decision_tree"] = "decision_tree"
    depth: PositiveInt = Field(default=4, le=20)

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return 1.0

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, length, d_x = x.shape
        num_leaves = 2**self.depth
        coordinates = torch.randint(
            d_x, (batch, num_leaves - 1), generator=generator, device=x.device
        )
        leaves = normal(batch, num_leaves, d_y, like=x, generator=generator)
        positive = x > 0
        # The children of node n are 2 n + 1 and 2 n + 2; the leaves come after the last node.
        node = torch.zeros(batch, length, dtype=torch.long, device=x.device)
        for _ in range(self.depth):
            coordinate = coordinates.gather(1, node)  # (batch, length)
            right = positive.gather(2, coordinate[..., None])[..., 0]
            node = 2 * node + 1 + right
        leaf = node - (num_leaves - 1)
        target = leaves.gather(1, leaf[..., None].expand(-1, -1, d_y))
        return Drawn(x, target, latents={"coordinates": coordinates, "leaf": leaf})


class Sine(FunctionFamily):
    """y = A sin(x + phi), A ~ U(0.1, 0.5) and phi ~ U(0, pi), independent; d_x = d_y = 1.

    Source: the published GD-SSM code, after von Oswald et al. 2022 (arXiv 2212.07677); but that
    draws A and phi from one random number, a family of one parameter. Given x,
    E y = 0.6 cos(x) / pi and E y^2 = E A^2 / 2 = 0.0517.

    Attributes:
        legacy_tied: A = 0.1 + 0.4 u and phi = pi u with the same u ~ U(0, 1), as published.
    """

    name: Literal["sine"] = "sine"
    legacy_tied: bool = False

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        if (d_x, d_y) != (1, 1):
            raise ValueError(f"function sine needs d_x = 1 and d_y = 1, got {d_x} and {d_y}")

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float | None:
        return None if self.legacy_tied else (0.5**3 - 0.1**3) / (0.5 - 0.1) / 6  # E A^2 / 2

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        u = torch.rand((2, x.shape[0], 1, 1), generator=generator, device=x.device)
        amplitude = 0.1 + 0.4 * u[0]
        phase = math.pi * (u[0] if self.legacy_tied else u[1])
        latents = {"amplitude": amplitude.flatten(), "phase": phase.flatten()}
        return Drawn(x, amplitude * torch.sin(x + phase), latents=latents)


class SparseParity(FunctionFamily):
    """y = prod_{p in S} x_p, x in {-1, 1}^d_x, S a random subset for each episode; d_y = 1.

    Source: Park et al. 2024 (arXiv 2402.04248), where the episodes of a batch share S. y is -1 or 1
    with probability 1/2, and not correlated with any product of fewer coordinates.

    Attributes:
        num_secret: Size of S.
    """

    name: Literal["sparse_parity"] = "sparse_parity"
    num_secret: PositiveInt = 2

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        if self.num_secret > d_x:
            raise ValueError(f"num_secret must be at most d_x = {d_x}, got {self.num_secret}")
        if d_y != 1:
            raise ValueError(f"function sparse_parity needs d_y = 1, got {d_y}")
        if inputs != "sign":
            raise ValueError(f"function sparse_parity needs inputs sign, got {inputs}")

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return 1.0

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        secret = random_subset(x.shape[:1], x.shape[2], self.num_secret, x.device, generator)
        target = torch.where(secret[:, None], x, 1.0).prod(dim=2, keepdim=True)
        return Drawn(x, target, latents={"secret": secret})
