"""The state of a recurrence over windows of three tokens after all of them."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.ops.precision import without_autocast

AdvanceMethod = Literal["pieces", "plain"]

# Numbers in the inputs of the windows that are worked on together: few enough to stay in cache.
PIECE = 2**18
# Windows that are worked on together where every operation is a launch.
LAUNCHED = 32


def advance(
    Z: Tensor, S: Tensor, Q: Tensor, log_Lambda_bar: Tensor, method: AdvanceMethod = "pieces"
) -> Tensor:
    """Z_N = Lambda_bar^N * Z + sum_i Lambda_bar^(N-i) * S_i^T Q S_i of R recurrences.

    The inputs S_i^T Q S_i are many times as large as the windows S_i. They are made a few windows
    at a time, summed while they are in the cache, and made again for the gradient; those of a few
    windows are kept. `torch.jit.trace` records the plain method.

    Args:
        Z: (batch, R, d, d).
        S: Windows, (3, N, batch, R, d), or (3, N, batch, 1, d) where all recurrences see the same.
        Q: (R, 3, 3).
        log_Lambda_bar: Logarithm of the decays, (R, d, d).
        method: `"pieces"`, or the reference `"plain"`, which autograd differentiates.

    Returns:
        (batch, R, d, d).

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in ("pieces", "plain"):
        raise ValueError(f"method must be 'pieces' or 'plain', got {method!r}")
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if method == "plain" or tracing or S.shape[1] <= _piece(Z):
        return _plain(Z, S, Q, log_Lambda_bar)
    return _advance(Z, S, Q, log_Lambda_bar)


def _plain(Z: Tensor, S: Tensor, Q: Tensor, log_Lambda_bar: Tensor) -> Tensor:
    N = S.shape[1]
    K = (_num_after(S, slice(0, N)) * log_Lambda_bar).exp()
    return _sum((N * log_Lambda_bar).exp(), Z, K, S, Q, S)


def _sum(K_0: Tensor, Z: Tensor, K: Tensor, S: Tensor, Q: Tensor, S_mixed: Tensor) -> Tensor:
    """The state, linear in each argument but the first two, which are a product."""
    U = _rows(S).mT @ _rows(_mixed(Q, S_mixed))  # (N, batch, R, d, d)
    return K_0 * Z + (K.unsqueeze(1) * U).sum(0)


def _num_after(S: Tensor, windows: slice) -> Tensor:
    """N - i for some of the windows, (n, 1, 1, 1)."""
    N = S.shape[1]
    i = torch.arange(windows.start + 1, windows.stop + 1, device=S.device, dtype=S.dtype)
    return (N - i)[:, None, None, None]


def _piece(Z: Tensor) -> int:
    """How many windows are worked on together."""
    return max(1, PIECE // max(1, Z.numel())) if Z.device.type == "cpu" else LAUNCHED


def _pieces(Z: Tensor, S: Tensor) -> Iterator[slice]:
    """Consecutive windows that are worked on together."""
    N, size = S.shape[1], _piece(Z)
    return (slice(start, min(start + size, N)) for start in range(0, N, size))


def _rows(S: Tensor) -> Tensor:
    """(3, n, batch, R, d) as matrices (3, d)."""
    return S.permute(1, 2, 3, 0, 4)


def _mixed(Q: Tensor, S: Tensor) -> Tensor:
    """Q S_i, (3, n, batch, R, d), of S (3, n, batch, R or 1, d)."""
    if S.shape[3] == 1:  # one product for all
        mixed = Q.flatten(0, 1) @ S.flatten(1)
        return mixed.view(*Q.shape[:2], *S.shape[1:3], S.shape[4]).permute(1, 2, 3, 0, 4)
    return torch.einsum("rac,cnbrq->anbrq", Q, S)


def _gradients(
    inputs: tuple[Tensor, ...], needed: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients by those of the inputs that need one, given that by the state."""
    Z, S, Q, log_Lambda_bar = inputs
    needs_Z, needs_S, needs_Q, needs_log = needed
    N, K_0 = S.shape[1], (S.shape[1] * log_Lambda_bar).exp()
    grad_Z = K_0 * grad if needs_Z else None
    grad_log = N * K_0 * (Z * grad).sum(0) if needs_log else None
    grad_Q, parts = torch.zeros_like(Q) if needs_Q else None, [S[:, :0]]
    for windows in _pieces(Z, S):
        S_i, num_after = S[:, windows], _num_after(S, windows)
        K = (num_after * log_Lambda_bar).exp()  # (n, R, d, d)
        Q_S = _rows(_mixed(Q, S_i))  # (n, batch, R, 3, d)
        if grad_log is not None:
            by_decay = (grad * (_rows(S_i).mT @ Q_S)).sum(1)  # (n, R, d, d)
            grad_log = grad_log + (num_after * K * by_decay).sum(0)
        if needs_S or needs_Q:
            grad_U = K.unsqueeze(1) * grad  # (n, batch, R, d, d)
            grad_Q_S = _rows(S_i) @ grad_U  # (n, batch, R, 3, d)
        if grad_Q is not None:
            by_recurrence = grad_Q_S.permute(2, 3, 0, 1, 4).flatten(2)  # (R, 3, n batch d)
            seen = S_i.permute(3, 0, 1, 2, 4).flatten(2)  # (R or 1, 3, n batch d)
            grad_Q = grad_Q + by_recurrence @ seen.mT
        if needs_S:
            mixed = torch.einsum("rac,nbraq->nbrcq", Q, grad_Q_S)
            grad_S_i = (Q_S @ grad_U.mT + mixed).permute(3, 0, 1, 2, 4)
            parts.append(grad_S_i.sum(3, keepdim=True) if S.shape[3] == 1 else grad_S_i)
    grad_S = torch.cat(parts, dim=1) if needs_S else None
    return grad_Z, grad_S, grad_Q, grad_log


class _Advance(torch.autograd.Function):
    """`advance`, which keeps what it is given and nothing else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(Z: Tensor, S: Tensor, Q: Tensor, log_Lambda_bar: Tensor) -> Tensor:
        end = (S.shape[1] * log_Lambda_bar).exp() * Z
        for windows in _pieces(Z, S):
            S_i = S[:, windows]
            K = (_num_after(S, windows) * log_Lambda_bar).exp().unsqueeze(1)  # (n, 1, R, d, d)
            end = end + (K * (_rows(S_i).mT @ _rows(_mixed(Q, S_i)))).sum(0)
        return end

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Backward passes may run under an autocast that the forward pass switched off.
        with without_autocast(grad.device):
            if torch.is_grad_enabled():  # to be differentiated again
                found: tuple[Tensor, ...] = torch.func.vjp(_plain, *ctx.saved_tensors)[1](grad)
                return found
            return _gradients(ctx.saved_tensors, ctx.needs_input_grad, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        Z, S, Q, log_Lambda_bar = inputs = ctx.saved_tensors
        pairs = zip(tangents, inputs, strict=True)
        dZ, dS, dQ, dlog = (torch.zeros_like(x) if dx is None else dx for dx, x in pairs)
        N, num_after = S.shape[1], _num_after(S, slice(0, S.shape[1]))
        K_0, K = (N * log_Lambda_bar).exp(), (num_after * log_Lambda_bar).exp()
        none = torch.zeros_like(K_0)
        end = _sum(K_0, dZ, K, dS, Q, S) + _sum(N * dlog * K_0, Z, K, S, dQ, S)
        return end + _sum(none, Z, K, S, Q, dS) + _sum(none, Z, num_after * dlog * K, S, Q, S)


_advance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Advance.apply
