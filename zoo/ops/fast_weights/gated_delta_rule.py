"""The gated delta rule: least mean squares that forgets."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes, heads_first, state_type
from zoo.ops.fast_weights.chunks import (
    advanced,
    causal_product,
    causal_scores,
    delta_rows,
    read,
    reads,
    split,
)
from zoo.ops.fast_weights.gated_linear_attention import chunk_of
from zoo.ops.precision import without_autocast


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    *,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- diag(exp(log_decay)) S, then S <- S + beta k (v - S^T k)^T.

    The delta step is taken on the decayed state. One decay for a head is that of Gated DeltaNet
    (Yang et al. 2024, arXiv 2412.06464), one for each coordinate of the keys that of Kimi delta
    attention (arXiv 2510.26692).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        beta: Rates, (batch, length, heads).
        log_decay: Finite, (batch, length, heads) or (batch, length, heads, d_k); None for no decay.
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    shapes = Shapes("gated_delta_rule", method)
    shapes.check_heads(q, k, v)
    shapes.check("beta", beta, "batch", "length", "heads")
    if log_decay is not None:
        of_coordinates = ("d_k",) if log_decay.ndim == 4 else ()
        shapes.check("log_decay", log_decay, "batch", "length", "heads", *of_coordinates)
    out = v.dtype
    with without_autocast(v.device):
        dtype = state_type(q, k, v, beta, log_decay, initial_state)
        log_decay = torch.zeros_like(beta) if log_decay is None else log_decay
        q, k, v, beta, g = heads_first(dtype, q, k, v, beta, log_decay)
        S = shapes.start(initial_state, v)
        o, S = (_loop if method == "loop" else _chunked)(q, k, v, beta, g, S, inclusive)
        return o.transpose(1, 2).to(out), S


def _loop(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    g = g if g.ndim == 4 else g[..., None]
    rows = []
    tokens = zip(*(part.unbind(2) for part in (q, k, v, beta, g)), strict=True)
    for q_t, k_t, v_t, beta_t, g_t in tokens:
        if not inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
        S = g_t.exp()[..., None] * S
        error = v_t - torch.einsum("bhpc,bhp->bhc", S, k_t)
        S = S + beta_t[..., None, None] * k_t[..., None] * error[..., None, :]
        if inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
    return torch.stack(rows, 2), S


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    rows = []
    for q_c, k_c, v_c, beta_c, g_c in split(chunk_of(g), q, k, v, beta, g):
        G = g_c.cumsum(2)
        R = reads(G, inclusive)
        U = delta_rows(k_c, v_c, beta_c, G, S)  # (batch, heads, C, d_v)
        scores = causal_scores(q_c, k_c, R, G, inclusive)  # (batch, heads, C, C)
        rows.append(read(S, q_c, R) + causal_product(scores, U, inclusive))
        S = advanced(S, k_c, U, G)
    return torch.cat(rows, 2), S
