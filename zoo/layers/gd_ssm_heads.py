"""The GD-SSM layer in heads, inside a residual block that can be stacked.

Source of the layer: "State-space models can learn in-context by gradient descent",
arXiv 2410.11687; heads and block are ours.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.layer_norm import LayerNorm
from zoo.layers.mlp import MLP
from zoo.layers.recurrence import (
    CHUNK,
    Decay,
    Recurrence,
    decay_parameters,
    read_states,
    reset_decay,
)
from zoo.layers.tokens import windows_of_tokens
from zoo.ops.precision import without_autocast
from zoo.ops.scan import Method


class GDSSMHeads(nn.Module):
    """The GD-SSM layer on windows that move token by token, in several heads.

    With s_t the part of a head, (d_head,), and the windows S_t = [s_{t-2}; s_{t-1}; s_t], where
    tokens before the first are zero, each head computes

        Z_t = Lambda_bar * Z_{t-1} + S_t^T Q S_t,   Z_0 = 0
        o_t = Z_t^T (S_t^T D)

    with Lambda_bar[p, q] = exp(min(Lambda_re[p, q], 0) * exp(log_step[q])). The matrix C of
    `GDSSMLayer` is left to the projection that mixes the heads afterwards.

    Parameters, with H heads: `Q (H, 3, 3)`, `D (H, 3)`, and for elementwise decay
    `Lambda_re (H, d_head, d_head)` and `log_step (H, d_head, 1)`.

    Args:
        num_heads: H.
        d_head: Width of the part of a token that a head sees.
        decay: `"elementwise"` learns Lambda_bar; `"none"` fixes it to one.
        scale_Q: Standard deviation of the random start of Q.
        scale_D: Standard deviation of the random start of D.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("Lambda_re", "log_step")

    def __init__(
        self,
        num_heads: int,
        d_head: int,
        decay: Decay = "elementwise",
        scale_Q: float = 0.3,
        scale_D: float = 0.6,
    ) -> None:
        super().__init__()
        self.num_heads, self.d_head = num_heads, d_head
        self.scale_Q, self.scale_D = scale_Q, scale_D
        self.Q = nn.Parameter(torch.empty(num_heads, 3, 3))
        self.D = nn.Parameter(torch.empty(num_heads, 3))
        self.Lambda_re, self.log_step = decay_parameters(decay == "elementwise", num_heads, d_head)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        nn.init.normal_(self.Q, std=self.scale_Q)
        nn.init.normal_(self.D, std=self.scale_D)
        reset_decay(self.Lambda_re, self.log_step)

    def forward(
        self, s: Tensor, tail: Tensor, Z: Tensor, method: Method = "chunked"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Processes further tokens.

        Args:
            s: (batch, length, H, d_head), length >= 1.
            tail: The two tokens before them, (batch, 2, H, d_head).
            Z: State after the tokens before them, (batch, H, d_head, d_head).
            method: `"chunked"`, or the reference `"loop"` over tokens.

        Returns:
            o (batch, length, H, d_head), and the new tail and state.

        Raises:
            ValueError: If the method is unknown.
        """
        if method not in ("chunked", "loop"):
            raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")
        with without_autocast(s.device):
            dtype, Z_dtype = s.dtype, torch.promote_types(s.dtype, torch.float32)
            Z_dtype = torch.promote_types(Z_dtype, self.Q.dtype)
            recurrence = Recurrence(self.Q, self.Lambda_re, self.log_step).to(Z_dtype)
            padded = torch.cat([tail.to(dtype), s], dim=1)  # (batch, 2 + length, H, d_head)
            S = windows_of_tokens(padded.to(Z_dtype), stride=1)  # (3, length, batch, H, d_head)
            r = torch.einsum("ha,anbhp->nbhp", self.D.to(Z_dtype), S)
            Z, outputs = Z.to(Z_dtype), []
            for S_t, r_t in zip(S.split(CHUNK, dim=1), r.split(CHUNK), strict=True):
                states = recurrence.states(S_t, Z, method)  # (n, batch, H, d_head, d_head)
                outputs.append(read_states(states, r_t))
                Z = states[-1]
            # Contiguous: else torch multiplies by another kernel, which rounds differently, where
            # no parameter requires a gradient.
            o = torch.cat(outputs).transpose(0, 1).contiguous()  # (batch, length, H, d_head)
            # Copies, so that the state of a stream does not keep all tokens in memory.
            return o.to(dtype), padded[:, -2:].clone(), Z.clone()


class GDSSMBlock(SequenceBlock):
    """u + out_proj(heads(in_proj(norm(u)))), then u + mlp(norm(u)).

    The state is the newest two projected tokens and a matrix for each head; it does not grow.

    Args:
        d_model: Width of a token.
        d_head: Width of a head; divides d_model.
        decay: As at `GDSSMHeads`.
        scale_Q: As at `GDSSMHeads`.
        scale_D: As at `GDSSMHeads`.

    Raises:
        ValueError: If d_head does not divide d_model.
    """

    def __init__(
        self,
        d_model: int,
        d_head: int = 16,
        decay: Decay = "elementwise",
        scale_Q: float = 0.3,
        scale_D: float = 0.6,
    ) -> None:
        super().__init__()
        if d_model % d_head != 0:
            raise ValueError(f"d_head must divide d_model = {d_model}, got {d_head}")
        self.norm = LayerNorm(d_model)
        self.in_proj = nn.Linear(d_model, d_model)
        self.heads = GDSSMHeads(d_model // d_head, d_head, decay, scale_Q, scale_D)
        self.out_proj = nn.Linear(d_model, d_model)
        self.mlp_norm = LayerNorm(d_model)
        self.mlp = MLP(d_model, 4 * d_model)

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        s = self.in_proj(self.norm(u)).unflatten(2, (self.heads.num_heads, -1))
        state = state or self.init_state(len(u), u.device, u.dtype)
        o, *after = self.heads(s, *state)  # (batch, length, num_heads, d_head)
        u = u + self.out_proj(o.flatten(2))
        return u + self.mlp(self.mlp_norm(u)), tuple(after)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        num_heads, d_head = self.heads.num_heads, self.heads.d_head
        tail = torch.zeros(batch_size, 2, num_heads, d_head, device=device, dtype=dtype)
        Z_dtype = torch.promote_types(dtype, torch.float32)
        return tail, tail.new_zeros(batch_size, num_heads, d_head, d_head, dtype=Z_dtype)

    def state_size(self, num_tokens: int) -> int:
        return self.heads.num_heads * self.heads.d_head * (self.heads.d_head + 2)
