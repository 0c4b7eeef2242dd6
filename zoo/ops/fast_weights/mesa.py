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
        penalty = torch.diag_embed(ridge.to(dtype))
        run = _loop if method == "loop" else _chunked
        o, H, G = run(q, k, v, beta, g, H, G, penalty, inclusive)
        return o.transpose(1, 2).to(out), (H, G)


def _loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    H: Tensor,
    G: Tensor,
    penalty: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = []
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
    penalty: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, size = [], k.shape[2]
    if k.device.type == "cpu":
        size = CHUNK * max(1, AT_ONCE // max(1, H.numel() * CHUNK))
    decays = () if g is None else (g,)
    for q_p, k_p, v_p, beta_p, *g_p in split(size, q, k, v, beta, *decays):
        o, H, G = _piece(q_p, k_p, v_p, beta_p, g_p[0] if g_p else None, H, G, penalty, inclusive)
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
    penalty: Tensor,
    inclusive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    length, d_k = q.shape[2:]
    q, k, v, beta = in_chunks(CHUNK, q, k, v, beta[..., None])
    written, read = running_sums(None if g is None else in_chunks(CHUNK, g)[0], inclusive)
    writing = carrying(beta * k, written, -1)
    # H of every token: a decayed sum of outer products, as if each were a value.
    outer = (writing[..., None] * k[..., None, :]).flatten(-2)  # (..., C, d_k d_k)
    one, factors = carrying(torch.ones_like(beta), read), decay_factors(read, written, inclusive)
    scores = causal_scores(one, torch.ones_like(beta), factors, inclusive)
    left = at_end(writing, written).mT
    H_starts, H = summed(H, left @ k, written)
    G_starts, G = summed(G, left @ v, written)
    before = faded(one, read) * H_starts.flatten(-2)[:, :, :, None]
    H_all = (causal_product(scores, outer, inclusive) + before).unflatten(-1, (d_k, d_k))
    x, _ = _solve(H_all + penalty[:, None, None], q)  # (batch, heads, chunks, C, d_k)
    x = carrying(x, read)
    scores = causal_scores(x, writing, factors, inclusive)
    o = faded(x, read) @ G_starts + causal_product(scores, v, inclusive)
    return joined(o, length), H, G


class _Solve(torch.autograd.Function):
    """matrices^{-1} q by Cholesky, NaN where one is not positive definite, and the factors.

    The gradients are one more solution with the same factors; those of a factorisation would be
    several times the work.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrices: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        factors, failed = torch.linalg.cholesky_ex(matrices)
        x = torch.cholesky_solve(q[..., None], factors)[..., 0]
        return torch.where((failed == 0)[..., None], x, torch.nan), factors

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, dx: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        matrices, x, factors = ctx.saved_tensors
        # Backward passes may run under an autocast that the forward pass switched off.
        with without_autocast(dx.device):
            if torch.is_grad_enabled():  # to be differentiated again
                dq, _ = _solve(matrices, dx)
            else:
                dq = torch.cholesky_solve(dx[..., None], factors)[..., 0]
            return -dq[..., None] * x[..., None, :], dq


_solve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _Solve.apply
