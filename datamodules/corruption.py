"""What makes examples of the context say less than they could."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from datamodules.family import normal, random_subset
from datamodules.lazy import torch
from datamodules.spec import Probability, Spec

if TYPE_CHECKING:
    from torch import Tensor


class Distractors(Spec):
    """Random labels: a random subset of the context, a new one for each episode.

    Source: von Oswald et al. 2022 (arXiv 2212.07677). The targets stay clean.

    Attributes:
        count: How many of the num_context labels are replaced.
        scale: By draws from N(0, scale^2). Where labels are classes, by uniformly drawn classes;
            `scale` has no part in that.
    """

    count: NonNegativeInt = 0
    scale: NonNegativeFloat = 1.0

    def corrupt(self, y: Tensor, output: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Replaces labels (batch, length, d_y), never the last one.

        Returns:
            The labels, and which of them are replaced, bool (batch, length).
        """
        batch, length, d_y = y.shape
        replaced = torch.zeros(batch, length, 1, dtype=torch.bool, device=y.device)
        replaced[:, :-1, 0] = random_subset((batch,), length - 1, self.count, y.device, generator)
        if output == "logits":
            classes = torch.randint(d_y, (batch, length), generator=generator, device=y.device)
            noise = torch.nn.functional.one_hot(classes, d_y).to(y)
        else:
            noise = normal(*y.shape, like=y, generator=generator, scale=self.scale)
        return torch.where(replaced, noise, y), replaced[..., 0]


class Outliers(Spec):
    """Examples that have nothing to do with the function; none is scored, the query is never one.

    `"constant"`: all entries of x and y are 1. `"orthogonal"`: x = a u + b v with u, v orthonormal
    and orthogonal to all rows of W, at random otherwise, the same for the episode; a, b and the
    entries of y are N(0, 1), while W x would be 0. It needs a linear function with one W for the
    episode, and d_x of at least d_y + 2. Source: Park et al. 2024 (arXiv 2402.04248), whose labels
    are vectors a' u + b' v; a scalar one is ours.

    Attributes:
        probability: Of each example, independently.
        kind: What the examples are replaced by.
    """

    probability: Probability = 0.0
    kind: Literal["constant", "orthogonal"] = "constant"

    def corrupt(
        self, x: Tensor, y: Tensor, W: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Replaces examples.

        Args:
            x: (batch, length, d_x).
            y: (batch, length, d_y).
            W: The weights of each episode (batch, d_y, d_x), for `"orthogonal"`.
            generator: On the device of x.

        Returns:
            x, y, and which positions are outliers, bool (batch, length).
        """
        batch, length, _ = x.shape
        outlier = torch.rand((batch, length), generator=generator, device=x.device)
        outlier = outlier < self.probability
        outlier[:, -1] = False
        if W is None:
            new_x, new_y = torch.ones_like(x), torch.ones_like(y)
        else:
            # The last two columns of Q are orthogonal to what came before them: the rows of W.
            extra = normal(batch, x.shape[2], 2, like=x, generator=generator)
            basis = torch.linalg.qr(torch.cat([W.mT, extra], dim=2)).Q[:, :, -2:]
            coefficients = normal(batch, length, 2, like=x, generator=generator)
            new_x = coefficients @ basis.mT
            new_y = normal(*y.shape, like=y, generator=generator)
        at = outlier[:, :, None]
        return torch.where(at, new_x, x), torch.where(at, new_y, y), outlier


def flip_labels(y: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Replaces one-hot labels (batch, length, d_y) by another class, uniformly drawn."""
    batch, length, d_y = y.shape
    flipped = torch.rand((batch, length), generator=generator, device=y.device) < probability
    shift = torch.randint(1, d_y, (batch, length), generator=generator, device=y.device)
    return torch.nn.functional.one_hot((y.argmax(dim=2) + shift * flipped) % d_y, d_y).to(y)
