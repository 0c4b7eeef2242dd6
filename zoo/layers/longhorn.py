"""The Longhorn layer: implicit steps on the loss of every token, in a Mamba block.

Source: "Longhorn: State Space Models are Amortized Online Learners", arXiv 2407.14207; `Longhorn`
of its published code.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from zoo.layers.block import BlockState
from zoo.layers.mixer import Mixer, check_sizes, zeros
from zoo.layers.short_convolution import ShortConvolution
from zoo.ops.fast_weights import longhorn


class LonghornLayer(Mixer):
    """Longhorn, with the parameter names and shapes of the published layer.

    With d_inner = expand * d_model, for every token s_t

        x_t, z_t = in_proj(s_t)                            two branches
        x_t = silu(conv1d(x))_t                            each channel by itself
        dt_t, k_t, q_t = x_proj(x_t)
        beta_t = sigmoid(dt_head(dt_t))                    one for each channel
        y_t = longhorn(q, k, x, beta, diagonal=True)_t + D x_t
        output_t = out_proj(y_t silu(z_t))

    so that a channel is a value of size one, and keys are the same for all. Start: D one, the bias
    of dt_head zero, maps as `nn.Linear` and `nn.Conv1d`.

    Args:
        d_model: Width of a token.
        d_state: Size of a query or key.
        d_conv: Number of tokens under the convolution, the current one included.
        expand: Channels for each coordinate of a token.
        dt_rank: Width of dt_t; `"auto"` is d_model / 16, rounded up.

    Raises:
        ValueError: If a size is not positive.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("D",)

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        check_sizes(
            d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=self.dt_rank
        )
        self.d_inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = ShortConvolution(self.d_inner, d_conv, bias=True)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_head = nn.Linear(self.dt_rank, self.d_inner)
        nn.init.zeros_(self.dt_head.bias)
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, S = self.start(s, state)
        x, z = self.in_proj(s).chunk(2, dim=-1)  # (batch, length, d_inner) each
        x, tail = self.conv1d(x, tail)
        x = silu(x)
        dt, k, q = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        beta = torch.sigmoid(self.dt_head(dt))
        one_head = (part[:, :, None] for part in (q, k, x, beta))
        y, S = longhorn(*one_head, diagonal=True, initial_state=S)
        y = y[:, :, 0] + self.D * x
        # A copy, so that the state of a stream does not keep all the others in memory.
        return self.out_proj(y * silu(z)), (tail, S.clone())

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        tail = torch.zeros(batch_size, self.d_conv - 1, self.d_inner, device=device, dtype=dtype)
        return tail, zeros(batch_size, 1, self.d_state, self.d_inner, device=device, dtype=dtype)
