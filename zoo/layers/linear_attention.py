"""Linear self-attention: without a softmax, sums over tokens are all it needs to know of them."""

import torch
from torch import Tensor, nn


class LinearAttention(nn.Module):
    """e_j <- e_j + sum_h P_h (sum_i (W_V,h e_i) (W_K,h e_i)^T) W_Q,h e_j, without a softmax.

    Which tokens i a token j sees is up to the caller. A token of zeros adds nothing to any sum and
    stays zero, so zeros stand for tokens that are not there.

    Args:
        d_token: Width of a token.
        num_heads: Heads, each with four (d_token, d_token) matrices.
        scale: Standard deviation of the random start of every matrix.
    """

    W_Q: nn.Parameter
    W_K: nn.Parameter
    W_V: nn.Parameter
    P: nn.Parameter

    def __init__(self, d_token: int, num_heads: int, scale: float) -> None:
        super().__init__()
        for name in ("W_Q", "W_K", "W_V", "P"):
            weight = nn.Parameter(torch.empty(num_heads, d_token, d_token))
            self.register_parameter(name, weight)
            nn.init.normal_(weight, std=scale)

    def moments(self, e: Tensor) -> Tensor:
        """(W_V e_i) (W_K e_i)^T of each token, (..., num_tokens, num_heads, d, d)."""
        values = torch.einsum("hpq,...q->...hp", self.W_V, e)
        keys = torch.einsum("hpq,...q->...hp", self.W_K, e)
        return values[..., :, None] * keys[..., None, :]

    def summed_moments(self, e: Tensor) -> Tensor:
        """`moments(e)` summed over the tokens, (..., num_heads, d, d)."""
        values = torch.einsum("hpq,...iq->...hip", self.W_V, e)
        keys = torch.einsum("hpq,...iq->...hip", self.W_K, e)
        return values.mT @ keys

    def update(self, e: Tensor, M: Tensor) -> Tensor:
        """The tokens after one layer.

        Args:
            e: (..., num_tokens, d).
            M: Sums over what each token sees, (..., num_tokens, num_heads, d, d) or, where all
                see the same, (..., 1, num_heads, d, d).

        Returns:
            (..., num_tokens, d).
        """
        queries = torch.einsum("hpq,...q->...hp", self.W_Q, e)  # (..., num_tokens, heads, d)
        read = (M @ queries[..., None])[..., 0]
        return e + torch.einsum("hpq,...hq->...p", self.P, read)
