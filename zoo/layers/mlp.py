"""The feed-forward half of a transformer block."""

from torch import Tensor, nn


class MLP(nn.Module):
    """W_2 gelu(W_1 u + b_1) + b_2, token by token.

    Args:
        d_model: Width of a token.
        d_hidden: Width in between.
    """

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden)
        self.activation = nn.GELU()
        self.down = nn.Linear(d_hidden, d_model)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, d_model) to the same."""
        hidden = self.activation(self.up(u))  # (batch, length, d_hidden)
        output: Tensor = self.down(hidden)
        return output
