"""A mixer of tokens, and the residual block around it."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from zoo.layers.block import BlockState, SequenceBlock

EPS = 1e-5  # of every RMS norm


class Mixer(nn.Module):
    """A causal layer that mixes tokens and remembers as much after any number of them.

    Args:
        d_model: Width of a token.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    @abstractmethod
    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Processes further tokens.

        Args:
            s: (batch, length, d_model), length >= 1.
            state: After the tokens before; that of `init_state` if missing or empty.

        Returns:
            o (batch, length, d_model), and the state after the last token.

        Raises:
            ValueError: If s has another shape.
        """

    @abstractmethod
    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        """The state before the first token; what is summed up is float32 at least."""

    def state_size(self, num_tokens: int) -> int:
        """Real numbers in the state of one sequence after `num_tokens` tokens."""
        state = self.init_state(1, torch.device("meta"), torch.float32)
        return sum(part.numel() for part in state)

    def start(self, s: Tensor, state: BlockState | None) -> BlockState:
        """The state to go on from.

        Raises:
            ValueError: If the tokens s have another shape than (batch, length, d_model).
        """
        if s.ndim != 3 or s.shape[1] == 0 or s.shape[2] != self.d_model:
            raise ValueError(
                f"tokens must be (batch, length, {self.d_model}) with length >= 1, "
                f"got {tuple(s.shape)}"
            )
        return state or self.init_state(len(s), s.device, s.dtype)


def zeros(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A state that is summed up: zeros of float32 at least."""
    return torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))


def check_sizes(**sizes: int) -> None:
    """Raises ValueError unless all are positive integers."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


class GatedMLP(nn.Module):
    """down_proj(silu(gate_proj(u)) * up_proj(u)), token by token (SwiGLU, arXiv 2002.05202).

    As wide in between as makes it as large as an MLP of 4 d_model: 8/3 d_model, rounded up to a
    multiple of 8. (The published code rounds to one of 256, for large models.)
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        d_hidden = 8 * -(-d_model // 3)
        self.gate_proj = nn.Linear(d_model, d_hidden, bias=False)
        self.up_proj = nn.Linear(d_model, d_hidden, bias=False)
        self.down_proj = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, d_model) to the same."""
        hidden = silu(self.gate_proj(u)) * self.up_proj(u)  # (batch, length, d_hidden)
        output: Tensor = self.down_proj(hidden)
        return output


class MixerBlock(SequenceBlock):
    """u + mixer(norm(u)), then u + mlp(mlp_norm(u)) unless there is no MLP."""

    def __init__(self, mixer: Mixer, mlp: GatedMLP | None) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(mixer.d_model, eps=EPS)
        self.mixer = mixer
        self.mlp_norm = nn.RMSNorm(mixer.d_model, eps=EPS) if mlp is not None else None
        self.mlp = mlp

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        o, state = self.mixer(self.norm(u), state)
        u = u + o
        if self.mlp is not None and self.mlp_norm is not None:
            u = u + self.mlp(self.mlp_norm(u))
        return u, state

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        return self.mixer.init_state(batch_size, device, dtype)

    def state_size(self, num_tokens: int) -> int:
        return self.mixer.state_size(num_tokens)
