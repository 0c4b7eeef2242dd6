"""The DeltaNet layer: a delta rule on normalised keys behind short convolutions.

Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv
2406.06484; `DeltaNet` of flash-linear-attention.
"""

import torch
from torch import Tensor, nn

from zoo.layers.block import BlockState
from zoo.layers.head_norm import unit
from zoo.layers.mixer import EPS, Mixer, check_sizes, zeros
from zoo.layers.short_convolution import ShortConvolution, project_and_convolve
from zoo.ops.fast_weights import delta_rule


class DeltaMixer(Mixer):
    """What layers of delta rules share: convolved queries, keys and values, and their state.

    The state is the tokens under the convolutions and a matrix (d_head, d_value) for each head.
    """

    num_heads: int
    d_head: int
    d_value: int
    d_conv: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    q_conv1d: ShortConvolution
    k_conv1d: ShortConvolution
    v_conv1d: ShortConvolution

    def convolved(self, s: Tensor, tail: Tensor) -> tuple[list[Tensor], Tensor]:
        """Queries, keys and values of the tokens s, all heads in a row, and the new tail."""
        projections = [self.q_proj, self.k_proj, self.v_proj]
        return project_and_convolve(
            s, tail, projections, [self.q_conv1d, self.k_conv1d, self.v_conv1d]
        )

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        channels = sum(len(c.weight) for c in (self.q_conv1d, self.k_conv1d, self.v_conv1d))
        tail = torch.zeros(batch_size, self.d_conv - 1, channels, device=device, dtype=dtype)
        sizes = self.num_heads, self.d_head, self.d_value
        return tail, zeros(batch_size, *sizes, device=device, dtype=dtype)


class DeltaNetLayer(DeltaMixer):
    """DeltaNet, with the parameter names and shapes of the published layer.

    For every token s_t, and for each head by itself,

        q_t, k_t, v_t = silu(conv1d(proj(s)))_t, of its own each; q_t and k_t divided by their norm
        beta_t = sigmoid(b_proj(s_t)), times 2 with `negative_eigenvalues`
        o_t = delta_rule(q / sqrt(d_head), k, v, beta)_t
        output_t = o_proj(rms_norm(o_t))

    Maps start as `nn.Linear` and `nn.Conv1d` do.

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

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        d_head: int = 16,
        expand_v: int = 1,
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
        self.o_norm = nn.RMSNorm(self.d_value, eps=EPS)
        self.o_proj = nn.Linear(value_dim, d_model, bias=False)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, S = self.start(s, state)
        (q, k, v), tail = self.convolved(s, tail)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, v))
        beta = self.beta_scale * torch.sigmoid(self.b_proj(s))
        q = self.d_head**-0.5 * unit(q)
        o, S = delta_rule(q, unit(k), v, beta, initial_state=S)
        return self.o_proj(self.o_norm(o).flatten(2)), (tail, S)
