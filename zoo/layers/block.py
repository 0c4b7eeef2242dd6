"""The residual block that deep sequence models are stacks of."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

BlockState = tuple[Tensor, ...]


class SequenceBlock(nn.Module):
    """One residual block of a causal sequence model.

    A state is what the block remembers of the tokens so far: a tuple of tensors whose first
    dimension is the batch. States are values; no method changes one in place.

    Attributes:
        asks_at_once: Whether `ask` is one pass over all tokens, fit for training.
    """

    asks_at_once: ClassVar[bool] = False

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

    def ask(self, pairs: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Processes pairs, and queries each of which sees the pairs before it and leaves no trace.

        Here one after the other; a block that can do all at once overrides it.

        Args:
            pairs: The first tokens of their sequences, (batch, N, d_model).
            queries: (batch, N + 1, d_model). Query i goes on from the state after i pairs.

        Returns:
            Outputs at the pairs and at the queries, of the same shapes.
        """
        state: BlockState = ()
        after, answers = [pairs[:, :0]], []
        for i, query in enumerate(queries.split(1, dim=1)):
            answers.append(self(query, state)[0])
            if i < pairs.shape[1]:
                u, state = self(pairs[:, i : i + 1], state)
                after.append(u)
        return torch.cat(after, dim=1), torch.cat(answers, dim=1)

    @abstractmethod
    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        """The state before the first token."""

    @abstractmethod
    def state_size(self, num_tokens: int) -> int:
        """Real numbers in the state of one sequence after `num_tokens` tokens."""
