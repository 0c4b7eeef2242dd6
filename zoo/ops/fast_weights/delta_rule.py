"""The delta rule: a step of least mean squares for every token."""

from torch import Tensor

from zoo.ops.fast_weights.arguments import Method
from zoo.ops.fast_weights.gated_delta_rule import gated_delta_rule


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- S + beta k (v - S^T k)^T: a gradient step of rate beta on 1/2 |S^T k - v|^2.

    Source: DeltaNet, Yang et al. 2024 (arXiv 2406.06484).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        beta: Rates, (batch, length, heads).
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    return gated_delta_rule(
        q, k, v, beta, None, initial_state=initial_state, inclusive=inclusive, method=method
    )
