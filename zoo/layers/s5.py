"""The S5 layer and its block: a diagonal state space with many inputs and outputs.

Source: "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933.
"""

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.discretization import Discretization, bilinear, zoh
from zoo.layers.initialization import diagonal_hippo, lecun_normal
from zoo.layers.layer_norm import LayerNorm
from zoo.ops.precision import without_autocast
from zoo.ops.scan import Method, diagonal_scan

Activation = Literal["gelu", "half_glu", "full_glu"]


class S5Layer(nn.Module):
    """One S5 layer: a complex diagonal recurrence between two full matrices.

    For inputs u_t (d_model) and P = d_state / 2 complex states, each standing for itself and its
    conjugate,

        x_t = Lambda_bar * x_{t-1} + B_bar u_t,   x_0 = 0
        y_t = 2 Re(C x_t) + D * u_t

    where Lambda_bar and B_bar discretize Lambda = Lambda_re + i Lambda_im and B with the steps
    exp(log_step). Parameters have the names, shapes and start of the published code: `Lambda_re`
    (P,), `Lambda_im` (P,), `B` (P, d_model, 2), `C` (d_model, P, 2), `D` (d_model,), `log_step`
    (P, 1), with real and imaginary parts along the last dimension of B and C.

    Stability: with `clip_eigs`, real parts above -1e-4 count as -1e-4, so that no stream, however
    long, makes the state grow without bound; the published code has the same option and leaves it
    off by default. The two agree as long as no real part is above -1e-4.

    Args:
        d_model: Width of inputs and outputs.
        d_state: Number of states, 2P.
        num_blocks: Blocks of the HiPPO-N matrix whose eigenvalues Lambda starts from.
        discretization: `"zoh"` or `"bilinear"`.
        dt_min: Smallest step at the start.
        dt_max: Largest step at the start; in between, its logarithm is uniform.
        clip_eigs: Whether the real part of Lambda is kept below zero.

    Raises:
        ValueError: If d_state is not a multiple of 2 * num_blocks, the steps are not in order or
            the discretization is unknown.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("Lambda_re", "Lambda_im", "log_step", "B")

    def __init__(
        self,
        d_model: int,
        d_state: int,
        num_blocks: int = 1,
        discretization: Discretization = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        clip_eigs: bool = True,
    ) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model must be at least 1, got {d_model}")
        if discretization not in get_args(Discretization):
            raise ValueError(f"discretization must be 'zoh' or 'bilinear', got {discretization!r}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"steps must satisfy 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        self.num_blocks = num_blocks
        self.discretization = discretization
        self.dt_min, self.dt_max = dt_min, dt_max
        self.clip_eigs = clip_eigs
        P = d_state // 2
        self.Lambda_re = nn.Parameter(torch.empty(P))
        self.Lambda_im = nn.Parameter(torch.empty(P))
        self.B = nn.Parameter(torch.empty(P, d_model, 2))
        self.C = nn.Parameter(torch.empty(d_model, P, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.log_step = nn.Parameter(torch.empty(P, 1))
        self._start_from(*diagonal_hippo(d_state, num_blocks))

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        self._start_from(*diagonal_hippo(2 * len(self.Lambda_re), self.num_blocks))

    @torch.no_grad()
    def _start_from(self, Lambda: Tensor, V: Tensor) -> None:
        d_state, d_model = len(V), len(self.D)
        self.Lambda_re.copy_(Lambda.real)
        self.Lambda_im.copy_(Lambda.imag)
        # B and C are drawn for the real system of all states, then turned into eigencoordinates.
        B = V.mH @ lecun_normal(d_state, d_model).to(V.dtype)
        C = torch.view_as_complex(lecun_normal(d_model, d_state, 2)) @ V
        self.B.copy_(torch.view_as_real(B))
        self.C.copy_(torch.view_as_real(C))
        nn.init.normal_(self.D)
        nn.init.uniform_(self.log_step, math.log(self.dt_min), math.log(self.dt_max))

    def forward(
        self, u: Tensor, x: Tensor | None = None, method: Method = "chunked"
    ) -> tuple[Tensor, Tensor]:
        """The outputs, and the state to go on from.

        Args:
            u: (batch, length, d_model), length >= 1.
            x: State before the first of them, complex, (batch, P); zero unless given.
            method: How to run the recurrence, see `diagonal_scan`.

        Returns:
            y (batch, length, d_model) and the last state (batch, P).

        Raises:
            ValueError: If u or x has another shape.
        """
        if u.ndim != 3 or u.shape[1] == 0 or u.shape[2] != len(self.D):
            raise ValueError(
                f"u must be (batch, length, {len(self.D)}) with length >= 1, got {tuple(u.shape)}"
            )
        state_shape = (len(u), len(self.Lambda_re))
        if x is not None and x.shape != state_shape:
            raise ValueError(f"x must be complex, {state_shape}, got {tuple(x.shape)}")
        with without_autocast(u.device):
            dtype = u.dtype
            u = u.to(torch.promote_types(torch.promote_types(dtype, self.D.dtype), torch.float32))
            Lambda_bar, B_bar = self._discretize(u.dtype)
            # Matrix products are real, with real and imaginary parts side by side: half the work.
            B_pairs = torch.view_as_real(B_bar).mT.flatten(0, 1)  # (2P, d_model)
            C_re, C_im = self.C.to(u.dtype).unbind(-1)
            C_pairs = torch.stack([2 * C_re, -2 * C_im], dim=-1).flatten(1)  # (d_model, 2P)
            Bu = torch.view_as_complex(linear(u, B_pairs).view(*u.shape[:2], len(Lambda_bar), 2))
            states = diagonal_scan(Lambda_bar, Bu, x, method)  # (batch, length, P)
            y = linear(torch.view_as_real(states).flatten(-2), C_pairs)
            y = torch.addcmul(y, self.D.to(u.dtype), u)
            # A copy, so that the state of a stream does not keep all the others in memory.
            return y.to(dtype), states[:, -1].clone()

    def _discretize(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        Lambda_re = self.Lambda_re.clamp(max=-1e-4) if self.clip_eigs else self.Lambda_re
        Lambda = torch.complex(Lambda_re.to(dtype), self.Lambda_im.to(dtype))
        B = torch.view_as_complex(self.B.to(dtype))
        discretize = zoh if self.discretization == "zoh" else bilinear
        return discretize(Lambda, B, self.log_step.to(dtype).exp().squeeze(-1))


class S5Block(SequenceBlock):
    """norm, S5 layer, activation, residual: u + activation(S5(norm(u))).

    The activations are those of the published code, with z the layer's output and gelu in its tanh
    form: `"gelu"` is gelu(z), `"half_glu"` gelu(z) * sigmoid(out2(gelu(z))), `"full_glu"`
    out1(gelu(z)) * sigmoid(out2(gelu(z))). The state is one complex tensor (batch, d_state / 2).

    Raises:
        ValueError: If the activation is unknown.
    """

    def __init__(self, layer: S5Layer, activation: Activation = "half_glu") -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}"
            )
        d_model = len(layer.D)
        self.norm = LayerNorm(d_model)
        self.layer = layer
        self.out1 = nn.Linear(d_model, d_model) if activation == "full_glu" else None
        self.out2 = nn.Linear(d_model, d_model) if activation != "gelu" else None

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        z, x = self.layer(self.norm(u), *state)
        z = gelu(z, approximate="tanh")
        if self.out2 is not None:
            value = z if self.out1 is None else self.out1(z)
            z = value * torch.sigmoid(self.out2(z))
        return u + z, (x,)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        P = len(self.layer.Lambda_re)
        dtype = torch.promote_types(dtype, torch.complex64)
        return (torch.zeros(batch_size, P, device=device, dtype=dtype),)

    def state_size(self, num_tokens: int) -> int:
        return 2 * len(self.layer.Lambda_re)
