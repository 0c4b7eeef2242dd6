"""What every function family is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from datamodules.lazy import torch
from datamodules.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


class FunctionFamily(Spec):
    """What maps the inputs of an episode to its labels: a random function for each episode."""

    @property
    def output(self) -> Literal["value", "logits"]:
        """What a predictor is to return: values, or the logits of d_y classes (y is one-hot)."""
        return "value"

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        """Raises ValueError if there is no such function of these widths and inputs."""

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float | None:
        """Mean over the coordinates of E y_q^2, in closed form; of one-hot labels the variance.

        Args:
            d_x: Width of an input.
            d_y: Width of a label.
            input_variance: Mean over the coordinates of E x_p^2.

        Returns:
            The mean over functions and inputs, None where no closed form is known.
        """
        return None

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws a function for each episode and evaluates it.

        Args:
            x: (batch, length, d_x).
            d_y: Width of a label.
            generator: On the device of x.

        Returns:
            The inputs, as given unless the family says that it moves them, and their clean labels
            (batch, length, d_y).
        """
        raise NotImplementedError


def normal(*shape: int, like: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Draws from N(0, scale^2), of the type and on the device of `like`."""
    return like.new_empty(shape).normal_(0, scale, generator=generator)


def random_subset(
    batch: tuple[int, ...], size: int, count: int, device: torch.device, generator: torch.Generator
) -> Tensor:
    """Masks with `count` of `size` entries set, uniformly chosen, bool (*batch, size)."""
    order = torch.rand((*batch, size), generator=generator, device=device).argsort(dim=-1)
    return order < count
