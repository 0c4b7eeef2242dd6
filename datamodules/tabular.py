"""Functions as tables have them: of some columns, noisy, of one scale in every episode.

Columns are the coordinates of x that are not zero throughout an episode, as `padded` inputs have
them; k is their number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from datamodules.classification import Classification
from datamodules.family import (
    Drawn,
    FunctionFamily,
    below,
    drawn_number,
    drawn_share,
    normal,
)
from datamodules.lazy import torch
from datamodules.spec import NumbersFrom, SharesFrom, ends_of

if TYPE_CHECKING:
    from torch import Tensor

# Standard deviation of the bias of a class, beside logits of variance one.
BIAS = 0.5
# What varies by less has no scale to bring to one.
LEAST_DEVIATION = 1e-6


class Tabular(FunctionFamily):
    """y = sqrt(1 - s) f(x) + sqrt(s) e: a function and noise, of variance one together.

    f is, a third of the episodes each, linear, W x; sparse, the same with one to `num_nonzero` of
    the columns; or a network W_2 relu(W_1 x / sqrt(k) + b). All entries are N(0, 1). Whatever it
    is, its mean over the positions of the episode is taken away and its variance brought to one,
    as those of labels are where a model is used on tables. e ~ N(0, 1), and s is uniform over
    `noise_share`, another one for each episode. The target is sqrt(1 - s) f(x). The family is
    ours.

    Attributes:
        hidden: Width of the hidden layer of a network.
        num_nonzero: Most columns of a sparse function.
        noise_share: Least and largest share of the noise in the variance of the labels.
    """

    whole_sets: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ("ridge", "ridge_evidence")
    name: Literal["tabular"] = "tabular"
    hidden: PositiveInt = 50
    num_nonzero: PositiveInt = 3
    noise_share: SharesFrom = [0.0, 0.8]  # noqa: RUF012  # pydantic copies it

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return 1.0

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, _, d_x = x.shape
        columns = _columns(x)  # (batch, d_x)
        kind = torch.randint(3, (batch,), generator=generator, device=x.device)
        W = normal(batch, d_y, d_x, like=x, generator=generator)
        # The columns of a sparse function are the first in a random order of those there are.
        order = torch.rand(batch, d_x, generator=generator, device=x.device) + ~columns
        most = torch.full_like(kind, self.num_nonzero)
        count = 1 + below(most, (batch,), generator)
        chosen = order.argsort(1).argsort(1) < count[:, None]
        W = torch.where((kind == 1)[:, None, None], W * chosen[:, None], W)
        linear = x @ W.mT  # (batch, length, d_y)
        network = _network(x, columns, self.hidden, d_y, generator)
        f = _standardised(torch.where((kind == 2)[:, None, None], network, linear))
        share = drawn_share(self.noise_share, batch, generator)
        target = (1 - share).sqrt()[:, None, None] * f
        latents = {"component": kind, "weights": W, "noise_share": share}
        return Drawn(x, target, latents=latents, noise_level=share.sqrt())


class TabularClassification(Classification):
    """The class of the largest of logits f(x) + b + t g, of two to d_y classes.

    f is, in half of the episodes each, linear or a network as in `Tabular`, brought to mean zero
    and variance one over the positions of the episode; b ~ N(0, 1/4) for each class, g is Gumbel
    noise, and t is uniform over `temperature`. The number of classes is uniform over
    `num_classes`, both and t other ones for each episode; classes beyond it do not occur. The
    family is ours.

    Attributes:
        hidden: Width of the hidden layer of a network.
        num_classes: Least and largest number of classes; None for d_y.
        temperature: Least and largest factor of the noise.
    """

    whole_sets: ClassVar[bool] = False
    name: Literal["tabular_classification"] = "tabular_classification"
    hidden: PositiveInt = 50
    num_classes: NumbersFrom = [2, None]  # noqa: RUF012  # pydantic copies it
    temperature: SharesFrom = [0.0, 0.8]  # noqa: RUF012

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        super().check(d_x, d_y, inputs)
        low, high = ends_of(self.num_classes, d_y)
        if not 2 <= low <= high <= d_y:
            raise ValueError(
                f"num_classes must rise from at least 2 to at most d_y = {d_y}, "
                f"got {self.num_classes}"
            )

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        batch, _, d_x = x.shape
        kind = torch.randint(2, (batch,), generator=generator, device=x.device)
        W = normal(batch, d_y, d_x, like=x, generator=generator)
        network = _network(x, _columns(x), self.hidden, d_y, generator)
        f = _standardised(torch.where((kind == 1)[:, None, None], network, x @ W.mT))
        bias = normal(batch, 1, d_y, like=x, generator=generator, scale=BIAS)
        temperature = drawn_share(self.temperature, batch, generator)
        gumbel = -torch.empty_like(f).exponential_(generator=generator).log()
        logits = f + bias + temperature[:, None, None] * gumbel  # (batch, length, d_y)
        num_classes = drawn_number(self.num_classes, d_y, batch, generator)
        absent = torch.arange(d_y, device=x.device) >= num_classes[:, None]
        logits = logits.masked_fill(absent[:, None], -math.inf)
        label = torch.nn.functional.one_hot(logits.argmax(dim=2), d_y).to(x)
        latents = {"component": kind, "num_classes": num_classes, "temperature": temperature}
        return Drawn(x, label, latents=latents)


def _columns(x: Tensor) -> Tensor:
    """Which coordinates of x (batch, length, d_x) are not zero throughout, (batch, d_x)."""
    return x.ne(0).any(dim=1)


def _network(
    x: Tensor, columns: Tensor, hidden: int, d_y: int, generator: torch.Generator
) -> Tensor:
    """W_2 relu(W_1 x / sqrt(k) + b), (batch, length, d_y), of random networks."""
    batch, _, d_x = x.shape
    W_1 = normal(batch, hidden, d_x, like=x, generator=generator)
    b = normal(batch, 1, hidden, like=x, generator=generator)
    W_2 = normal(batch, d_y, hidden, like=x, generator=generator)
    scale = columns.sum(1).clamp(min=1).rsqrt()[:, None, None]
    return (scale * x @ W_1.mT + b).relu_() @ W_2.mT


def _standardised(f: Tensor) -> Tensor:
    """Values (batch, length, d_y) with mean zero and variance one over the positions."""
    f = f - f.mean(1, keepdim=True)
    deviation = f.square().mean(1, keepdim=True).sqrt()
    return f / deviation.clamp(min=LEAST_DEVIATION)
