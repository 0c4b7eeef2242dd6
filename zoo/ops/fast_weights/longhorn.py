"""Longhorn: an implicit step on the loss of every token."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes, state_type
from zoo.ops.fast_weights.delta_rule import delta_rule
from zoo.ops.precision import without_autocast
from zoo.ops.scan import diagonal_scan


def longhorn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    diagonal: bool = False,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- argmin over S' of |S' - S|^2 + beta |S'^T k - v|^2.

    The solution is a delta step of rate e = beta / (1 + beta |k|^2), stable for every beta > 0. The
    released form keeps the diagonal of k k^T alone, so that every entry of the state decays by
    itself: S[p, c] <- (1 - e[c] k[p]^2) S[p, c] + e[c] k[p] v[c].

    Source: Liu et al. 2024 (arXiv 2407.14207).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        beta: (batch, length, heads), or (batch, length, heads, d_v) with `diagonal`.
        diagonal: The released form.
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    shapes = Shapes("longhorn", method)
    shapes.check_heads(q, k, v)
    shapes.check("beta", beta, "batch", "length", "heads", *(("d_v",) if diagonal else ()))
    with without_autocast(v.device):
        out, dtype = v.dtype, state_type(q, k, v, beta, initial_state)
        q, k, v, beta = (part.to(dtype) for part in (q, k, v, beta))
        size = k.square().sum(-1, keepdim=diagonal)  # |k|^2
        e = beta / (1 + beta * size)
        S = shapes.start(initial_state, v)
        if not diagonal:
            o, S = delta_rule(q, k, v, e, initial_state=S, inclusive=inclusive, method=method)
            return o.to(out), S
        e = e[..., None, :]  # (batch, length, heads, 1, d_v)
        k = k[..., None]
        states = diagonal_scan(1 - e * k.square(), e * k * v[..., None, :], S, method)
        last = states[:, -1]
        if not inclusive:
            states = torch.cat([S[:, None], states[:, :-1]], 1)
        return torch.einsum("blhpc,blhp->blhc", states, q).to(out), last
