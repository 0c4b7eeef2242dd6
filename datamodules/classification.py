"""Function families whose labels are classes: y is one-hot over d_y of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from datamodules.family import Drawn, FunctionFamily, normal
from datamodules.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Classification(FunctionFamily):
    """What the families of classes share."""

    @property
    def output(self) -> Literal["value", "logits"]:
        return "logits"

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        if d_y < 2:
            raise ValueError(f"d_y is the number of classes and must be at least 2, got {d_y}")

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return (d_y - 1) / d_y**2  # of equal classes


class LinearClassification(Classification):
    """The class of x is that of the logits W x / sqrt(d_x), entries of W (d_y, d_x) N(0, scale^2).

    Two classes and `argmax` are y = sign(w . x) of Garg et al. 2022 (arXiv 2208.01066); more
    classes are the softmax regression of the GD-SSM paper (arXiv 2410.11687, v3). Given x, every
    class has probability 1 / d_y.

    Attributes:
        label: `"argmax"` takes the largest logit, `"sampled"` draws from the softmax of the logits.
        scale: Standard deviation of an entry of W; `"argmax"` does not depend on it.
    """

    name: Literal["linear_classification"] = "linear_classification"
    label: Literal["argmax", "sampled"] = "argmax"
    scale: PositiveFloat = 1.0

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, _, d_x = x.shape
        W = normal(batch, d_y, d_x, like=x, generator=generator, scale=self.scale / math.sqrt(d_x))
        logits = x @ W.mT  # (batch, length, d_y)
        if self.label == "sampled":
            # The largest of logits with Gumbel noise is a draw from their softmax.
            logits = logits - torch.empty_like(logits).exponential_(generator=generator).log()
        label = torch.nn.functional.one_hot(logits.argmax(dim=2), d_y).to(x)
        return Drawn(x, label, latents={"weights": W})


class GaussianMixture(Classification):
    """Each x belongs to a class c, uniformly drawn, and is moved to mu_c + spread x.

    mu_c ~ N(0, I), new ones for each episode, and x ~ N(0, variance I) from the gaussian inputs.
    A coordinate of the moved x has mean zero and variance 1 + spread^2 variance. Source: Lee et al.
    2023 (arXiv 2310.08049); the spread is ours.

    Attributes:
        spread: How far the points of a class lie from its mean.
    """

    name: Literal["gaussian_mixture"] = "gaussian_mixture"
    spread: PositiveFloat = 1.0

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        super().check(d_x, d_y, inputs)
        if inputs != "gaussian":
            raise ValueError(f"function gaussian_mixture needs inputs gaussian, got {inputs}")

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, length, d_x = x.shape
        mu = normal(batch, d_y, d_x, like=x, generator=generator)
        c = torch.randint(d_y, (batch, length), generator=generator, device=x.device)
        label = torch.nn.functional.one_hot(c, d_y).to(x)  # (batch, length, d_y)
        return Drawn(label @ mu + self.spread * x, label, latents={"means": mu})
