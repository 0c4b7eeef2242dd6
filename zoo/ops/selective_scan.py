"""The selective scan: a diagonal linear recurrence whose coefficients follow its input.

Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.
"""

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.ops.outer_scan import Decay, outer_scan
from zoo.ops.precision import without_autocast
from zoo.private import under_transform

Method = Literal["chunked", "loop"]

_log = logging.getLogger(__name__)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h_0: Tensor | None = None,
    method: Method = "chunked",
    negative_eigenvalues: bool = False,
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence of every channel over a sequence.

        h_t = a_t * h_{t-1} + (delta_t u_t) B_t,   a_t = exp(delta_t A)
        y_t = <h_t, C_t> + D u_t

    With `negative_eigenvalues` a_t = 2 exp(delta_t A) - 1 and all else stays as it is, the factor
    delta_t of the input too (Grazzi et al. 2024, arXiv 2411.12537, tables 1 and 2). Where A is
    negative, a_t is then between -1 and 1 instead of 0 and 1.

    The state is that of the widest argument, float32 at least, also under autocast. On a GPU the
    kernel of `mamba_ssm` takes the place of `"chunked"` where it is installed, no h_0 is given and
    no a_t can be negative.

    Args:
        u: Inputs, (batch, length, d_inner), length >= 1.
        delta: Step sizes, (batch, length, d_inner).
        A: Rates, (d_inner, d_state); negative where the state decays.
        B: Input vectors, (batch, length, d_state).
        C: Output vectors, (batch, length, d_state).
        D: Factors of the direct path, (d_inner,).
        h_0: State before the first step, (batch, d_inner, d_state); zero unless given.
        method: `"chunked"` remembers the states at chunk boundaries and computes those between
            again on the way back; it can be differentiated once. `"loop"` is the plain reference.
        negative_eigenvalues: Whether a_t is 2 exp(delta_t A) - 1.

    Returns:
        Outputs y (batch, length, d_inner) in the type of u, and the state after the last step
        (batch, d_inner, d_state).

    Raises:
        ValueError: If a shape does not fit u and A, or the method is unknown.
    """
    _check(u, delta, A, B, C, D, h_0)
    if method not in ("chunked", "loop"):
        raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")
    with without_autocast(u.device):
        y_dtype, dtype = u.dtype, torch.float32
        for part in (u, delta, A, B, C, D):
            dtype = torch.promote_types(dtype, part.dtype)
        u, delta, A, B, C, D = (part.to(dtype) for part in (u, delta, A, B, C, D))
        kernel = None if method == "loop" or negative_eigenvalues else _kernel_for(u, h_0)
        h_0 = u.new_zeros(u.shape[0], *A.shape) if h_0 is None else h_0.to(dtype)
        if method == "loop":
            y, h = _loop(u, delta, A, B, C, h_0, negative_eigenvalues)
        elif kernel is not None:
            y, h = _fused(kernel, u, delta, A, B, C)
        else:
            # Time first, and d_inner last: what is broadcast then meets long contiguous rows.
            x, delta, B, C = (part.transpose(0, 1) for part in (delta * u, delta, B, C))
            decay: Decay = "reflecting" if negative_eigenvalues else "exponential"
            y, h = outer_scan(x, delta, A.mT.contiguous(), B, C, h_0.mT, decay)
            y, h = y.transpose(0, 1), h.mT
        return (y + D * u).to(y_dtype), h


def _loop(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, negative: bool
) -> tuple[Tensor, Tensor]:
    """y without the direct path, and the last state: the reference."""
    y = []
    for t in range(u.shape[1]):
        a_t = torch.exp(delta[:, t, :, None] * A)  # (batch, d_inner, d_state)
        a_t = 2 * a_t - 1 if negative else a_t
        h = a_t * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        y.append(torch.einsum("bin,bn->bi", h, C[:, t]))
    return torch.stack(y, dim=1), h


@functools.cache
def _installed_kernel() -> Callable[..., Any] | None:
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    _log.info("selective_scan on CUDA uses the kernel of mamba_ssm")
    kernel: Callable[..., Any] = module.selective_scan_fn
    return kernel


def _kernel_for(u: Tensor, h_0: Tensor | None) -> Callable[..., Any] | None:
    """The fused kernel, if it can take the place of `outer_scan` for these arguments.

    It starts from zero, knows float32 and narrower, and cannot be transformed by torch.func.
    """
    if h_0 is not None or not u.is_cuda or u.dtype == torch.float64 or under_transform():
        return None
    return _installed_kernel()


def _fused(
    kernel: Callable[..., Any], u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """`_loop` from a zero state by the kernel, whose sequences have time last."""
    parts = (part.mT.contiguous() for part in (u, delta))
    y, h = kernel(*parts, A, B.mT.contiguous(), C.mT.contiguous(), return_last_state=True)
    if h.requires_grad:
        h.register_hook(_refuse_gradient)
    return y.mT, h


def _refuse_gradient(gradient: Tensor | None) -> None:
    # The kernel would leave this gradient out without a word.
    if gradient is not None:
        raise NotImplementedError(
            "the kernel of mamba_ssm has no gradient through the last state; use method='loop'"
        )


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h_0: Tensor | None
) -> None:
    if u.ndim != 3 or u.shape[1] == 0 or A.ndim != 2 or A.shape[0] != u.shape[2]:
        raise ValueError(
            "u must be (batch, length, d_inner) with length >= 1 and A (d_inner, d_state), "
            f"got u {tuple(u.shape)} and A {tuple(A.shape)}"
        )
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    expected = {
        "delta": (delta, (batch, length, d_inner)),
        "B": (B, (batch, length, d_state)),
        "C": (C, (batch, length, d_state)),
        "D": (D, (d_inner,)),
        "h_0": (h_0, (batch, d_inner, d_state)),
    }
    for name, (part, shape) in expected.items():
        if part is not None and part.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(part.shape)}")
