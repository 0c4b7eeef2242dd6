"""A diagonal recurrence of outer products, whose states are never all in memory.

Both the selective scan of Mamba and the diagonal form of Longhorn are such a recurrence.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from zoo.ops.precision import without_autocast

# What a state is multiplied with, as a function of delta_t A.
Decay = Literal["exponential", "reflecting", "linear"]

# What is in memory together: the states of a chunk of steps, of a block of rows of the batch. On a
# CPU a step of a block has STEP numbers, enough to be worth a call, and a chunk has CACHED, 1 MiB,
# since caches hold three such buffers; but not so few steps that the boundary states kept are many.
MIN_CHUNK, MAX_CHUNK = 8, 32
STEP, CACHED = 2**15, 2**18


def outer_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h_0: Tensor, decay: Decay
) -> tuple[Tensor, Tensor]:
    """Reads the states of a recurrence with the same arithmetic for every entry of the state.

        h_t = a_t * h_{t-1} + B_t x_t^T,   y_t = h_t^T C_t

    where a_t is exp(delta_t A) (`"exponential"`), 2 exp(delta_t A) - 1 (`"reflecting"`) or, with
    rates of every step, 1 - A_t delta_t^T (`"linear"`). The states at chunk boundaries are
    remembered, and those between are computed again on the way back. It can be differentiated once.

    Args:
        x: What is written, (length, batch, d_inner), length >= 1.
        delta: Step sizes, (length, batch, d_inner).
        A: Rates, (d_state, d_inner); with `"linear"` (length, batch, d_state).
        B: Where it is written, (length, batch, d_state).
        C: What is read, (length, batch, d_state).
        h_0: State before the first step, (batch, d_state, d_inner).
        decay: Which of the three a_t is.

    Returns:
        y (length, batch, d_inner), and the state after the last step (batch, d_state, d_inner).
    """
    y, h, _ = _Scan.apply(x, delta, A, B, C, h_0, decay)  # type: ignore[no-untyped-call]
    return y, h


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
@torch.library.custom_op("zoo::outer_scan", mutates_args=())
def _outer_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h_0: Tensor, decay: str
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states at which the chunks start.

    These, (num_chunks, batch, d_state, d_inner), are all that is kept for the way back.
    """
    length, chunk = len(x), _chunk_length(h_0)
    y, h_last, starts = _like_results(x, delta, A, B, C, h_0, decay)
    a_buffer, h_buffer = _buffers(h_0, min(chunk, length), 2)
    for rows in _blocks(h_0):
        x_r, delta_r, B_r, C_r = (part[:, rows].contiguous() for part in (x, delta, B, C))
        h_r = h_0[rows].contiguous()
        steps = _Steps(A, rows, a_buffer[:, : len(h_r)], h_buffer[:, : len(h_r)], decay)
        for k in range(len(starts)):
            starts[k, rows] = h_r
            now = slice(k * chunk, min((k + 1) * chunk, length))
            _, h = steps.fill(now, x_r[now], delta_r[now], B_r[now], h_r)
            y[now, rows] = (C_r[now, :, None] @ h[1:]).squeeze(2)
            h_r = h[-1]
        h_last[rows] = h_r
    return y, h_last, starts


def _blocks(h: Tensor) -> list[slice]:
    """The rows of each block of the batch, given one step's state."""
    num_rows = _num_rows(h)
    return [slice(i, i + num_rows) for i in range(0, len(h), num_rows)]


@torch.library.custom_op("zoo::outer_scan_gradient", mutates_args=())
def _outer_scan_gradient(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_last: Tensor,
    decay: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the six tensors given to `_outer_scan` from those of y and h_last."""
    length, chunk = len(x), _chunk_length(dh_last)
    dx, ddelta, dA, dB, dC, dh_0 = _like_gradients(x, delta, A, B, C, starts, dy, dh_last, decay)
    if A.ndim == 2:
        dA.zero_()
    a_buffer, h_buffer, dh_buffer = _buffers(dh_0, min(chunk, length), 3)
    for rows in _blocks(dh_last):
        parts = (part[:, rows].contiguous() for part in (x, delta, B, C, starts, dy))
        x_r, delta_r, B_r, C_r, starts_r, dy_r = parts
        dh_r = dh_last[rows].clone()  # on the way: what reaches a chunk from the steps behind it
        dA_r = torch.zeros_like(dh_r)
        steps = _Steps(A, rows, a_buffer[:, : len(dh_r)], h_buffer[:, : len(dh_r)], decay)
        dh_steps = dh_buffer[:-1, : len(dh_r)].unbind(0)
        for k in reversed(range(len(starts))):
            now = slice(k * chunk, min((k + 1) * chunk, length))
            num_steps = now.stop - now.start
            x_k, delta_k, B_k, dy_k = (part[now] for part in (x_r, delta_r, B_r, dy_r))
            a, h = steps.fill(now, x_k, delta_k, B_k, starts_r[k])
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
            # The gradient of delta_t A.
            d_product = steps.slope_(dh, a).mul_(h[:-1])
            ddelta[now, rows] = torch.mul(d_product, steps.rates(now), out=a).sum(2)
            d_rates = d_product.mul_(delta_k[:, :, None])
            if A.ndim == 2:
                dA_r += d_rates.sum(0)
            else:
                dA[now, rows] = d_rates.sum(-1)
        dh_0[rows] = dh_r
        if A.ndim == 2:
            dA += dA_r.sum(0)
    return dx, ddelta, dA, dB, dC, dh_0


@_outer_scan.register_fake
def _like_results(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h_0: Tensor, decay: str
) -> tuple[Tensor, Tensor, Tensor]:
    num_chunks = -(-len(x) // _chunk_length(h_0))
    return torch.empty_like(x), h_0.new_empty(h_0.shape), h_0.new_empty(num_chunks, *h_0.shape)


@_outer_scan_gradient.register_fake
def _like_gradients(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_last: Tensor,
    decay: str,
) -> tuple[Tensor, ...]:
    return (*map(torch.empty_like, (x, delta, A, B, C)), starts.new_empty(starts.shape[1:]))


class _Scan(Function):
    """`_outer_scan`, differentiable; `starts` is there to be kept, not to be read."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, h_last, starts = _outer_scan(*args)
        return y, h_last, starts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.decay = inputs
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
            x, delta, A, B, C, starts, dy, dh_last, ctx.decay
        )
        return *gradients, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        if in_dims[2] is not None and args[2].ndim == 4:
            return _as_one_batch(_Scan, info, in_dims, args, BATCH, OF_RESULTS)
        return _one_replica_after_another(_Scan, info, in_dims, args)


class _ScanGradient(Function):
    """`_outer_scan_gradient` as a function of its own, since vmap may run over it too."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        # Backward passes may run under an autocast that the forward pass switched off.
        with without_autocast(args[0].device):
            gradients: tuple[Tensor, ...] = _outer_scan_gradient(*args)
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("second derivatives need method='loop'")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        # Chunks depend on the batch: they are those of the way there if it was one batch too.
        if in_dims[2] is not None and args[2].ndim == 4 and in_dims[5] is not None:
            return _as_one_batch(_ScanGradient, info, in_dims, args, OF_GRADIENT, BATCH)
        return _one_replica_after_another(_ScanGradient, info, in_dims, args)


# Where the batch is in the arguments of `_Scan` and in its results, if rates have one, and in the
# arguments of `_ScanGradient`.
BATCH, OF_RESULTS, OF_GRADIENT = (1, 1, 1, 1, 1, 0), (1, 0, 1), (1, 1, 1, 1, 1, 1, 1, 0)


def _as_one_batch(
    function: type[Function],
    info: Any,
    in_dims: tuple[int | None, ...],
    args: tuple[Any, ...],
    of_args: tuple[int, ...],
    of_results: tuple[int, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Results of all replicas at once, each an episode of a larger batch."""
    *tensors, decay = args
    folded = []
    for tensor, dim, batch in zip(tensors, in_dims, of_args, strict=False):
        if dim is None:
            tensor, dim = tensor.expand(info.batch_size, *tensor.shape), 0
        folded.append(tensor.movedim(dim, batch).flatten(batch, batch + 1))
    sizes = info.batch_size, folded[0].shape[1] // info.batch_size
    outputs = zip(function.apply(*folded, decay), of_results, strict=True)
    return tuple(out.unflatten(batch, sizes) for out, batch in outputs), of_results


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
    """The factors a of one chunk of one block, and its states h after the one that it starts from.

    The steps of the buffers are taken apart once, since for small states that costs as much as a
    step.
    """

    def __init__(self, A: Tensor, rows: slice, a: Tensor, h: Tensor, decay: str) -> None:
        self.A = A if A.ndim == 2 else A[:, rows, :, None]
        # For a power of 2, for which torch has a faster kernel on a CPU than for one of e.
        self.base_2 = (A * math.log2(math.e)).contiguous()
        self.a, self.h, self.decay = a, h, decay
        self.a_steps, self.h_steps = a.unbind(0), h.unbind(0)

    def rates(self, now: slice) -> Tensor:
        """A of a chunk, as it is multiplied with delta: (d_state, d_inner) or (..., d_state, 1)."""
        return self.A if self.A.ndim == 2 else self.A[now]

    def fill(
        self, now: slice, x: Tensor, delta: Tensor, B: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The a_t of a chunk, and `start` with the states after it."""
        a, h = self.a[: len(x)], self.h[: len(x) + 1]
        if self.decay == "linear":
            torch.mul(delta[:, :, None], self.rates(now), out=a).neg_().add_(1)
        else:
            torch.mul(delta[:, :, None], self.base_2, out=a).exp2_()
        if self.decay == "reflecting":
            a.mul_(2).sub_(1)
        h[0] = start
        torch.mul(x[:, :, None], B[..., None], out=h[1:])
        for t in range(len(x)):
            h_next = self.h_steps[t + 1]
            torch.addcmul(h_next, self.a_steps[t], self.h_steps[t], out=h_next)
        return a, h

    def slope_(self, dh: Tensor, a: Tensor) -> Tensor:
        """dh, in place, times the derivative of a_t by delta_t A."""
        if self.decay == "linear":
            return dh.neg_()
        return dh.mul_(a.add_(1) if self.decay == "reflecting" else a)
