"""The MesaNet layer: a ridge regression that is solved after every token.

Source: "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training", arXiv 2506.05233;
`MesaNet` of flash-linear-attention.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from zoo.layers.block import BlockState
from zoo.layers.head_norm import unit
from zoo.layers.mixer import EPS, Mixer, check_sizes, zeros
from zoo.layers.short_convolution import ShortConvolution, project_and_convolve
from zoo.ops.fast_weights import mesa

# Of the penalty, as published.
LOWEST_RIDGE, FIRST_RIDGE = 0.25, 1.0


class MesaNetLayer(Mixer):
    """MesaNet, with the parameter names and shapes of the published layer.

    For every token s_t, and for each head by itself,

        q_t, k_t = silu(conv1d(proj(s)))_t, of its own each, divided by their norm
        v_t = v_proj(s_t),   beta_t = sigmoid(b_proj(s_t)),   g_t = log sigmoid(a_proj(s_t))
        o_t = mesa(q, k, v, beta, g, ridge)_t,   ridge = 0.25 + softplus(lambda_params)
        output_t = o_proj(rms_norm(o_t))

    The published code approximates the solution by conjugate gradients; here it is exact. The ridge
    starts at 1, maps as `nn.Linear` and `nn.Conv1d`.

    Args:
        d_model: Width of a token.
        num_heads: Heads.
        d_head: Size of a query, key or value of a head; each token solves a system of that size.
        d_conv: Number of tokens under the convolutions, the current one included.

    Raises:
        ValueError: If a size is not positive.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("lambda_params",)

    def __init__(self, d_model: int, num_heads: int = 4, d_head: int = 16, d_conv: int = 4) -> None:
        super().__init__(d_model)
        check_sizes(d_model=d_model, num_heads=num_heads, d_head=d_head, d_conv=d_conv)
        self.num_heads, self.d_head, self.d_conv = num_heads, d_head, d_conv
        key_dim = num_heads * d_head
        self.q_proj = nn.Linear(d_model, key_dim, bias=False)
        self.k_proj = nn.Linear(d_model, key_dim, bias=False)
        self.v_proj = nn.Linear(d_model, key_dim, bias=False)
        self.a_proj = nn.Linear(d_model, num_heads)
        self.b_proj = nn.Linear(d_model, num_heads)
        start = math.log(math.expm1(FIRST_RIDGE - LOWEST_RIDGE))  # inverse of softplus
        self.lambda_params = nn.Parameter(torch.full((key_dim,), start))
        self.q_conv1d = ShortConvolution(key_dim, d_conv)
        self.k_conv1d = ShortConvolution(key_dim, d_conv)
        self.o_norm = nn.RMSNorm(d_head, eps=EPS)
        self.o_proj = nn.Linear(key_dim, d_model, bias=False)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, H, G = self.start(s, state)
        (q, k), tail = project_and_convolve(
            s, tail, [self.q_proj, self.k_proj], [self.q_conv1d, self.k_conv1d]
        )
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, self.v_proj(s)))
        wide = torch.promote_types(s.dtype, torch.float32)
        beta = torch.sigmoid(self.b_proj(s).to(wide))  # (batch, length, heads)
        g = logsigmoid(self.a_proj(s).to(wide))
        ridge = LOWEST_RIDGE + softplus(self.lambda_params.to(wide))
        o, (H, G) = mesa(
            unit(q),
            unit(k),
            v,
            beta,
            g,
            ridge.unflatten(0, (self.num_heads, -1)),
            initial_state=(H, G),
        )
        return self.o_proj(self.o_norm(o).flatten(2)), (tail, H, G)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        channels = 2 * self.num_heads * self.d_head
        tail = torch.zeros(batch_size, self.d_conv - 1, channels, device=device, dtype=dtype)
        sizes = batch_size, self.num_heads, self.d_head, self.d_head
        H, G = (zeros(*sizes, device=device, dtype=dtype) for _ in range(2))
        return tail, H, G
