"""The gated delta rule: least mean squares that forgets."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes, heads_first, state_type
from zoo.ops.fast_weights.chunks import (
    at_end,
    carrying,
    causal_product,
    causal_scores,
    decay_factors,
    faded,
    in_chunks,
    joined,
    mapped,
    running_sums,
    summed,
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
        q, k, v, beta = heads_first(dtype, q, k, v, beta)
        g = None if log_decay is None else heads_first(dtype, log_decay)[0]
        S = shapes.start(initial_state, v)
        run = _loop if method == "loop" or q.shape[2] == 1 else _chunked
        o, S = run(q, k, v, beta, g, S, inclusive)
        return o.transpose(1, 2).to(out), S


def _loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    S: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor]:
    g = torch.zeros_like(beta) if g is None else g
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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    S: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor]:
    """Within a chunk the steps add rows k_j u_j^T with u_i = beta_i (v_i - k_i^T e^{g_i} S_{i-1}).

    S_{i-1} is made of the state S before the chunk and of earlier rows, a triangular system:
    (I + tril(diag(beta) (K K^T * M), -1)) U = diag(beta) (V - a * K S). Its solution is linear in
    S, U = V' - K' S, and so is the state after the chunk.
    """
    length, size = q.shape[2], chunk_of(g)
    q, k, v, beta = in_chunks(size, q, k, v, beta[..., None])
    g = None if g is None else in_chunks(size, g)[0]
    G, R = running_sums(g, inclusive)
    factors = decay_factors(G, G, inclusive=True)
    k_read, k = carrying(k, G), carrying(k, G, -1)
    mixing = beta * causal_scores(k_read, k, factors, inclusive=False)
    k_read, left = faded(k_read, G), at_end(k, G).mT  # of the state before, and for the one after
    if k.shape[2] == 1:
        U = _solved(mixing, beta * (v - k_read @ S[:, :, None]))
        starts, S = summed(S, left @ U, G)
    else:
        parts = _solved(mixing, beta * torch.cat([v, k_read], -1))
        v, k_read = parts.split([v.shape[-1], k.shape[-1]], -1)
        starts, S = mapped(S, -left @ k_read, left @ v, G)
        U = v - k_read @ starts
    if not inclusive:
        factors = decay_factors(R, G, inclusive)
    q = carrying(q, R)
    scores = causal_scores(q, k, factors, inclusive)  # (batch, heads, chunks, C, C)
    o = faded(q, R) @ starts + causal_product(scores, U, inclusive)
    return joined(o, length), S


def _solved(mixing: Tensor, rows: Tensor) -> Tensor:
    """(I + mixing)^{-1} rows, of mixing that is strictly lower triangular."""
    solution: Tensor = torch.linalg.solve_triangular(mixing, rows, upper=False, unitriangular=True)
    return solution
