"""Recurrences over windows of tokens: their states and what is read out of them."""

import torch
from torch import Tensor

from zoo.ops.scan import Method, diagonal_scan


def window_inputs(S: Tensor, Q: Tensor) -> Tensor:
    """U = S^T Q S, the weighted products of any two tokens of a window, for R recurrences.

    Args:
        S: Windows, (..., R, 3, d) or the same for all recurrences, (..., 1, 3, d).
        Q: Weights, (R, 3, 3).

    Returns:
        (..., R, d, d).
    """
    return S.mT @ mix(S, Q)


def mix(S: Tensor, Q: Tensor) -> Tensor:
    """Q S for windows and weights as in `window_inputs`, (..., R, 3, d)."""
    return torch.einsum("rac,...rcq->...raq", Q, S)


def window_states(
    S: Tensor, Q: Tensor, Lambda_bar: Tensor | None, Z_0: Tensor, method: Method = "chunked"
) -> Tensor:
    """All states of R recurrences Z_i = Lambda_bar * Z_{i-1} + S_i^T Q S_i side by side.

    Args:
        S: Windows, (batch, N, R, 3, d) or the same for all recurrences, (batch, N, 1, 3, d).
        Q: (R, 3, 3).
        Lambda_bar: Decay of each entry, (R, d, d); None where nothing decays.
        Z_0: State before the first window, (batch, R, d, d).
        method: `"chunked"`, or the reference `"loop"` over windows.

    Returns:
        Z_1, ..., Z_N, (batch, N, R, d, d): N d^2 numbers for each recurrence, so callers go
        through long sequences part by part.
    """
    U = window_inputs(S, Q)  # (batch, N, R, d, d)
    if Lambda_bar is None and method == "chunked":
        return Z_0[:, None] + U.cumsum(1)
    if Lambda_bar is None:
        Lambda_bar = torch.ones_like(Z_0[0])
    return diagonal_scan(Lambda_bar, U, Z_0, method)


def read_states(Z: Tensor, v: Tensor) -> Tensor:
    """Z^T v: states (..., d, d) asked with vectors (..., d), (..., d)."""
    return (v[..., None] * Z).sum(-2)  # many small products: faster than a batched one
