"""Function families: what maps the inputs of an episode to its labels."""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from datamodules.spec import Spec


class Linear(Spec):
    """y = W x with one W (d_y, d_x) for each episode, W[q, p] ~ N(0, scale^2).

    Source: Garg et al. 2022 (arXiv 2208.01066) for scalar labels; the published GD-SSM code for
    vector labels. Given x, E y = 0 and E y^2 = scale^2 |x|^2 in each coordinate.

    Attributes:
        scale: Standard deviation of an entry of W.
    """

    name: Literal["linear"] = "linear"
    scale: PositiveFloat = 1.0

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Tensor:
        """Draws a function for each episode and evaluates it.

        Args:
            x: (batch, length, d_x).
            d_y: Width of a label.
            generator: On the device of x.

        Returns:
            (batch, length, d_y).
        """
        shape = (x.shape[0], d_y, x.shape[2])
        W = torch.empty(shape, dtype=x.dtype, device=x.device)
        W.normal_(0, self.scale, generator=generator)
        return x @ W.mT
