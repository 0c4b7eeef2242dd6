"""The decay that Mamba-2 and its successors learn: e^g, g = -exp(A_log) softplus(a + dt_bias)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

# Step sizes at the start: log-uniform in this interval.
DT_MIN, DT_MAX = 1e-3, 1e-1
# The smallest rate at the start, which is drawn from zero on: its logarithm must be finite.
A_FLOOR = 1e-6


@torch.no_grad()
def reset_decay_(A_log: nn.Parameter, dt_bias: nn.Parameter, low: float) -> None:
    """Draws the published start: exp(A_log) uniform in (low, 16), softplus(dt_bias) log-uniform."""
    A_log.uniform_(low, 16).clamp_(min=A_FLOOR).log_()
    dt = torch.empty_like(dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp()
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


def log_decay(a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """g = -exp(A_log) softplus(a + dt_bias), float32 at least; shapes broadcast."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return -A_log.to(dtype).exp() * softplus(a.to(dtype) + dt_bias.to(dtype))
