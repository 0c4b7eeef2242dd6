"""Gated linear attention: a sum of outer products that fades."""

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
    running_sums,
    summed,
)
from zoo.ops.precision import without_autocast

# Tokens in a chunk. Decays of every coordinate are formed for all pairs of tokens.
CHUNK, CHUNK_OF_COORDINATES = 24, 8


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    *,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- diag(exp(log_decay)) S + k v^T: linear attention that forgets.

    One decay for a head is that of RetNet (constant) and of Mamba-2; one for each coordinate of the
    keys that of gated linear attention (Yang et al. 2023, arXiv 2312.06635).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        log_decay: Finite, (batch, length, heads) or (batch, length, heads, d_k); None for no decay.
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    shapes = Shapes("gated_linear_attention", method)
    shapes.check_heads(q, k, v)
    if log_decay is not None:
        of_coordinates = ("d_k",) if log_decay.ndim == 4 else ()
        shapes.check("log_decay", log_decay, "batch", "length", "heads", *of_coordinates)
    out = v.dtype
    with without_autocast(v.device):
        dtype = state_type(q, k, v, log_decay, initial_state)
        q, k, v = heads_first(dtype, q, k, v)
        g = None if log_decay is None else heads_first(dtype, log_decay)[0]
        S = shapes.start(initial_state, v)
        run = _loop if method == "loop" or q.shape[2] == 1 else _chunked
        o, S = run(q, k, v, g, S, inclusive)
        return o.transpose(1, 2).to(out), S


def _loop(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    g = q.new_zeros(q.shape[:3]) if g is None else g
    g = g if g.ndim == 4 else g[..., None]
    rows = []
    for q_t, k_t, v_t, g_t in zip(*(part.unbind(2) for part in (q, k, v, g)), strict=True):
        if not inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
        S = g_t.exp()[..., None] * S + k_t[..., None] * v_t[..., None, :]
        if inclusive:
            rows.append(torch.einsum("bhpc,bhp->bhc", S, q_t))
    return torch.stack(rows, 2), S


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    length, size = q.shape[2], chunk_of(g)
    q, k, v = in_chunks(size, q, k, v)
    G, R = running_sums(None if g is None else in_chunks(size, g)[0], inclusive)
    q, k = carrying(q, R), carrying(k, G, -1)
    scores = causal_scores(
        q, k, decay_factors(R, G, inclusive), inclusive
    )  # (batch, heads, chunks, C, C)
    starts, S = summed(S, at_end(k, G).mT @ v, G)
    o = faded(q, R) @ starts + causal_product(scores, v, inclusive)
    return joined(o, length), S


def chunk_of(g: Tensor | None) -> int:
    """Tokens in a chunk, by the log decays."""
    return CHUNK if g is None or g.ndim == 3 else CHUNK_OF_COORDINATES
