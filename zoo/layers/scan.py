"""The diagonal linear recurrence h_t = a_t h_{t-1} + b_t."""

from typing import Any, Literal

import torch
from torch import Tensor

Method = Literal["chunked", "loop"]

# Steps in a chunk. A scan makes about 2 * CHUNK calls for every level of chunks, each on all chunks
# side by side, so that a call is long enough to be worth making and short enough to stay in cache.
CHUNK = 32


def diagonal_scan(
    a: Tensor, b: Tensor, h_0: Tensor | None = None, method: Method = "chunked"
) -> Tensor:
    """All states of the recurrence h_t = a_t * h_{t-1} + b_t, elementwise in the state.

    The chunked method walks through all chunks of the sequence side by side, twice: first from zero
    for the last state of each chunk; then, with the states between chunks known by the same method
    on the chunks, from the right start. Its work and its memory are linear in the length. Nothing
    is divided by a power of a, so no a is too small or zero. Gradients come from the same
    recurrence run backwards, and only a and the states are kept for it.

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
    if method == "loop":
        return _loop(a, b, h_0)
    if method == "chunked":
        h: Tensor = _Scan.apply(a, b, h_0, False)
        return h
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
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        a, _, h_0, reverse = inputs
        ctx.reverse = reverse
        ctx.save_for_backward(a, h_0, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        # With g_t the gradient with respect to h_t by all ways: g_t = grad_t + conj(a_{t+1}) g_{t+1}
        a, h_0, h = ctx.saved_tensors
        conj_a = a.conj().resolve_conj()
        invariant = a.ndim < h.ndim
        first = -1 if ctx.reverse else 0
        # What multiplies g at the far end is never used: there is no gradient from beyond it.
        after = conj_a if invariant else conj_a.roll(1 if ctx.reverse else -1, dims=1)
        g = _Scan.apply(after, grad, torch.zeros_like(h_0), not ctx.reverse)
        grad_a = grad_h_0 = None
        if ctx.needs_input_grad[0]:
            before = _states_before(h, h_0, ctx.reverse)
            grad_a = g * before.conj()
            if invariant:
                grad_a = grad_a.sum((0, 1))
        if ctx.needs_input_grad[2]:
            grad_h_0 = (conj_a if invariant else conj_a[:, first]) * g[:, first]
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
        return _Scan.apply(a, b, h_0, reverse), 2


def _states_before(h: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """The state each step started from, in the shape of h."""
    if reverse:
        return torch.cat([h[:, 1:], h_0[:, None]], dim=1)
    return torch.cat([h_0[:, None], h[:, :-1]], dim=1)


def _fill(h: Tensor, a: Tensor, b: Tensor, h_0: Tensor, reverse: bool) -> None:
    """Writes the states into h."""
    length = b.shape[1]
    num_chunks = length // CHUNK if length >= 2 * CHUNK else 0
    num_single = length - num_chunks * CHUNK  # what does not fill a chunk comes first
    order = slice(None, None, -1 if reverse else 1)

    def split(tensor: Tensor) -> tuple[Tensor, Tensor]:
        if reverse:
            chunks, single = tensor.tensor_split([num_chunks * CHUNK], dim=1)
        else:
            single, chunks = tensor.tensor_split([num_single], dim=1)
        return single, chunks

    def steps(tensor: Tensor, dim: int) -> list[Tensor]:
        if tensor.ndim < b.ndim:
            return [tensor] * (num_single if dim == 1 else CHUNK)
        part = split(tensor)[dim - 1]
        if dim == 2:
            part = part.unflatten(1, (num_chunks, CHUNK))
        return list(part.unbind(dim)[order])

    for a_t, b_t, h_t in zip(steps(a, 1), steps(b, 1), steps(h, 1), strict=True):
        h_0 = torch.addcmul(b_t, a_t, h_0, out=h_t)
    if num_chunks == 0:
        return

    a_steps, b_steps, h_steps = steps(a, 2), steps(b, 2), steps(h, 2)
    decay, end = a_steps[0], b_steps[0]  # over a whole chunk; (batch, num_chunks, *state)
    for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
        decay = decay * a_t
        end = torch.addcmul(b_t, a_t, end)
    ends = torch.empty_like(end)
    _fill(ends, decay, end, h_0, reverse)
    state = _states_before(ends, h_0, reverse)
    for a_t, b_t, h_t in zip(a_steps, b_steps, h_steps, strict=True):
        state = torch.addcmul(b_t, a_t, state, out=h_t)
