"""Mesa: the exact solution of a ridge regression after every token."""

from collections.abc import Callable
from typing import Any

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
    reaching,
    running_sums,
    split,
    summed,
)
from zoo.ops.precision import without_autocast

CHUNK = 16
# A matrix (d_k, d_k) is formed for every token. On a CPU so many numbers of them at a time: memory
# in blocks of more than 32 MiB comes from the system again each time that it is asked for.
AT_ONCE = 2**22


def mesa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    ridge: Tensor,
    *,
    initial_state: tuple[Tensor, Tensor] | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """H <- e^g H + beta k k^T, G <- e^g G + beta k v^T, o = G^T (H + diag(ridge))^{-1} q.

    The output is W q for the W of least sum_i f_i beta_i |W k_i - v_i|^2 + sum_p ridge_p |W_p|^2,
    with W_p the columns of W and f_i the decay since token i; the penalty does not decay. Where
    H + diag(ridge) is not positive definite to rounding, the output is NaN. Every token has a
    Cholesky factorisation, for d_k of some 64 at most.

    Source: MesaNet, von Oswald et al. 2025 (arXiv 2506.05233).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        beta: Weights of the tokens, (batch, length, heads).
        log_decay: Finite, (batch, length, heads); None for no decay.
        ridge: Positive, (heads, d_k).
        initial_state: (H, G), (batch, heads, d_k, d_k) and (batch, heads, d_k, d_v); zero unless
            given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (H, G).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    shapes = Shapes("mesa", method)
    shapes.check_heads(q, k, v)
    shapes.check("beta", beta, "batch", "length", "heads")
    if log_decay is not None:
        shapes.check("log_decay", log_decay, "batch", "length", "heads")
    shapes.check("ridge", ridge, "heads", "d_k")
    H, G = (None, None) if initial_state is None else initial_state
    out = v.dtype
    with without_autocast(v.device):
        dtype = state_type(q, k, v, beta, log_decay, ridge, H, G)
        q, k, v, beta = heads_first(dtype, q, k, v, beta)
        g = None if log_decay is None else heads_first(dtype, log_decay)[0]
        G = shapes.start(G, v)
        H = k.new_zeros(*k.shape[:2], k.shape[3], k.shape[3]) if H is None else H.to(dtype)
        if H.shape != (*k.shape[:2], k.shape[3], k.shape[3]):
            raise ValueError(
                f"mesa: H must be {(*k.shape[:2], k.shape[3], k.shape[3])}, got {tuple(H.shape)}"
            )
        run = _loop if method == "loop" else _chunked
        o, H, G = run(q, k, v, beta, g, H, G, ridge.to(dtype), inclusive)
        return o.transpose(1, 2).to(out), (H, G)


def _loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    H: Tensor,
    G: Tensor,
    ridge: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, penalty = [], torch.diag_embed(ridge)
    g = torch.zeros_like(beta) if g is None else g
    tokens = zip(*(part.unbind(2) for part in (q, k, v, beta, g)), strict=True)
    for q_t, k_t, v_t, beta_t, g_t in tokens:
        if not inclusive:
            rows.append((G.mT @ torch.linalg.solve(H + penalty, q_t)[..., None])[..., 0])
        decay, weighted = g_t.exp()[..., None, None], beta_t[..., None] * k_t
        H = decay * H + weighted[..., None] * k_t[..., None, :]
        G = decay * G + weighted[..., None] * v_t[..., None, :]
        if inclusive:
            rows.append((G.mT @ torch.linalg.solve(H + penalty, q_t)[..., None])[..., 0])
    return torch.stack(rows, 2), H, G


def _chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    H: Tensor,
    G: Tensor,
    ridge: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, size = [], k.shape[2]
    if k.device.type == "cpu":
        size = CHUNK * max(1, AT_ONCE // max(1, H.numel() * CHUNK))
    decays = () if g is None else (g,)
    for q_p, k_p, v_p, beta_p, *g_p in split(size, q, k, v, beta, *decays):
        o, H, G = _piece(q_p, k_p, v_p, beta_p, g_p[0] if g_p else None, H, G, ridge, inclusive)
        rows.append(o)
    return torch.cat(rows, 2), H, G


def _piece(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    H: Tensor,
    G: Tensor,
    ridge: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    length = q.shape[2]
    q, k, v, beta = in_chunks(CHUNK, q, k, v, beta[..., None])
    written, read = running_sums(None if g is None else in_chunks(CHUNK, g)[0], inclusive)
    writing = carrying(beta * k, written, -1)
    one, factors = carrying(torch.ones_like(beta), read), decay_factors(read, written, inclusive)
    scores = causal_scores(one, torch.ones_like(beta), factors, inclusive)
    left = at_end(writing, written).mT
    H_starts, H = summed(H, left @ k, written)
    G_starts, G = summed(G, left @ v, written)
    # A token that is not finite reaches none before it: zero times NaN stays out of the products.
    undefined = (0 * (writing * k).detach()).sum(-1, keepdim=True)  # zero, or NaN
    finite = undefined == 0
    x, _ = _solve(
        *(scores, torch.where(finite, writing, 0), torch.where(finite, k, 0)),
        *(faded(one, read), H_starts, ridge, q),
    )
    x = carrying(x + reaching(undefined, inclusive), read)
    scores = causal_scores(x, writing, factors, inclusive)
    o = faded(x, read) @ G_starts + causal_product(scores, v, inclusive)
    return joined(o, length), H, G


class _Solve(torch.autograd.Function):
    """x_t = H_t^{-1} q_t for H_t = sum_i scores_ti writing_i k_i^T + faded_t H_start + diag(ridge).

    By Cholesky, NaN where H_t is not positive definite; the factors come too. H_t is symmetric, so
    with u = H_t^{-1} dx the gradient of H_t is -u x^T. It is of rank one: those of what H_t is made
    of follow from products of vectors, and no matrix (d_k, d_k) is formed for a token again.

    Args:
        scores: Lower triangular, (batch, heads, chunks, C, C).
        writing: (batch, heads, chunks, C, d_k), parallel to k.
        k: (batch, heads, chunks, C, d_k).
        fading: (batch, heads, chunks, C, 1).
        H_start: (batch, heads, chunks, d_k, d_k).
        ridge: (heads, d_k).
        q: (batch, heads, chunks, C, d_k).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Tensor,
        writing: Tensor,
        k: Tensor,
        fading: Tensor,
        H_start: Tensor,
        ridge: Tensor,
        q: Tensor,
    ) -> tuple[Tensor, Tensor]:
        d_k = k.shape[-1]
        # As if each outer product were a value.
        outer = (writing[..., None] * k[..., None, :]).flatten(-2)
        H = torch.cat([scores, fading], -1) @ torch.cat(
            [outer, H_start.flatten(-2)[..., None, :]], -2
        )
        H = H.unflatten(-1, (d_k, d_k))
        H.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None, None])
        factors, failed = torch.linalg.cholesky_ex(H)
        x = torch.cholesky_solve(q[..., None], factors)[..., 0]
        return torch.where((failed == 0)[..., None], x, torch.nan), factors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:-1], *output)

    @staticmethod
    def backward(ctx: Any, dx: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        scores, writing, k, fading, H_start, ridge, x, factors = ctx.saved_tensors
        # Backward passes may run under an autocast that the forward pass switched off.
        with without_autocast(dx.device):
            if torch.is_grad_enabled():  # to be differentiated again
                u, _ = _solve(scores, writing, k, fading, H_start, ridge, dx)
            else:
                u = torch.cholesky_solve(dx[..., None], factors)[..., 0]
            of_writing, of_k = u @ writing.mT, x @ k.mT  # (..., C, C)
            faded_u = fading * u
            return (
                -(of_writing * of_k),
                -((scores * of_k).mT @ u),
                -((scores * of_writing).mT @ x),
                -((u @ H_start) * x).sum(-1, keepdim=True),
                -(faded_u.mT @ x),
                -(u * x).sum((0, 2, 3)),
                u,
            )


_solve: Callable[..., tuple[Tensor, Tensor]] = _Solve.apply
