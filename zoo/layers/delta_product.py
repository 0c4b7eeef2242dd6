"""The Gated DeltaProduct layer: several delta steps for every token.

Source: "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products", arXiv
2502.10297; `GatedDeltaProduct` of flash-linear-attention.
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
from zoo.ops.fast_weights import delta_product


class DeltaProductLayer(DeltaMixer):
    """Gated DeltaProduct, with the parameter names and shapes of the published layer.

    As `GatedDeltaNetLayer`, but with `num_updates` keys, values and rates for every token s_t:

        o_t = delta_product(q / sqrt(d_head), k, v, beta, g)_t

    which decays once and takes `num_updates` delta steps.

    Args:
        d_model: Width of a token.
        num_updates: Delta steps for every token, the published `num_householder`.
        num_heads: Heads.
        d_head: Size of a query or key of a head.
        expand_v: Size of a value, in sizes of a key.
        d_conv: Number of tokens under the convolutions, the current one included.
        negative_eigenvalues: Whether beta reaches to 2, so that steps may be reflections.

    Raises:
        ValueError: If a size is not positive.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias")

    def __init__(
        self,
        d_model: int,
        num_updates: int = 2,
        num_heads: int = 4,
        d_head: int = 16,
        expand_v: int = 2,
        d_conv: int = 4,
        negative_eigenvalues: bool = True,
    ) -> None:
        super().__init__(d_model)
        check_sizes(
            d_model=d_model,
            num_updates=num_updates,
            num_heads=num_heads,
            d_head=d_head,
            expand_v=expand_v,
            d_conv=d_conv,
        )
        self.num_updates = num_updates
        self.num_heads, self.d_head, self.d_value = num_heads, d_head, expand_v * d_head
        self.d_conv = d_conv
        self.beta_scale = 2.0 if negative_eigenvalues else 1.0
        key_dim, value_dim = num_heads * d_head, num_heads * self.d_value
        self.q_proj = nn.Linear(d_model, key_dim, bias=False)
        self.k_proj = nn.Linear(d_model, num_updates * key_dim, bias=False)
        self.v_proj = nn.Linear(d_model, num_updates * value_dim, bias=False)
        self.b_proj = nn.Linear(d_model, num_updates * num_heads, bias=False)
        self.a_proj = nn.Linear(d_model, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))
        reset_decay_(self.A_log, self.dt_bias, 0)
        self.q_conv1d = ShortConvolution(key_dim, d_conv)
        self.k_conv1d = ShortConvolution(num_updates * key_dim, d_conv)
        self.v_conv1d = ShortConvolution(num_updates * value_dim, d_conv)
        self.g_proj = nn.Linear(d_model, value_dim, bias=False)
        self.o_norm = GatedRMSNorm(self.d_value)
        self.o_proj = nn.Linear(value_dim, d_model, bias=False)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, S = self.start(s, state)
        (q, k, v), tail = self.convolved(s, tail)
        heads, updates = self.num_heads, (self.num_updates, self.num_heads)
        q = self.d_head**-0.5 * unit(q.unflatten(-1, (heads, -1)))
        k = unit(k.unflatten(-1, (*updates, -1)))  # (batch, length, num_updates, heads, d_head)
        v = v.unflatten(-1, (*updates, -1))
        beta = self.beta_scale * torch.sigmoid(self.b_proj(s)).unflatten(-1, updates)
        g = log_decay(self.a_proj(s), self.A_log, self.dt_bias)  # (batch, length, heads)
        o, S = delta_product(q, k, v, beta, g, initial_state=S)
        gate = self.g_proj(s).unflatten(-1, (heads, -1))
        return self.o_proj(self.o_norm(o, gate).flatten(2)), (tail, S)
