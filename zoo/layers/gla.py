"""The layer of gated linear attention.

Source: "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv 2312.06635;
`GatedLinearAttention` of flash-linear-attention.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid

from zoo.layers.block import BlockState
from zoo.layers.head_norm import GatedRMSNorm
from zoo.layers.mixer import Mixer, check_sizes, zeros
from zoo.ops.fast_weights import gated_linear_attention

# Published sizes: the logarithm of a decay is divided by the first, its map goes through as many
# numbers as the second says.
GATE_NORMALIZER, GATE_RANK = 16, 16


class GatedLinearAttentionLayer(Mixer):
    """Gated linear attention, with the parameter names and shapes of the published layer.

    For every token s_t, and for each head by itself,

        q_t, k_t, v_t = q_proj(s_t), k_proj(s_t), v_proj(s_t)
        g_t = log sigmoid(gk_proj(s_t)) / 16, one for each coordinate of the keys
        o_t = gated_linear_attention(q / sqrt(d_head), k, v, g)_t
        output_t = o_proj(rms_norm(o_t) silu(g_proj(s_t)))

    There is no convolution and no norm of queries and keys. Maps start as `nn.Linear` does.

    Args:
        d_model: Width of a token.
        num_heads: Heads.
        d_head: Size of a query or key of a head.
        expand_v: Size of a value, in sizes of a key.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self, d_model: int, num_heads: int = 4, d_head: int = 8, expand_v: int = 2
    ) -> None:
        super().__init__(d_model)
        check_sizes(d_model=d_model, num_heads=num_heads, d_head=d_head, expand_v=expand_v)
        self.num_heads, self.d_head, self.d_value = num_heads, d_head, expand_v * d_head
        key_dim, value_dim = num_heads * d_head, num_heads * self.d_value
        self.q_proj = nn.Linear(d_model, key_dim, bias=False)
        self.k_proj = nn.Linear(d_model, key_dim, bias=False)
        self.v_proj = nn.Linear(d_model, value_dim, bias=False)
        self.g_proj = nn.Linear(d_model, value_dim, bias=False)
        self.gk_proj = nn.Sequential(
            nn.Linear(d_model, GATE_RANK, bias=False), nn.Linear(GATE_RANK, key_dim)
        )
        self.o_proj = nn.Linear(value_dim, d_model, bias=False)
        self.g_norm_swish_gate = GatedRMSNorm(self.d_value)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        (S,) = self.start(s, state)
        projections = self.q_proj, self.k_proj, self.v_proj, self.g_proj
        parts = linear(s, torch.cat([projection.weight for projection in projections]))
        parts = parts.split([projection.out_features for projection in projections], dim=-1)
        q, k, v, gate = (part.unflatten(-1, (self.num_heads, -1)) for part in parts)
        logits = self.gk_proj(s).unflatten(-1, (self.num_heads, -1))
        wide = torch.promote_types(logits.dtype, torch.float32)
        g = logsigmoid(logits.to(wide)) / GATE_NORMALIZER  # (batch, length, heads, d_head)
        o, S = gated_linear_attention(self.d_head**-0.5 * q, k, v, g, initial_state=S)
        return self.o_proj(self.g_norm_swish_gate(o, gate).flatten(2)), (S,)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        sizes = self.num_heads, self.d_head, self.d_value
        return (zeros(batch_size, *sizes, device=device, dtype=dtype),)
