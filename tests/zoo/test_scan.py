"""The diagonal recurrence: the chunked method against the loop."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zoo.ops.scan import CHUNK, diagonal_scan

# One step, less than a chunk, around the length from which there are chunks, two levels of them.
LENGTHS = [1, 2, 3, 17, 4 * CHUNK - 1, 4 * CHUNK, 5 * CHUNK + 3, 4 * CHUNK**2 + 5]
types = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
varying = pytest.mark.parametrize("varies", [False, True])


def make(
    length: int, dtype: torch.dtype, varies: bool, state: tuple[int, ...] = (3,)
) -> tuple[Tensor, Tensor, Tensor]:
    """a of modulus up to 1, b and h_0, all with gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    b, h_0 = draw(2, length, *state), draw(2, *state)
    a = draw(*(b.shape if varies else state))
    a = a / a.abs().clamp(min=1)
    return a.requires_grad_(), b.requires_grad_(), h_0.requires_grad_()


@types
@varying
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("state", [(3,), (2, 2), ()])
def test_chunked_equals_loop_in_values_and_gradients(
    length: int, state: tuple[int, ...], dtype: torch.dtype, varies: bool
) -> None:
    inputs = make(length, dtype, varies, state)
    weight = torch.randn(inputs[1].shape, dtype=dtype)
    results = []
    for method in ("chunked", "loop"):
        h = diagonal_scan(*inputs, method=method)
        loss = (h * weight).abs().square().sum() + (h * weight).real.sum()
        results.append((h, *torch.autograd.grad(loss, inputs)))
    for chunked, loop in zip(*results, strict=True):
        assert chunked.shape == loop.shape
        torch.testing.assert_close(chunked, loop, rtol=1e-10, atol=1e-10)


@types
@varying
@pytest.mark.parametrize("size", [0.0, 1e-200])
def test_gradients_are_right_where_a_vanishes(
    size: float, dtype: torch.dtype, varies: bool
) -> None:
    a, b, h_0 = make(5 * CHUNK, dtype, varies)
    a = torch.full_like(a, size, requires_grad=True)
    chunked, loop = (
        torch.autograd.grad(
            diagonal_scan(a, b, h_0, method=method).real.square().sum(), (a, b, h_0)
        )
        for method in ("chunked", "loop")
    )
    assert chunked[0].abs().max() > 0
    torch.testing.assert_close(chunked, loop, rtol=1e-10, atol=1e-10)


@types
@varying
def test_gradients_of_gradients(dtype: torch.dtype, varies: bool) -> None:
    inputs = make(4, dtype, varies, (2,))
    assert torch.autograd.gradgradcheck(diagonal_scan, inputs)


@varying
def test_a_sequence_in_two_parts_is_the_whole(varies: bool) -> None:
    a, b, h_0 = make(7 * CHUNK, torch.complex128, varies)
    whole = diagonal_scan(a, b, h_0)
    first = diagonal_scan(a[:, :90] if varies else a, b[:, :90], h_0)
    second = diagonal_scan(a[:, 90:] if varies else a, b[:, 90:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    from_zero = diagonal_scan(a, b, torch.zeros_like(h_0))
    assert torch.equal(diagonal_scan(a, b), from_zero)


@types
@varying
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 1, None), (1, None, 0)])
def test_it_runs_under_vmap(
    in_dims: tuple[int | None, ...], dtype: torch.dtype, varies: bool
) -> None:
    inputs = [tensor.detach() for tensor in make(5 * CHUNK, dtype, varies)]
    mapped = [
        tensor if dim is None else torch.stack([tensor, tensor / 2, tensor / 3], dim)
        for tensor, dim in zip(inputs, in_dims, strict=True)
    ]

    def gradients(*arguments: Tensor) -> tuple[Tensor, ...]:
        def loss(*arguments: Tensor) -> Tensor:
            return diagonal_scan(*arguments).abs().square().sum()

        return torch.func.grad(loss, argnums=(0, 1, 2))(*arguments)

    for function in (diagonal_scan, gradients):
        together = torch.vmap(function, in_dims)(*mapped)
        for i in range(3):
            alone = function(
                *(
                    tensor if dim is None else tensor.select(dim, i)
                    for tensor, dim in zip(mapped, in_dims, strict=True)
                )
            )
            torch.testing.assert_close(
                torch.utils._pytree.tree_map(lambda part, i=i: part[i], together), alone
            )


def test_states_are_float32_at_least() -> None:
    a, b = torch.full((3,), 0.9, dtype=torch.bfloat16), torch.ones(2, 300, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert diagonal_scan(a, b).dtype == torch.float32
        assert diagonal_scan(a * 1j, b).dtype == torch.complex64
    assert diagonal_scan(a, b.double()).dtype == torch.float64


def test_work_and_memory_are_linear_in_the_length() -> None:
    peaks, flops = [], []
    for length in (2048, 4096, 8192):
        a, b = torch.full((64,), 0.9), torch.ones(1, length, 64)
        with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
            diagonal_scan(a, b)
        allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
        peaks.append(allocated / b.nbytes)
        shapes = [
            event.input_shapes[0] for event in profile.events() if event.name == "aten::addcmul"
        ]
        flops.append(sum(torch.Size(shape).numel() for shape in shapes) / b.numel())
    # The states once, and what is between chunks: a sixteenth for each step on the way to the end.
    assert all(peak < 4 for peak in peaks)
    assert all(count < 2.5 for count in flops)
    assert all(later < 1.05 * earlier for earlier, later in pairwise(flops))


@pytest.mark.parametrize(
    ("a", "b", "h_0", "method", "message"),
    [
        ((3,), (2, 0, 3), None, "chunked", r"length >= 1, got \(2, 0, 3\)"),
        ((4,), (2, 5, 3), None, "chunked", r"a must be \(3,\) or \(2, 5, 3\).* got \(4,\)"),
        ((3,), (2, 5, 3), (1, 3), "chunked", r"h_0 must be \(2, 3\), got \(1, 3\)"),
        ((3,), (2, 5, 3), None, "parallel", "'chunked' or 'loop', got 'parallel'"),
    ],
)
def test_wrong_arguments_are_named(
    a: tuple[int, ...], b: tuple[int, ...], h_0: tuple[int, ...] | None, method: str, message: str
) -> None:
    start = None if h_0 is None else torch.zeros(h_0)
    with pytest.raises(ValueError, match=message):
        diagonal_scan(torch.zeros(a), torch.zeros(b), start, method)  # type: ignore[arg-type]
