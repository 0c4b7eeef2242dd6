"""The short causal convolution before a mixer, every channel by itself."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, silu

Method = Literal["shifts", "loop"]


class ShortConvolution(nn.Module):
    """Weights of a causal convolution, with the names and shapes of a depthwise `nn.Conv1d`.

    Args:
        channels: Number of channels.
        d_conv: Number of tokens under the convolution, the current one included.
        bias: Whether a bias is added.
    """

    bias: nn.Parameter | None

    def __init__(self, channels: int, d_conv: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, d_conv))
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the start of `nn.Conv1d`: uniform in +-1 / sqrt(d_conv)."""
        bound = 1 / math.sqrt(self.weight.shape[-1])
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """`causal_convolution` with these weights."""
        return causal_convolution(x, tail, self.weight, self.bias)


def causal_convolution(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None = None, method: Method = "shifts"
) -> tuple[Tensor, Tensor]:
    """u_t = sum_j weight_j * x_{t - d_conv + 1 + j} + bias.

    Args:
        x: (batch, length, channels), length >= 1.
        tail: The d_conv - 1 values before them, (batch, d_conv - 1, channels).
        weight: (channels, 1, d_conv).
        bias: (channels,), or None.
        method: `"shifts"`, a sum of shifted products with a backward of its own, or the reference
            `"loop"` over tokens.

    Returns:
        u (batch, length, channels), and the tail after the last token.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in ("shifts", "loop"):
        raise ValueError(f"method must be 'shifts' or 'loop', got {method!r}")
    x = torch.cat([tail.to(x.dtype), x], dim=1)  # (batch, d_conv - 1 + length, channels)
    weight = weight[:, 0].mT.to(x.dtype)  # (d_conv, channels)
    width, length = len(weight), x.shape[1] - len(weight) + 1
    if method == "loop":
        u = torch.stack([(x[:, t : t + width] * weight).sum(1) for t in range(length)], dim=1)
    else:
        u = _shifts(x, weight)
    # A copy, so that the state does not hold on to the whole sequence.
    return u if bias is None else u + bias.to(u.dtype), x[:, length:].clone()


def project_and_convolve(
    s: Tensor, tail: Tensor, projections: list[nn.Linear], convolutions: list[ShortConvolution]
) -> tuple[list[Tensor], Tensor]:
    """silu(convolution(projection(s))) of several pairs, as one product and one convolution.

    Args:
        s: Tokens, (batch, length, d_model).
        tail: The last d_conv - 1 values of all channels, (batch, d_conv - 1, channels).
        projections: Without bias.
        convolutions: Of one width, without bias.

    Returns:
        Each (batch, length, its channels), and the tail after the last token.
    """
    x = linear(s, torch.cat([projection.weight for projection in projections]))
    weight = torch.cat([convolution.weight for convolution in convolutions])
    u, tail = causal_convolution(x, tail, weight)
    sizes = [projection.out_features for projection in projections]
    return list(silu(u).split(sizes, dim=-1)), tail


def _shifts(x: Tensor, weight: Tensor) -> Tensor:
    """Of x (batch, d_conv - 1 + length, channels) and weight (d_conv, channels)."""
    u: Tensor = _Shifts.apply(x, weight)  # type: ignore[no-untyped-call]
    return u


class _Shifts(torch.autograd.Function):
    """sum_j weight_j * x_{t + j}, of shapes as in `_shifts`.

    Its gradient by x is such a sum again; autograd would pad a copy for every shift.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        length = x.shape[1] - weight.shape[0] + 1
        u = x[:, :length] * weight[0]
        for j in range(1, weight.shape[0]):
            u = torch.addcmul(u, x[:, j : j + length], weight[j])
        return u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, du: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        width, length = weight.shape[0], du.shape[1]
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _shifts(pad(du, (0, 0, width - 1, width - 1)), weight.flip(0))
        if ctx.needs_input_grad[1]:
            dweight = torch.stack([(x[:, j : j + length] * du).sum((0, 1)) for j in range(width)])
        return dx, dweight

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dweight: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        parts = [] if dx is None else [_shifts(dx, weight)]
        parts += [] if dweight is None else [_shifts(x, dweight)]
        return torch.stack(parts).sum(0)
