"""Linear self-attention: without a softmax, sums over tokens are all it needs to know of them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from zoo.ops.fast_weights import linear_attention


def moment_is_cheaper(num_queries: int, num_examples: int, d: int) -> bool:
    """Whether Q (E^T E) takes fewer multiplications than (Q E^T) E, which also keeps Q E^T.

    Args:
        num_queries: Rows of Q (num_queries, d), those of all heads.
        num_examples: Rows of E (num_examples, d).
        d: Width of both.
    """
    return (num_examples + num_queries) * d < 2 * num_queries * num_examples


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

    def attend_to_all(self, e: Tensor, examples: Tensor) -> Tensor:
        """Tokens after the layer, where each sees all examples.

        The matrices of a head are multiplied first: of e_j^T W_Q^T W_K e_i and P W_V e_i the layer
        needs one product per token each instead of two.

        Args:
            e: (..., num_tokens, d).
            examples: The tokens i that they see, (..., N, d).

        Returns:
            (..., num_tokens, d).
        """
        num_heads = len(self.P)
        queries = linear(e, (self.W_K.mT @ self.W_Q).flatten(0, 1))  # (..., num_tokens, heads d)
        queries = queries.unflatten(-1, (num_heads, -1)).flatten(-3, -2)
        if moment_is_cheaper(queries.shape[-2], examples.shape[-2], e.shape[-1]):
            read = queries @ (examples.mT @ examples)  # (..., num_tokens heads, d)
        else:
            read = (queries @ examples.mT) @ examples
        read = read.unflatten(-2, (-1, num_heads)).flatten(-2)  # (..., num_tokens, heads d)
        return e + linear(read, (self.P @ self.W_V).transpose(0, 1).flatten(1))

    def attend_causally(self, e: Tensor, written: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after the layer, where each sees what was written up to itself.

        Args:
            e: (batch, num_tokens, d).
            written: What each token shows to itself and to later ones: itself, or zeros.
            S: Sum over earlier tokens of (W_K e_i) (W_V e_i)^T, (batch, num_heads, d, d).

        Returns:
            Tokens (batch, num_tokens, d), and S after the last one.
        """
        num_heads = len(self.P)
        q, k, v = (
            linear(tokens, W.flatten(0, 1)).unflatten(-1, (num_heads, -1))
            for tokens, W in ((e, self.W_Q), (written, self.W_K), (written, self.W_V))
        )  # (batch, num_tokens, heads, d) each
        read, S = linear_attention(q, k, v, initial_state=S)
        return e + linear(read.flatten(2), self.P.transpose(0, 1).flatten(1)), S
