"""The Mamba layer and its block: a gated selective state space behind a short convolution.

Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, silu, softplus

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.short_convolution import causal_convolution
from zoo.ops.selective_scan import Method, selective_scan

# Step sizes at the start: log-uniform in this interval, and never below the floor.
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class MambaLayer(nn.Module):
    """The Mamba mixer, with the parameter names and shapes of the published one.

    With d_inner = expand * d_model, for every token s_t

        x_t, z_t = in_proj(s_t)                             two branches
        u_t = silu(conv1d(x_{t-d_conv+1}, ..., x_t))        each channel by itself
        dt_t, B_t, C_t = x_proj(u_t)
        delta_t = softplus(dt_proj(dt_t))
        y_t = selective_scan(u, delta, -exp(A_log), B, C, D)_t
        o_t = out_proj(y_t * silu(z_t))

    Args:
        d_model: Width of a token.
        d_state: Size of the state of one channel.
        d_conv: Number of tokens under the convolution, the current one included.
        expand: Channels for each coordinate of a token.
        dt_rank: Width of dt_t; `"auto"` is d_model / 16, rounded up.
        negative_eigenvalues: Whether the state is multiplied by 2 exp(delta_t A) - 1, which may be
            negative, instead of exp(delta_t A); see `selective_scan`.

    Raises:
        ValueError: If a size is not positive.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "D")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        negative_eigenvalues: bool = False,
    ) -> None:
        super().__init__()
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        sizes = {
            "d_model": d_model,
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "dt_rank": self.dt_rank,
        }
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = expand * d_model
        self.negative_eigenvalues = negative_eigenvalues
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the published start from torch's global generator."""
        for module in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            module.reset_parameters()
        scale = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -scale, scale)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
        dt = dt.exp().clamp(min=DT_FLOOR)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log())
        nn.init.ones_(self.D)

    def forward(
        self, s: Tensor, state: BlockState | None = None, method: Method = "chunked"
    ) -> tuple[Tensor, BlockState]:
        """Processes further tokens.

        Args:
            s: (batch, length, d_model), length >= 1.
            state: The last d_conv - 1 values of x, (batch, d_inner, d_conv - 1), and h,
                (batch, d_inner, d_state), after the tokens before; zero if missing or empty.
            method: That of `selective_scan`.

        Returns:
            o (batch, length, d_model), and the state after the last token.

        Raises:
            ValueError: If s has another shape.
        """
        if s.ndim != 3 or s.shape[1] == 0 or s.shape[2] != self.d_model:
            raise ValueError(
                f"tokens must be (batch, length, {self.d_model}) with length >= 1, "
                f"got {tuple(s.shape)}"
            )
        tail, h_0 = state or (None, None)
        x, z = self.in_proj(s).chunk(2, dim=-1)  # (batch, length, d_inner) each
        if tail is None:
            tail = x.new_zeros(len(s), self.d_inner, self.d_conv - 1)
        x, tail = self._convolution(x, tail.mT)
        u = silu(x)  # (batch, length, d_inner)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = softplus(self.dt_proj(dt))
        A_log = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        A, negative = -A_log.exp(), self.negative_eigenvalues
        y, h = selective_scan(u, delta, A, B, C, self.D, h_0, method, negative)
        return self.out_proj((y * silu(z)).contiguous()), (tail.mT.contiguous(), h)

    def _convolution(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """`causal_convolution` with the weights of this layer."""
        weight, bias = self.conv1d.weight, self.conv1d.bias
        if x.device.type == "cpu":  # where it takes a third of the time of the kernel
            return causal_convolution(x, tail, weight, bias)
        length = x.shape[1]
        x = torch.cat([tail.to(x.dtype), x], dim=1)  # (batch, d_conv - 1 + length, d_inner)
        channels = conv1d(x.mT, weight, bias, groups=self.d_inner)
        # Contiguous: else torch multiplies by another kernel, which rounds differently, where no
        # parameter requires a gradient. And a copy, so that the state does not hold on to x.
        return channels.mT.contiguous(), x[:, length:].clone()

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        """The state before the first token."""
        tail = torch.zeros(batch_size, self.d_inner, self.d_conv - 1, device=device, dtype=dtype)
        h_dtype = torch.promote_types(dtype, torch.float32)
        return tail, tail.new_zeros(batch_size, self.d_inner, self.d_state, dtype=h_dtype)


class MambaBlock(SequenceBlock):
    """Norm, layer, residual; its state has the same size after any number of tokens."""

    def __init__(self, layer: MambaLayer) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(layer.d_model, eps=1e-5)
        self.layer = layer

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        o, state = self.layer(self.norm(u), state)
        return u + o, state

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        return self.layer.init_state(batch_size, device, dtype)

    def state_size(self, num_tokens: int) -> int:
        return self.layer.d_inner * (self.layer.d_conv - 1 + self.layer.d_state)
