"""The selective scan: a diagonal linear recurrence whose coefficients follow its input.

Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.
"""

import functools
import importlib
import logging
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from zoo.ops.precision import without_autocast
from zoo.private import under_transform

Method = Literal["chunked", "loop"]

# What is in memory together: the states of a chunk of steps, of a block of rows of the batch. On a
# CPU a step of a block has STEP numbers, enough to be worth a call, and a chunk has CACHED, 1 MiB,
# since caches hold three such buffers; but not so few steps that the boundary states kept are many.
MIN_CHUNK, MAX_CHUNK = 8, 32
STEP, CACHED = 2**15, 2**18

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
            y, h, _ = _Scan.apply(  # type: ignore[no-untyped-call]
                x, delta, A.mT.contiguous(), B, C, h_0.mT, negative_eigenvalues
            )
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


def _chunk_length(h: Tensor) -> int:
    """Steps of a chunk, given one step's state."""
    if h.is_cuda:
        return MAX_CHUNK  # every step is a launch, and no cache holds so much
    in_step = min(h.numel(), _num_rows(h) * math.prod(h.shape[1:]))
    return min(MAX_CHUNK, max(MIN_CHUNK, CACHED // max(1, in_step)))


def _num_rows(h: Tensor) -> int:
    """Rows of the batch that are treated together, given one step's state."""
    return max(1, len(h) if h.is_cuda else STEP // max(1, math.prod(h.shape[1:])))


# Operators, so that torch.compile takes each as it is instead of tracing every step of its loop.
# They know nothing of autograd and vmap: that is the business of the functions below, because a
# registered operator cannot be differentiated under torch.func.
@torch.library.custom_op("zoo::selective_scan", mutates_args=())
def _selective_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h_0: Tensor, negative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`_loop`, with x = delta * u instead of u, time first and the state transposed.

    Shapes: x, delta (length, batch, d_inner), A (d_state, d_inner), B, C (length, batch, d_state),
    h_0 (batch, d_state, d_inner). Beside y and the last state it returns the states at which the
    chunks start, (num_chunks, batch, d_state, d_inner): all that is kept for the way back.
    """
    length, chunk = len(x), _chunk_length(h_0)
    y, h_last, starts = _like_results(x, delta, A, B, C, h_0, negative)
    a_buffer, h_buffer = _buffers(h_0, min(chunk, length), 2)
    for rows in _blocks(h_0):
        x_r, delta_r, B_r, C_r = (part[:, rows].contiguous() for part in (x, delta, B, C))
        h_r = h_0[rows].contiguous()
        steps = _Steps(A, a_buffer[:, : len(h_r)], h_buffer[:, : len(h_r)], negative)
        for k in range(len(starts)):
            starts[k, rows] = h_r
            now = slice(k * chunk, min((k + 1) * chunk, length))
            _, h = steps.fill(x_r[now], delta_r[now], B_r[now], h_r)
            y[now, rows] = (C_r[now, :, None] @ h[1:]).squeeze(2)
            h_r = h[-1]
        h_last[rows] = h_r
    return y, h_last, starts


def _blocks(h: Tensor) -> list[slice]:
    """The rows of each block of the batch, given one step's state."""
    num_rows = _num_rows(h)
    return [slice(i, i + num_rows) for i in range(0, len(h), num_rows)]


@torch.library.custom_op("zoo::selective_scan_gradient", mutates_args=())
def _selective_scan_gradient(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_last: Tensor,
    negative: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the six arguments of `_selective_scan` from those of y and h_last."""
    length, chunk = len(x), _chunk_length(dh_last)
    dx, ddelta, dA, dB, dC, dh_0 = _like_gradients(x, delta, A, B, C, starts, dy, dh_last, negative)
    dA.zero_()
    a_buffer, h_buffer, dh_buffer = _buffers(dh_0, min(chunk, length), 3)
    for rows in _blocks(dh_last):
        parts = (part[:, rows].contiguous() for part in (x, delta, B, C, starts, dy))
        x_r, delta_r, B_r, C_r, starts_r, dy_r = parts
        dh_r = dh_last[rows].clone()  # on the way: what reaches a chunk from the steps behind it
        dA_r = torch.zeros_like(dh_r)
        steps = _Steps(A, a_buffer[:, : len(dh_r)], h_buffer[:, : len(dh_r)], negative)
        dh_steps = dh_buffer[:-1, : len(dh_r)].unbind(0)
        for k in reversed(range(len(starts))):
            now = slice(k * chunk, min((k + 1) * chunk, length))
            num_steps = now.stop - now.start
            x_k, delta_k, B_k, dy_k = (part[now] for part in (x_r, delta_r, B_r, dy_r))
            a, h = steps.fill(x_k, delta_k, B_k, starts_r[k])
            dh = dh_buffer[:num_steps, : len(dh_r)]
            # dh_t = dy_t C_t + a_{t+1} * dh_{t+1}
            torch.mul(dy_k[:, :, None], C_r[now, ..., None], out=dh)
            dh_steps[num_steps - 1].add_(dh_r)
            for t in range(num_steps - 1, 0, -1):
                torch.addcmul(dh_steps[t - 1], steps.a_steps[t], dh_steps[t], out=dh_steps[t - 1])
            torch.mul(a[0], dh[0], out=dh_r)
            # Rows times matrices: MKL is much slower at matrices times columns.
            dC[now, rows] = (dy_k[:, :, None] @ h[1:].mT).squeeze(2)
            dB[now, rows] = (x_k[:, :, None] @ dh.mT).squeeze(2)
            dx[now, rows] = (B_k[:, :, None] @ dh).squeeze(2)
            # With a_t = exp(delta_t A), the gradient of delta_t A is dh_t * a_t * h_{t-1}; with
            # a_t = 2 exp(delta_t A) - 1 it is dh_t * (a_t + 1) * h_{t-1}.
            d_exponent = dh.mul_(a.add_(1) if negative else a).mul_(h[:-1])
            ddelta[now, rows] = torch.mul(d_exponent, A, out=a).sum(2)
            dA_r += d_exponent.mul_(delta_k[:, :, None]).sum(0)
        dh_0[rows] = dh_r
        dA += dA_r.sum(0)
    return dx, ddelta, dA, dB, dC, dh_0


@_selective_scan.register_fake
def _like_results(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h_0: Tensor, negative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_chunks = -(-len(x) // _chunk_length(h_0))
    return torch.empty_like(x), h_0.new_empty(h_0.shape), h_0.new_empty(num_chunks, *h_0.shape)


@_selective_scan_gradient.register_fake
def _like_gradients(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_last: Tensor,
    negative: bool,
) -> tuple[Tensor, ...]:
    return (*map(torch.empty_like, (x, delta, A, B, C)), starts.new_empty(starts.shape[1:]))


class _Scan(Function):
    """`_selective_scan`, differentiable; `starts` is there to be kept, not to be read."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, h_last, starts = _selective_scan(*args)
        return y, h_last, starts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.negative = inputs
        starts = output[2]
        ctx.mark_non_differentiable(starts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, starts)

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor | None, dh_last: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, delta, A, B, C, starts = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        dh_last = torch.zeros_like(starts[0]) if dh_last is None else dh_last
        gradients: tuple[Tensor, ...] = _ScanGradient.apply(  # type: ignore[no-untyped-call]
            x, delta, A, B, C, starts, dy, dh_last, ctx.negative
        )
        return *gradients, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _one_replica_after_another(_Scan, info, in_dims, args)


class _ScanGradient(Function):
    """`_selective_scan_gradient` as a function of its own, since vmap may run over it too."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        # Backward passes may run under an autocast that the forward pass switched off.
        with without_autocast(args[0].device):
            gradients: tuple[Tensor, ...] = _selective_scan_gradient(*args)
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("second derivatives need selective_scan(..., method='loop')")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _one_replica_after_another(_ScanGradient, info, in_dims, args)


def _one_replica_after_another(
    function: type[Function], info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Results stacked over the replicas: steps in place cannot be batched without copies."""
    rows = []
    for i in range(info.batch_size):
        pairs = zip(args, in_dims, strict=True)
        replica = (arg if dim is None else arg.select(dim, i) for arg, dim in pairs)
        rows.append(function.apply(*replica))
    outputs = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
    return outputs, (0,) * len(outputs)


def _buffers(h_0: Tensor, num_steps: int, number: int) -> tuple[Tensor, ...]:
    """Room for a block, with one more step than a chunk has.

    All blocks share it: memory that is used for the first time is slow.
    """
    shape = (num_steps + 1, min(len(h_0), _num_rows(h_0)), *h_0.shape[1:])
    return tuple(h_0.new_empty(shape) for _ in range(number))


class _Steps:
    """The decays a of one chunk of one block, and its states h after the one that it starts from.

    The steps of the buffers are taken apart once, since for small states that costs as much as a
    step.
    """

    def __init__(self, A: Tensor, a: Tensor, h: Tensor, negative: bool) -> None:
        # For a power of 2, for which torch has a faster kernel on a CPU than for one of e.
        self.A = (A * math.log2(math.e)).contiguous()
        self.a, self.h, self.negative = a, h, negative
        self.a_steps, self.h_steps = a.unbind(0), h.unbind(0)

    def fill(self, x: Tensor, delta: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The a_t of a chunk, and `start` with the states after it."""
        a, h = self.a[: len(x)], self.h[: len(x) + 1]
        torch.mul(delta[:, :, None], self.A, out=a).exp2_()
        if self.negative:
            a.mul_(2).sub_(1)
        h[0] = start
        torch.mul(x[:, :, None], B[..., None], out=h[1:])
        for t in range(len(x)):
            h_next = self.h_steps[t + 1]
            torch.addcmul(h_next, self.a_steps[t], self.h_steps[t], out=h_next)
        return a, h


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
    """The fused kernel, if it can take the place of `_selective_scan` for these arguments.

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
