"""Gated linear attention: a sum of outer products that fades."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes, heads_first, state_type
from zoo.ops.fast_weights.chunks import (
    advanced,
    causal_product,
    causal_scores,
    read,
    reads,
    split,
)
from zoo.ops.precision import without_autocast

# Tokens in a chunk. Decays of every coordinate are formed for all pairs of tokens.
CHUNK, CHUNK_OF_COORDINATES = 128, 16


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
        S = shapes.start(initial_state, v)
        if log_decay is None and method == "chunked":
            o, S = _without_decay(q, k, v, S, inclusive)
        else:
            g = k.new_zeros(k.shape[:3]) if log_decay is None else heads_first(dtype, log_decay)[0]
            o, S = (_loop if method == "loop" else _chunked)(q, k, v, g, S, inclusive)
        return o.transpose(1, 2).to(out), S


def _loop(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
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
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    rows = []
    for q_c, k_c, v_c, g_c in split(chunk_of(g), q, k, v, g):
        G = g_c.cumsum(2)
        R = reads(G, inclusive)
        scores = causal_scores(q_c, k_c, R, G, inclusive)  # (batch, heads, C, C)
        rows.append(read(S, q_c, R) + causal_product(scores, v_c, inclusive))
        S = advanced(S, k_c, v_c, G)
    return torch.cat(rows, 2), S


def _without_decay(
    q: Tensor, k: Tensor, v: Tensor, S: Tensor, inclusive: bool
) -> tuple[Tensor, Tensor]:
    """`_chunked` of plain products."""
    rows = []
    for q_c, k_c, v_c in split(CHUNK, q, k, v):
        scores = (q_c @ k_c.mT).tril(0 if inclusive else -1)  # (batch, heads, C, C)
        rows.append(q_c @ S + causal_product(scores, v_c, inclusive))
        S = S + k_c.mT @ v_c
    return torch.cat(rows, 2), S


def chunk_of(g: Tensor) -> int:
    """Tokens in a chunk, by the log decays."""
    return CHUNK if g.ndim == 3 else CHUNK_OF_COORDINATES
