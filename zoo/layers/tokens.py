"""From pairs to tokens: how an episode becomes a sequence."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def interleave(x: Tensor, y: Tensor) -> Tensor:
    """The token sequence x_1, y_1, ..., x_N, y_N, x_{N+1} widened as by `widen`.

    Args:
        x: (batch, N + 1, d_x).
        y: (batch, N + 1, d_y); the last one is not read.

    Returns:
        (batch, 2N + 1, d).
    """
    x_token, y_token = widen(x, y)
    pairs = torch.stack([x_token[:, :-1], y_token[:, :-1]], dim=2)  # (batch, N, 2, d)
    return torch.cat([pairs.flatten(1, 2), x_token[:, -1:]], dim=1)


def windows_of_tokens(tokens: Tensor, stride: int = 2) -> Tensor:
    """The windows S_1, ..., S_N of three tokens in a row, each `stride` after the one before.

    Of an interleaved sequence, with stride 2, S_i = [s_{2i-1}; s_{2i}; s_{2i+1}] holds x_i, y_i and
    x_{i+1}.

    Args:
        tokens: (batch, stride * N + 3 - stride, ..., d).
        stride: How far windows are apart.

    Returns:
        (3, N, batch, ..., d): one contiguous plane for each place in the window.
    """
    in_time, length = tokens.transpose(0, 1), tokens.shape[1]
    return torch.stack([in_time[a : length - 2 + a : stride] for a in range(3)])


def windows_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """`windows_of_tokens(interleave(x, y))` without making the sequence, (3, N, batch, d)."""
    x_token, y_token = (part.transpose(0, 1) for part in widen(x, y))
    return torch.stack([x_token[:-1], y_token[:-1], x_token[1:]])


def widen(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (..., d_x) and labels (..., d_y) as tokens of width d = max(d_x, d_y).

    A narrower x fills the first d_x coordinates, a narrower y the last d_y; the rest is zero.
    """
    d_x, d_y = x.shape[-1], y.shape[-1]
    if d_x < d_y:
        x = pad(x, (0, d_y - d_x))
    elif d_y < d_x:
        y = pad(y, (d_x - d_y, 0))
    return x, y
