"""Linear attention: a sum of outer products."""

from torch import Tensor

from zoo.ops.fast_weights.arguments import Method
from zoo.ops.fast_weights.gated_linear_attention import gated_linear_attention


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- S + k v^T: a gradient step on -<S^T k, v>.

    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), without feature map and denominator.

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    return gated_linear_attention(
        q, k, v, None, initial_state=initial_state, inclusive=inclusive, method=method
    )
