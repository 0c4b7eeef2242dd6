"""The residual block that deep sequence models are stacks of."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

BlockState = tuple[Tensor, ...]


class SequenceBlock(nn.Module):
    """One residual block of a causal sequence model.

    A state is what the block remembers of the tokens so far: a tuple of tensors whose first
    dimension is the batch. States are values; no method changes one in place.
    """

    @abstractmethod
    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes further tokens.

        Args:
            u: (batch, length, d_model), length >= 1.
            state: After the tokens before them, from `init_state` or an earlier call; `()` stands
                for the one before the first token, and can save a block the work with zeros.

        Returns:
            Outputs (batch, length, d_model), and the state after the last token.
        """

    @abstractmethod
    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        """The state before the first token."""

    @abstractmethod
    def state_size(self, num_tokens: int) -> int:
        """Real numbers in the state of one sequence after `num_tokens` tokens."""
