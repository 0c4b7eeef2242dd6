"""Input distributions: how x is drawn. Coordinates are independent and have mean zero."""

import math
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from datamodules.spec import Spec


class Uniform(Spec):
    """x ~ U(-r, r) in each coordinate.

    Source: von Oswald et al. 2022 (arXiv 2212.07677) and the published GD-SSM code, whose
    "input range 1" is r = 0.5.

    Attributes:
        r: Half the width of the interval. Variance r^2 / 3, kurtosis 1.8.
    """

    name: Literal["uniform"] = "uniform"
    r: PositiveFloat = 0.5

    @property
    def variance(self) -> float:
        return self.r**2 / 3

    @property
    def kurtosis(self) -> float:
        return 1.8

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws float32 inputs of the given shape on the generator's device."""
        x = torch.empty(shape, dtype=torch.float32, device=generator.device)
        return x.uniform_(-self.r, self.r, generator=generator)


class Gaussian(Spec):
    """x ~ N(0, variance) in each coordinate.

    Source: Garg et al. 2022 (arXiv 2208.01066).

    Attributes:
        variance: Of each coordinate. Kurtosis 3.
    """

    name: Literal["gaussian"]
    variance: PositiveFloat = 1.0

    @property
    def kurtosis(self) -> float:
        return 3.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws float32 inputs of the given shape on the generator's device."""
        x = torch.empty(shape, dtype=torch.float32, device=generator.device)
        return x.normal_(0, math.sqrt(self.variance), generator=generator)
