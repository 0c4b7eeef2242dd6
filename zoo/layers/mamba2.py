"""The Mamba-2 layer: a sum of outer products that fades, one decay for each head.

Source: "Transformers are SSMs", arXiv 2405.21060; `Mamba2` of mamba_ssm.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from zoo.layers.block import BlockState
from zoo.layers.decay_gate import reset_decay_
from zoo.layers.mixer import EPS, Mixer, check_sizes, zeros
from zoo.layers.short_convolution import ShortConvolution
from zoo.ops.fast_weights import gated_linear_attention


class Mamba2Layer(Mixer):
    """Mamba-2, with the parameter names and shapes of the published layer, in one group.

    With d_inner = expand * d_model, divided into heads of d_head, for every token s_t

        z_t, x_t, B_t, C_t, dt_t = in_proj(s_t)
        x_t, B_t, C_t = silu(conv1d(x, B, C))_t         each channel by itself
        delta_t = softplus(dt_t + dt_bias)              one for each head
        y_t = gated_linear_attention(C, B, delta x, -exp(A_log) delta)_t + D x_t
        output_t = out_proj(rms_norm(y_t silu(z_t)))    over all heads

    so that C are queries and B keys, the same for all heads. Start: exp(A_log) uniform in (1, 16),
    softplus(dt_bias) log-uniform in (0.001, 0.1), D one, maps as `nn.Linear` and `nn.Conv1d`.

    Args:
        d_model: Width of a token.
        d_state: Size of a query or key.
        d_head: Channels of a head, the published `headdim`; divides expand * d_model.
        d_conv: Number of tokens under the convolution, the current one included.
        expand: Channels for each coordinate of a token.

    Raises:
        ValueError: If a size is not positive or d_head does not divide the channels.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "D", "dt_bias")

    def __init__(
        self, d_model: int, d_state: int = 32, d_head: int = 32, d_conv: int = 4, expand: int = 2
    ) -> None:
        super().__init__(d_model)
        check_sizes(d_model=d_model, d_state=d_state, d_head=d_head, d_conv=d_conv, expand=expand)
        self.d_inner, self.d_state, self.d_head = expand * d_model, d_state, d_head
        if self.d_inner % d_head:
            raise ValueError(f"d_head must divide expand * d_model = {self.d_inner}, got {d_head}")
        self.num_heads, self.d_conv = self.d_inner // d_head, d_conv
        self.channels = self.d_inner + 2 * d_state  # under the convolution
        self.in_proj = nn.Linear(d_model, self.d_inner + self.channels + self.num_heads, bias=False)
        self.conv1d = ShortConvolution(self.channels, d_conv, bias=True)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        reset_decay_(self.A_log, self.dt_bias, 1)
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = nn.RMSNorm(self.d_inner, eps=EPS)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, S = self.start(s, state)
        sizes = [self.d_inner, self.channels, self.num_heads]
        z, xBC, dt = self.in_proj(s).split(sizes, dim=-1)
        xBC, tail = self.conv1d(xBC, tail)
        x, B, C = silu(xBC).split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1))  # (batch, length, heads, d_head)
        B, C = (part[:, :, None].expand(-1, -1, self.num_heads, -1) for part in (B, C))
        wide = torch.promote_types(s.dtype, torch.float32)
        delta = softplus(dt.to(wide) + self.dt_bias.to(wide))  # (batch, length, heads)
        g = -self.A_log.to(wide).exp() * delta
        y, S = gated_linear_attention(C, B, delta[..., None] * x, g, initial_state=S)
        y = (y + self.D[:, None] * x).to(x.dtype).flatten(2)
        return self.out_proj(self.norm(y * silu(z))), (tail, S)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        tail = torch.zeros(batch_size, self.d_conv - 1, self.channels, device=device, dtype=dtype)
        sizes = self.num_heads, self.d_state, self.d_head
        return tail, zeros(batch_size, *sizes, device=device, dtype=dtype)
