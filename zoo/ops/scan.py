"""The diagonal linear recurrence h_t = a_t h_{t-1} + b_t."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Method = Literal["chunked", "loop"]

# Steps in a chunk, a power of two. Every level of chunks costs some 3 * CHUNK calls, whatever the
# length, and each call works on all chunks side by side; that pays from 4 * CHUNK steps on.
CHUNK = 16

# Numbers in a product that is only made to be summed: few enough to stay in cache.
PIECE = 2**14


def diagonal_scan(
    a: Tensor, b: Tensor, h_0: Tensor | None = None, method: Method = "chunked"
) -> Tensor:
    """All states of the recurrence h_t = a_t * h_{t-1} + b_t, elementwise in the state.

    The chunked method walks through all chunks of the sequence side by side, twice: first from zero
    for the last state of each chunk; then, with the states between chunks known by the same method
    on the chunks, from the right start. Its work and its memory are linear in the length. Nothing
    is divided by a power of a, so no a is too small or zero. Gradients come from the same
    recurrence run backwards, and only a and the states are kept for it. `torch.jit.trace`, which
    cannot differentiate results written in place, records the loop.

    Args:
        a: Factors, real or complex: (*state) for the same at every step, else
            (batch, length, *state).
        b: Inputs, real or complex, (batch, length, *state) with length >= 1.
        h_0: State before the first step, (batch, *state); zero unless given.
        method: `"chunked"`, or the reference `"loop"` over steps.

    Returns:
        h_1, ..., h_length, (batch, length, *state), in the widest type among the arguments, float32
        or complex64 at least.

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    if b.ndim < 2 or b.shape[1] == 0:
        raise ValueError(f"b must be (batch, length, *state), length >= 1, got {tuple(b.shape)}")
    if a.shape not in (b.shape, b.shape[2:]):
        raise ValueError(
            f"a must be {tuple(b.shape[2:])} or {tuple(b.shape)} to go with b, got {tuple(a.shape)}"
        )
    if h_0 is None:
        h_0 = torch.zeros_like(b[:, 0])
    if h_0.shape != b[:, 0].shape:
        raise ValueError(f"h_0 must be {tuple(b[:, 0].shape)}, got {tuple(h_0.shape)}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), h_0.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    a, b, h_0 = a.to(dtype), b.to(dtype), h_0.to(dtype)
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if method == "loop" or tracing:
        return _loop(a, b, h_0)
    if method == "chunked":
        return _scan(a, b, h_0, False)
    raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")


def _loop(a: Tensor, b: Tensor, h_0: Tensor) -> Tensor:
    h, states = h_0, []
    for t in range(b.shape[1]):
        h = (a if a.ndim < b.ndim else a[:, t]) * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


class _Scan(torch.autograd.Function):
    """The chunked scan, from the first step to the last or, with `reverse`, the other way round."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        _fill(h, a, b, h_0, reverse)
        return h

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor
    ) -> None:
        a, _, h_0, reverse = inputs
        ctx.reverse = reverse
        ctx.save_for_backward(a, h_0, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        # The full gradient g_t with respect to h_t comes from the output and from the next state:
        # g_t = grad_t + conj(a_{t+1}) g_{t+1}. Then b_t has g_t, and a_t has g_t conj(h_{t-1}).
        a, h_0, h = ctx.saved_tensors
        reverse = ctx.reverse
        conj_a = a.conj().resolve_conj()
        if a.ndim == h.ndim:  # the one that comes round meets the zero start
            conj_a = conj_a.roll(1 if reverse else -1, dims=1)
        g = _scan(conj_a, grad, torch.zeros_like(h_0), not reverse)
        first, later, earlier = (
            (-1, slice(-1), slice(1, None)) if reverse else (0, slice(1, None), slice(-1))
        )
        g_first, g_later, h_earlier = g[:, first], g[:, later], h[:, earlier]
        grad_a = grad_h_0 = None
        if ctx.needs_input_grad[0] and a.ndim == h.ndim:
            parts = [(g_first * h_0.conj())[:, None], g_later * h_earlier.conj()]
            grad_a = torch.cat(parts[::-1] if reverse else parts, dim=1)
        elif ctx.needs_input_grad[0]:
            grad_a = (g_first * h_0.conj()).sum(0) + _sum_of_products(g_later, h_earlier)
        if ctx.needs_input_grad[2]:
            grad_h_0 = (a if a.ndim < h.ndim else a[:, first]).conj() * g_first
        return grad_a, g, grad_h_0, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, int | None, int | None, None],
        a: Tensor,
        b: Tensor,
        h_0: Tensor,
        reverse: bool,
    ) -> tuple[Tensor, int]:
        # The mapped dimension becomes the first of the state.
        def in_state(tensor: Tensor, dim: int | None, to: int) -> Tensor:
            if dim is None:
                tensor, dim = tensor.expand(info.batch_size, *tensor.shape), 0
            return tensor.movedim(dim, to)

        mapped = a.ndim - (in_dims[0] is not None), b.ndim - (in_dims[1] is not None)
        a = in_state(a, in_dims[0], 0 if mapped[0] < mapped[1] else 2)
        b, h_0 = in_state(b, in_dims[1], 2), in_state(h_0, in_dims[2], 1)
        return _scan(a, b, h_0, reverse), 2


_scan: Callable[[Tensor, Tensor, Tensor, bool], Tensor] = _Scan.apply


def _fill(h: Tensor, a: Tensor, b: Tensor, h_0: Tensor, reverse: bool) -> None:
    """Writes the states into h."""
    length = b.shape[1]
    num_chunks = length // CHUNK if length >= 4 * CHUNK else 0
    in_chunks = num_chunks * CHUNK
    order = slice(None, None, -1 if reverse else 1)
    # Steps that do not fill a chunk come first, wherever the recurrence starts.
    single = slice(in_chunks, None) if reverse else slice(None, length - in_chunks)
    chunks = slice(None, in_chunks) if reverse else slice(length - in_chunks, None)
    invariant = a.ndim < b.ndim

    b_steps, h_steps = (part[:, single].unbind(1)[order] for part in (b, h))
    a_steps = [a] * len(b_steps) if invariant else a[:, single].unbind(1)[order]
    for a_t, b_t, h_t in zip(a_steps, b_steps, h_steps, strict=True):
        h_0 = torch.addcmul(b_t, a_t, h_0, out=h_t)
    if num_chunks == 0:
        return

    def by_step(tensor: Tensor) -> tuple[Tensor, ...]:  # each (batch, num_chunks, *state)
        shape = (len(b), num_chunks, CHUNK, *b.shape[2:])
        return tensor[:, chunks].view(shape).unbind(2)[order]

    b_steps, h_steps = by_step(b), by_step(h)
    a_steps = [a] * CHUNK if invariant else by_step(a)
    decay, end = a_steps[0], b_steps[0]
    for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
        if not invariant:
            decay = decay * a_t
        end = torch.addcmul(b_t, a_t, end)
    if invariant:
        for _ in range(CHUNK.bit_length() - 1):  # a^CHUNK by squaring
            decay = decay * decay
    ends = torch.empty_like(end)
    _fill(ends, decay, end, h_0, reverse)
    if reverse:
        state = torch.cat([ends[:, 1:], h_0[:, None]], dim=1)
    else:
        state = torch.cat([h_0[:, None], ends[:, :-1]], dim=1)
    for a_t, b_t, h_t in zip(a_steps, b_steps, h_steps, strict=True):
        state = torch.addcmul(b_t, a_t, state, out=h_t)


def _sum_of_products(g: Tensor, h: Tensor) -> Tensor:
    """Sum over batch and length of g * conj(h), both (batch, length, *state), in small pieces."""
    size = max(1, PIECE * g.shape[1] // max(1, g.numel()))
    pieces = zip(torch.split(g, size, dim=1), torch.split(h, size, dim=1), strict=True)
    return torch.stack([(g_i * h_i.conj()).sum((0, 1)) for g_i, h_i in pieces]).sum(0)
