"""The deep GD-SSM: its layer against the loop and against its definition."""

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.layers.gd_ssm_heads import GDSSMBlock, GDSSMHeads
from zoo.layers.recurrence import CHUNK
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_


def large_random_heads(num_heads: int, d_head: int, decay: str = "elementwise") -> GDSSMHeads:
    """Float64 heads whose decay is strong and differs from entry to entry."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = GDSSMHeads(num_heads, d_head, decay=decay, scale_D=1.0).double()  # type: ignore[arg-type]
        if heads.Lambda_re is not None:
            torch.nn.init.uniform_(heads.Lambda_re, -20.0, 0.5)  # some are clamped
    return heads


def start(heads: GDSSMHeads, batch: int) -> tuple[Tensor, Tensor]:
    """A state in the middle of a sequence."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(batch, 2, heads.num_heads, heads.d_head)]
    shapes.append((batch, heads.num_heads, heads.d_head, heads.d_head))
    tail, Z = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return tail, Z


@pytest.mark.parametrize("decay", ["elementwise", "none"])
@pytest.mark.parametrize("length", [1, 2, 9, CHUNK + 3])
def test_chunks_equal_the_loop_in_values_and_gradients(
    length: int, decay: str, make_pairs: MakePairs
) -> None:
    heads = large_random_heads(3, 4, decay)
    s = make_pairs(12, 1, length, batch=2)[0].unflatten(2, (3, 4)).requires_grad_()
    state = [part.requires_grad_() for part in start(heads, 2)]
    inputs = [s, *state, *heads.parameters()]
    results = [heads(s, *state, method=method) for method in ("chunked", "loop")]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    gradients = []
    for o, _, Z in results:
        weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)
        loss = (weights * o).sum() + Z.square().sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_windows_slide_over_every_token_with_zeros_before_the_first() -> None:
    heads = large_random_heads(1, 2)
    with torch.no_grad():
        heads.Q.zero_()[0, 0, 2] = 1  # s_{t-2} s_t^T
        heads.D.zero_()[0, 1] = 1  # asked with s_{t-1}
        heads.Lambda_re.zero_()  # type: ignore[operator]
    s = torch.randn(1, 5, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    o, tail, _ = heads(s, torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, 2))
    s_t, o_t = s[0, :, 0], o[0, :, 0]
    assert (o_t[:2] == 0).all()
    Z_4 = sum(torch.outer(s_t[t - 2], s_t[t]) for t in (2, 3, 4))
    torch.testing.assert_close(o_t[4], Z_4.mT @ s_t[3])  # type: ignore[union-attr]
    assert torch.equal(tail, s[:, 3:])


def test_one_head_holds_the_gradient_step_of_the_one_layer_model(make_pairs: MakePairs) -> None:
    # Inputs on the first coordinates and labels on the last: x_i y_i^T is seen once, at y_i.
    x, y = make_pairs(3, 2, 8)
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2).double()
    assert isinstance(model, GDSSM)
    construct_gradient_descent_(model, 1.0)
    heads = large_random_heads(1, 5)
    with torch.no_grad():
        heads.Q.zero_()[0, 1, 2] = 1  # s_{t-1} s_t^T
        heads.D.zero_()[0, 2] = 1
        heads.Lambda_re.zero_()  # type: ignore[operator]
    tokens = x.new_zeros(3, 16, 5)
    tokens[:, 0::2, :3], tokens[:, 1::2, 3:] = x, y
    o, _, _ = heads(tokens[:, :, None], x.new_zeros(3, 2, 1, 5), x.new_zeros(3, 1, 5, 5))
    # A window that ends at an input adds y_{i-1} x_i^T, rows of labels that no input asks for.
    torch.testing.assert_close(o[:, 0::2, 0, 3:], model(x, y))


def test_a_state_does_not_grow_and_is_counted() -> None:
    block = GDSSMBlock(8, d_head=4)
    state = block.init_state(1, torch.device("cpu"), torch.float32)
    _, after = block(torch.randn(1, 30, 8), state)
    numbers = [sum(part.numel() for part in parts) for parts in (state, after)]
    assert numbers == [block.state_size(0), block.state_size(30)] == [8 * (4 + 2)] * 2


def test_states_stay_float32_under_autocast() -> None:
    heads = GDSSMHeads(2, 4)
    s = torch.randn(2, 9, 2, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    state = torch.zeros(2, 2, 2, 4), torch.zeros(2, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _, Z = heads(s, *state)
    assert o.dtype == torch.bfloat16
    assert Z.dtype == torch.float32
    torch.testing.assert_close(Z, heads(s.float(), *state)[2])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="d_head must divide d_model = 6, got 4"):
        zoo.create_model("gd_ssm_deep", d_x=2, d_y=2, d_model=6, d_head=4)
    with pytest.raises(ValueError, match="'chunked' or 'loop', got 'fast'"):
        GDSSMHeads(1, 2)(
            torch.zeros(1, 1, 1, 2),
            torch.zeros(1, 2, 1, 2),
            torch.zeros(1, 1, 2, 2),
            method="fast",  # type: ignore[arg-type]
        )
