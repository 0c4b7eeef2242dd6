"""The selective scan: the chunked path is the loop, in values and gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.ops import outer_scan
from zoo.ops import selective_scan as scan_module
from zoo.ops.outer_scan import MAX_CHUNK, MIN_CHUNK
from zoo.ops.selective_scan import selective_scan

LENGTHS = [1, 2, 3, 5, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 2 * MAX_CHUNK, 3 * MAX_CHUNK + 5]
NAMES = ["u", "delta", "A", "B", "C", "D", "h_0"]


def arguments(
    length: int, batch: int = 3, d_inner: int = 5, d_state: int = 4, dtype: Any = torch.float64
) -> list[Tensor]:
    """u, delta, A, B, C, D, h_0, all asking for a gradient."""
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parts = [
        draw(batch, length, d_inner),
        draw(batch, length, d_inner).exp(),
        -draw(d_inner, d_state).exp(),
        draw(batch, length, d_state),
        draw(batch, length, d_state),
        draw(d_inner),
        draw(batch, d_inner, d_state),
    ]
    return [part.to(dtype).requires_grad_() for part in parts]


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def loss(y: Tensor, h: Tensor) -> Tensor:
    """Weights every output differently, and reads the last state too."""
    return (y * torch.arange(y.numel()).view(y.shape).sin()).sum() + h.cos().sum()


negative = pytest.mark.parametrize("negative", [False, True])


@negative
def test_loop_is_the_recurrence_written_by_hand(negative: bool) -> None:
    parts = arguments(3, batch=1)
    u, delta, A, B, C, D, h = (part.detach().numpy() for part in parts)
    h, expected = h[0].copy(), np.empty((3, 5))
    for t in range(3):
        for i in range(5):
            a = np.exp(delta[0, t, i] * A[i])
            a = 2 * a - 1 if negative else a
            h[i] = a * h[i] + delta[0, t, i] * u[0, t, i] * B[0, t]
            expected[t, i] = h[i] @ C[0, t] + D[i] * u[0, t, i]
    y, h_last = selective_scan(*parts, method="loop", negative_eigenvalues=negative)
    close(y[0].detach(), torch.tensor(expected))
    close(h_last[0].detach(), torch.tensor(h))


@negative
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_loop_in_values_and_gradients(length: int, negative: bool) -> None:
    results = []
    for method in ("chunked", "loop"):
        parts = arguments(length)
        y, h = selective_scan(*parts, method, negative)  # type: ignore[arg-type]
        results.append((y, h, torch.autograd.grad(loss(y, h), parts)))
    for part, expected in zip(*results, strict=True):
        close(part, expected)


@pytest.mark.parametrize("read", ["y", "h_last"])
def test_gradients_when_only_one_of_the_results_is_read(read: str) -> None:
    gradients = []
    for method in ("chunked", "loop"):
        parts = arguments(MAX_CHUNK + 2)
        y, h = selective_scan(*parts, method=method)  # type: ignore[arg-type]
        value = (y if read == "y" else h).square().sum()
        gradients.append(torch.autograd.grad(value, parts, materialize_grads=True))
    close(gradients[0], gradients[1])


@pytest.mark.parametrize(("batch", "chunk"), [(64, MIN_CHUNK), (12, 10)])
@pytest.mark.parametrize("length", [7, 8, 20, 21])
def test_chunks_of_a_wide_batch_are_shorter_and_equal_the_loop(
    batch: int, chunk: int, length: int
) -> None:
    results = []
    for method in ("chunked", "loop"):
        parts = arguments(length, batch=batch, d_inner=128, d_state=16)
        assert outer_scan._chunk_length(parts[-1]) == chunk
        y, h = selective_scan(*parts, method=method)  # type: ignore[arg-type]
        results.append((y, h, torch.autograd.grad(loss(y, h), parts)))
    for part, expected in zip(*results, strict=True):
        close(part, expected)


@negative
def test_gradcheck_across_a_chunk_boundary(negative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer_scan, "MAX_CHUNK", 3)
    parts = arguments(5, batch=2, d_inner=3, d_state=2)
    assert torch.autograd.gradcheck(selective_scan, (*parts, "chunked", negative))


def factors(negative: bool, delta: Tensor, A: Tensor) -> Tensor:
    """What a state of one is multiplied with when nothing is written, (steps, channels)."""
    delta = delta[:, None].expand(-1, 1, len(A))
    nothing, one = torch.zeros(len(delta), 1, 1).double(), delta.new_ones(len(delta), len(A), 1)
    u, D = torch.zeros_like(delta), delta.new_zeros(len(A))
    scan = (u, delta, A[:, None], nothing, nothing, D, one, "chunked", negative)
    return selective_scan(*scan)[1][..., 0]


def test_only_with_the_option_a_state_changes_its_sign() -> None:
    delta, A = torch.logspace(-4, 4, 50).double()[:, None], -torch.logspace(-3, 3, 40).double()
    plain, negative = factors(False, delta, A), factors(True, delta, A)
    assert plain.min() == 0
    assert plain.max() < 1
    close(negative, 2 * plain - 1)
    assert negative.min() == -1


def test_with_the_option_one_channel_computes_parity_and_without_it_forgets() -> None:
    # a(1) = -1, b(1) = 1, a(0) = 1, b(0) = 0: h is 1 after an odd number of ones, else 0. A step of
    # 50 is as good as infinite to 1e-21, and one of 0 keeps the state.
    bits = torch.rand(4, 200, 1, generator=torch.Generator().manual_seed(0)).round().double()
    A, one = -torch.ones(1, 1).double(), torch.ones(4, 200, 1).double()
    scan = (bits, 50 * bits, A, one / 50, one, torch.zeros(1).double(), None)
    parity = bits.cumsum(1) % 2
    for method in ("chunked", "loop"):
        y, _ = selective_scan(*scan, method, True)  # type: ignore[arg-type]
        torch.testing.assert_close(y, parity, rtol=0, atol=1e-12)
    y, _ = selective_scan(*scan)
    once = (bits.cumsum(1) > 0).double()  # all that is left: whether there was a one
    torch.testing.assert_close(y, once, rtol=0, atol=1e-12)


def test_without_a_state_the_scan_starts_from_zero() -> None:
    *parts, h_0 = arguments(7)
    for method in ("chunked", "loop"):
        expected = selective_scan(*parts, torch.zeros_like(h_0), method)  # type: ignore[arg-type]
        close(selective_scan(*parts, method=method), expected)  # type: ignore[arg-type]


@negative
@pytest.mark.parametrize("cut", [1, 7, MAX_CHUNK, MAX_CHUNK + 3])
def test_a_scan_goes_on_from_a_state(cut: int, negative: bool) -> None:
    u, delta, A, B, C, D, h_0 = arguments(2 * MAX_CHUNK + 1)
    way = ("chunked", negative)
    y, h = selective_scan(u, delta, A, B, C, D, h_0, *way)  # type: ignore[arg-type]
    start = [part[:, :cut] for part in (u, delta, B, C)]
    rest = [part[:, cut:] for part in (u, delta, B, C)]
    y_start, h_cut = selective_scan(*start[:2], A, *start[2:], D, h_0, *way)  # type: ignore[arg-type]
    y_rest, h_rest = selective_scan(*rest[:2], A, *rest[2:], D, h_cut, *way)  # type: ignore[arg-type]
    close(torch.cat([y_start, y_rest], dim=1), y)
    close(h_rest, h)


def test_the_given_state_stays_as_it_is() -> None:
    parts = arguments(MAX_CHUNK + 1)
    before = parts[-1].clone()
    _, h = selective_scan(*parts)
    h.detach().zero_()
    assert torch.equal(parts[-1], before)


def test_vmap_over_every_argument_and_over_one_alone() -> None:
    replicas = [arguments(MAX_CHUNK + 1) for _ in range(2)]
    stacked = [torch.stack([a, 1.5 * b]).detach() for a, b in zip(*replicas, strict=True)]
    y, h = torch.vmap(selective_scan)(*stacked)
    for i in range(2):
        close((y[i], h[i]), selective_scan(*(part[i] for part in stacked)))
    one = [part[0] for part in stacked]
    in_dims = (None, None, 0, None, None, None, None)
    y, h = torch.vmap(selective_scan, in_dims)(*one[:2], stacked[2], *one[3:])
    for i in range(2):
        close((y[i], h[i]), selective_scan(*one[:2], stacked[2][i], *one[3:]))


@negative
def test_gradients_under_vmap_equal_those_of_each_replica(negative: bool) -> None:
    replicas = [arguments(MAX_CHUNK + 3) for _ in range(2)]
    stacked = [torch.stack([a, 1.5 * b]).detach() for a, b in zip(*replicas, strict=True)]

    def loss_of(*parts: Tensor) -> Tensor:
        return loss(*selective_scan(*parts, negative_eigenvalues=negative))

    gradient = torch.func.grad(loss_of, tuple(range(7)))
    together = torch.vmap(gradient)(*stacked)
    for i in range(2):
        close(tuple(g[i] for g in together), gradient(*(part[i] for part in stacked)))


def test_state_is_float32_at_least_and_outputs_have_the_type_of_u() -> None:
    parts = [part.detach() for part in arguments(MAX_CHUNK + 1, dtype=torch.bfloat16)]
    y, h = selective_scan(*parts)
    assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
    expected, _ = selective_scan(*(part.double() for part in parts))
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    parts = arguments(MAX_CHUNK + 1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = selective_scan(*parts)
        gradients = torch.autograd.grad(loss(*under_autocast), parts, retain_graph=True)
    torch.testing.assert_close(under_autocast, selective_scan(*parts))
    torch.testing.assert_close(gradients, torch.autograd.grad(loss(*under_autocast), parts))


def test_what_is_kept_for_the_backward_pass_is_no_state_per_step() -> None:
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    parts = arguments(20 * MAX_CHUNK, d_inner=MAX_CHUNK, d_state=MAX_CHUNK)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(*parts)
    all_states = MAX_CHUNK * parts[0].numel()
    assert max(kept) <= all_states / MAX_CHUNK


def test_second_derivatives_are_refused() -> None:
    parts = arguments(3)
    y, _ = selective_scan(*parts)
    (du,) = torch.autograd.grad(y.square().sum(), parts[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="method='loop'"):
        du.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused_with_the_expected_one(name: str) -> None:
    parts = dict(zip(NAMES, arguments(6), strict=True))
    parts[name] = parts[name][..., :-1]
    with pytest.raises(ValueError, match="must be") as error:
        selective_scan(**parts)  # type: ignore[arg-type]
    # A wrong u or A shows in the first argument that is held against it.
    assert name in "uA" or str(tuple(parts[name].shape)) in str(error.value)


def test_no_steps_and_unknown_methods_are_refused() -> None:
    parts = arguments(6)
    with pytest.raises(ValueError, match=r"length >= 1.*\(3, 0, 5\)"):
        selective_scan(parts[0][:, :0], *parts[1:])
    with pytest.raises(ValueError, match="'chunked' or 'loop', got 'fast'"):
        selective_scan(*parts, method="fast")  # type: ignore[arg-type]


class PublishedKernel(torch.autograd.Function):
    """Stands for the fused kernel: its layout, and no gradient through the last state."""

    @staticmethod
    def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        h, y = u.new_zeros(len(u), *A.shape), torch.empty_like(u)
        for t in range(u.shape[2]):
            h = (delta[:, :, t, None] * A).exp() * h
            h = h + (delta * u)[:, :, t, None] * B[:, None, :, t]
            y[:, :, t] = (h * C[:, None, :, t]).sum(-1)
        return y, h

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_last: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ones_like(part) for part in ctx.saved_tensors)


def published_kernel(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool
) -> Any:
    assert return_last_state
    return PublishedKernel.apply(u, delta, A, B, C)


def test_the_fused_kernel_is_called_with_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    *parts, _ = arguments(5)
    expected = selective_scan(*parts)
    monkeypatch.setattr(scan_module, "_kernel_for", lambda u, h_0: published_kernel)
    y, h = selective_scan(*parts)
    close((y, h), expected)
    y.sum().backward(retain_graph=True)
    with pytest.raises(NotImplementedError, match="last state"):
        h.sum().backward()


@pytest.mark.parametrize("given", [False, True])
def test_the_fused_kernel_is_for_scans_without_a_state(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnGPU:
        is_cuda, dtype = True, torch.float32

    monkeypatch.setattr(scan_module, "_installed_kernel", lambda: published_kernel)
    chosen = scan_module._kernel_for(OnGPU(), torch.zeros(1) if given else None)  # type: ignore[arg-type]
    assert chosen is (None if given else published_kernel)


def test_the_fused_kernel_is_not_asked_for_negative_eigenvalues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan_module, "_kernel_for", lambda u, h_0: published_kernel)
    *parts, _ = arguments(5)
    expected = selective_scan(*parts, method="loop", negative_eigenvalues=True)
    close(selective_scan(*parts, negative_eigenvalues=True), expected)


def test_on_a_cpu_the_fused_kernel_is_never_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(scan_module, "_installed_kernel", fail)
    selective_scan(*arguments(2))


@negative
def test_a_compiled_scan_gives_the_same_values_and_gradients(negative: bool) -> None:
    results = []
    for run in (selective_scan, torch.compile(selective_scan, backend="aot_eager")):
        parts = arguments(MAX_CHUNK + 2)
        y, h = run(*parts, negative_eigenvalues=negative)
        results.append((y, h, torch.autograd.grad(loss(y, h), parts)))
    for part, expected in zip(*results, strict=True):
        close(part, expected)


def test_an_empty_batch_has_empty_results_and_gradients() -> None:
    parts = arguments(5, batch=0)
    y, h = selective_scan(*parts)
    assert (y.shape, h.shape) == ((0, 5, 5), (0, 5, 4))
    gradients = torch.autograd.grad(loss(y, h), parts)
    assert all(not gradient.any() for gradient in gradients)
