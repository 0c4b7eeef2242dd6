"""Normalisation of the heads of a mixer."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from zoo.layers.mixer import EPS


class GatedRMSNorm(nn.Module):
    """rms_norm(o) * weight * gate(g) over the last dimension, on each head by itself.

    Args:
        size: Size of that dimension.
        gate: `"silu"` or `"sigmoid"`.
    """

    def __init__(self, size: int, gate: Literal["silu", "sigmoid"] = "silu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.gate = silu if gate == "silu" else torch.sigmoid

    def forward(self, o: Tensor, g: Tensor) -> Tensor:
        """(batch, length, heads, size) each, to the same."""
        return rms_norm(o, self.weight.shape, self.weight, EPS) * self.gate(g)


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension, as published: 1e-6 is added to |x|^2; float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
