"""Longhorn: an implicit step on the loss of every token."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes, state_type
from zoo.ops.fast_weights.delta_rule import delta_rule
from zoo.ops.outer_scan import outer_scan
from zoo.ops.precision import without_autocast


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
        run = _loop if method == "loop" or q.shape[1] == 1 else _chunked
        o, S = run(q, k, v, e, S, inclusive)
        return o.to(out), S


def _loop(
    q: Tensor, k: Tensor, v: Tensor, e: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    rows = []
    for q_t, k_t, v_t, e_t in zip(*(part.unbind(1) for part in (q, k, v, e)), strict=True):
        if not inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
        e_t, k_t = e_t[..., None, :], k_t[..., None]
        S = (1 - e_t * k_t.square()) * S + e_t * k_t * v_t[..., None, :]
        if inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
    return torch.stack(rows, 1), S


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, e: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    before = []
    if not inclusive:  # a token reads for the next one
        before = [torch.einsum("bhpc,bhp->bhc", S, q[:, 0])[:, None]]
        q = torch.cat([q[:, 1:], torch.zeros_like(q[:, :1])], 1)
    x, e, k, q = (part.transpose(0, 1).flatten(1, 2) for part in (e * v, e, k, q))
    o, last = outer_scan(x, e, k.square(), k, q, S.flatten(0, 1), "linear")
    o = o.unflatten(1, S.shape[:2]).transpose(0, 1)  # (batch, length, heads, d_v)
    return torch.cat([*before, o], 1)[:, : len(x)], last.unflatten(0, S.shape[:2])
