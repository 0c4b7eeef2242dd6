"""The Gated DeltaNet layer, and its form with a decay for every coordinate of the keys.

Sources: "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv 2412.06464, and "Kimi
Linear", arXiv 2510.26692; `GatedDeltaNet` and `KimiDeltaAttention` of flash-linear-attention.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.block import BlockState
from zoo.layers.decay_gate import log_decay, reset_decay_
from zoo.layers.delta_net import DeltaMixer
from zoo.layers.head_norm import GatedRMSNorm, unit
from zoo.layers.mixer import check_sizes
from zoo.layers.short_convolution import ShortConvolution
from zoo.ops.fast_weights import gated_delta_rule


class GatedDeltaNetLayer(DeltaMixer):
    """Gated DeltaNet, with the parameter names and shapes of the published layer.

    For every token s_t, and for each head by itself,

        q_t, k_t, v_t = silu(conv1d(proj(s)))_t, of its own each; q_t and k_t divided by their norm
        beta_t = sigmoid(b_proj(s_t)), times 2 with `negative_eigenvalues`
        g_t = -exp(A_log) softplus(a_proj(s_t) + dt_bias)
        o_t = gated_delta_rule(q / sqrt(d_head), k, v, beta, g)_t
        output_t = o_proj(rms_norm(o_t) silu(g_proj(s_t)))

    Start: exp(A_log) uniform in (0, 16), softplus(dt_bias) log-uniform in (0.001, 0.1), maps as
    `nn.Linear` and `nn.Conv1d`.

    Args:
        d_model: Width of a token.
        num_heads: Heads.
        d_head: Size of a query or key of a head.
        expand_v: Size of a value, in sizes of a key.
        d_conv: Number of tokens under the convolutions, the current one included.
        negative_eigenvalues: Whether beta reaches to 2 and I - beta k k^T may reflect.

    Raises:
        ValueError: If a size is not positive.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias")

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        d_head: int = 16,
        expand_v: int = 2,
        d_conv: int = 4,
        negative_eigenvalues: bool = False,
    ) -> None:
        super().__init__(d_model)
        check_sizes(
            d_model=d_model, num_heads=num_heads, d_head=d_head, expand_v=expand_v, d_conv=d_conv
        )
        self.num_heads, self.d_head, self.d_value = num_heads, d_head, expand_v * d_head
        self.d_conv = d_conv
        self.beta_scale = 2.0 if negative_eigenvalues else 1.0
        key_dim, value_dim = num_heads * d_head, num_heads * self.d_value
        self.q_proj = nn.Linear(d_model, key_dim, bias=False)
        self.k_proj = nn.Linear(d_model, key_dim, bias=False)
        self.v_proj = nn.Linear(d_model, value_dim, bias=False)
        self.b_proj = nn.Linear(d_model, num_heads, bias=False)
        self.q_conv1d = ShortConvolution(key_dim, d_conv)
        self.k_conv1d = ShortConvolution(key_dim, d_conv)
        self.v_conv1d = ShortConvolution(value_dim, d_conv)
        self.o_proj = nn.Linear(value_dim, d_model, bias=False)
        self.add_gates(value_dim)

    def add_gates(self, value_dim: int) -> None:
        """The parameters of decay and output gate."""
        self.a_proj = nn.Linear(self.d_model, self.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        reset_decay_(self.A_log, self.dt_bias, 0)
        self.g_proj: nn.Module = nn.Linear(self.d_model, value_dim, bias=False)
        self.o_norm = GatedRMSNorm(self.d_value)

    def log_decay(self, s: Tensor) -> Tensor:
        """g, (batch, length, num_heads)."""
        return log_decay(self.a_proj(s), self.A_log, self.dt_bias)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, S = self.start(s, state)
        (q, k, v), tail = self.convolved(s, tail)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, v))
        beta = self.beta_scale * torch.sigmoid(self.b_proj(s))
        q = self.d_head**-0.5 * unit(q)
        o, S = gated_delta_rule(q, unit(k), v, beta, self.log_decay(s), initial_state=S)
        gate = self.g_proj(s).unflatten(-1, (self.num_heads, -1))
        return self.o_proj(self.o_norm(o, gate).flatten(2)), (tail, S)


class KimiDeltaAttentionLayer(GatedDeltaNetLayer):
    """Kimi delta attention, with the parameter names and shapes of the published layer.

    As Gated DeltaNet, with maps through a narrow layer of the size of a value:

        g_t = -exp(A_log) softplus(f_proj(s_t) + dt_bias), one for each coordinate of the keys
        output_t = o_proj(rms_norm(o_t) sigmoid(g_proj(s_t)))

    and exp(A_log) starts uniform in (1, 16).
    """

    def add_gates(self, value_dim: int) -> None:
        key_dim = self.num_heads * self.d_head
        self.f_proj = nn.Sequential(
            nn.Linear(self.d_model, self.d_value, bias=False),
            nn.Linear(self.d_value, key_dim, bias=False),
        )
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(key_dim))
        reset_decay_(self.A_log, self.dt_bias, 1)
        self.g_proj = nn.Sequential(
            nn.Linear(self.d_model, self.d_value, bias=False), nn.Linear(self.d_value, value_dim)
        )
        self.o_norm = GatedRMSNorm(self.d_value, "sigmoid")

    def log_decay(self, s: Tensor) -> Tensor:
        """g, (batch, length, num_heads, d_head)."""
        g = log_decay(self.f_proj(s), self.A_log.repeat_interleave(self.d_head), self.dt_bias)
        by_head: Tensor = g.unflatten(-1, (self.num_heads, self.d_head))
        return by_head
