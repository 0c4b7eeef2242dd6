"""Softmax and linear attention: against plain formulas, and against gradient descent."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import zoo
from tests.conftest import MakePairs
from zoo.layers.attention import SHORT, CausalAttention, causal_products
from zoo.layers.linear_attention import LinearAttention
from zoo.models.linear_transformer import LinearTransformer, construct_gradient_descent_


def linear_transformer(**arguments: Any) -> LinearTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("linear_transformer", **arguments).double()
    assert isinstance(model, LinearTransformer)
    return model


def test_causal_attention_is_the_softmax_over_earlier_tokens() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = CausalAttention(8, num_heads=2).double()
        u = torch.randn(3, 5, 8, dtype=torch.float64)
    nothing = u.new_zeros(3, 2, 0, 4)
    output, *_ = attention(u, nothing, nothing, u.new_zeros(3))
    q, k, v = attention.qkv(u).chunk(3, dim=-1)
    for t in range(5):
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            scores = torch.einsum("bd,bsd->bs", q[:, t, h], k[:, : t + 1, h]) / 2
            heads.append(torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, : t + 1, h]))
        torch.testing.assert_close(output[:, t], attention.out(torch.cat(heads, dim=-1)))


def test_plain_products_are_for_short_sequences_on_a_cpu_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        asked.append((q.device.type, q.shape[2]))
        return causal_products(q, k, v)

    monkeypatch.setattr("zoo.layers.attention.causal_products", noted)
    for device in ("cpu", "meta"):
        attention = CausalAttention(8, num_heads=2).to(device)
        for length in (5, SHORT, SHORT + 1):
            u = torch.zeros(3, length, 8, device=device)
            nothing = u.new_zeros(3, 2, 0, 4)
            attention(u, nothing, nothing, u.new_zeros(3))
    assert asked == [("cpu", 5), ("cpu", SHORT)]


@pytest.mark.parametrize("num_examples", [0, 1, 3, 40])
@pytest.mark.parametrize("num_tokens", [1, 40])
def test_linear_attention_multiplies_in_either_order(
    num_tokens: int, num_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LinearAttention(5, num_heads=2, scale=0.5).double()
        e = torch.randn(3, num_tokens, 5, dtype=torch.float64, requires_grad=True)
        examples = torch.randn(3, num_examples, 5, dtype=torch.float64, requires_grad=True)
    inputs = [e, examples, *layer.parameters()]
    expected = e
    for W_Q, W_K, W_V, P in zip(layer.W_Q, layer.W_K, layer.W_V, layer.P, strict=True):
        written = (examples @ W_V.mT).mT @ (examples @ W_K.mT)  # sum_i v_i k_i^T
        expected = expected + e @ W_Q.mT @ written.mT @ P.mT
    expected_gradients = torch.autograd.grad(expected.sin().sum(), inputs)
    for moment in (False, True):
        monkeypatch.setattr(
            "zoo.layers.linear_attention.moment_is_cheaper", lambda *_, moment=moment: moment
        )
        found = layer.attend_to_all(e, examples)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(found.sin().sum(), inputs)
        torch.testing.assert_close(gradients, expected_gradients)


def test_work_of_full_linear_attention_is_linear_in_the_examples_and_never_more() -> None:
    layer = LinearAttention(8, num_heads=4, scale=0.1)
    flops = {}
    for num_tokens, num_examples in ((400, 400), (800, 800), (1, 400), (1, 2), (2, 1)):
        e, examples = torch.rand(1, num_tokens, 8), torch.rand(1, num_examples, 8)
        with FlopCounterMode(display=False) as counter:
            layer.attend_to_all(e, examples)
        flops[num_tokens, num_examples] = counter.get_total_flops()
        products = 4 * 2 * num_tokens * num_examples * 8 * 2  # (Q E^T) E of four heads
        matrices = 2 * 2 * 4 * 8**3 + 2 * 2 * num_tokens * 4 * 8**2
        assert flops[num_tokens, num_examples] <= products + matrices
    assert flops[800, 800] < 2 * flops[400, 400]


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("d_x", "d_y", "num_context"), [(4, 4, 7), (3, 1, 5), (2, 5, 0)])
def test_constructed_layers_equal_gradient_steps_at_every_prefix(
    num_layers: int, shared: bool, d_x: int, d_y: int, num_context: int, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(d_x, d_y, num_context + 1)
    model = linear_transformer(d_x=d_x, d_y=d_y, num_layers=num_layers, shared=shared, num_heads=2)
    construct_gradient_descent_(model, step_size=0.07)
    solver = zoo.create_solver(
        "gradient_descent", d_x=d_x, d_y=d_y, step_size=0.07, num_steps=num_layers
    )
    torch.testing.assert_close(model(x, y), solver(x, y), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model.predict_query(x, y), solver.predict_query(x, y), rtol=0, atol=1e-10
    )


def test_constructed_gd_ssm_and_linear_transformer_agree(make_pairs: MakePairs) -> None:
    from zoo.models import gd_ssm

    x, y = make_pairs(5, 3, 9)
    ssm = zoo.create_model("gd_ssm", d_x=5, d_y=3).double()
    assert isinstance(ssm, gd_ssm.GDSSM)
    gd_ssm.construct_gradient_descent_(ssm, 0.2)
    for attention in ("full", "causal"):
        model = linear_transformer(d_x=5, d_y=3, attention=attention)
        construct_gradient_descent_(model, 0.2)
        torch.testing.assert_close(model(x, y), ssm(x, y), rtol=0, atol=1e-10)


def test_causal_attention_constructs_one_step_only() -> None:
    with pytest.raises(ValueError, match="one gradient step, got num_layers = 2"):
        construct_gradient_descent_(
            linear_transformer(d_x=2, d_y=2, num_layers=2, attention="causal"), 0.1
        )


@pytest.mark.parametrize("num_layers", [1, 3])
def test_causal_variant_streams_with_a_constant_state(
    num_layers: int, make_pairs: MakePairs
) -> None:
    model = linear_transformer(
        d_x=4, d_y=2, num_layers=num_layers, num_heads=2, attention="causal", scale=1.0
    )
    x, y = make_pairs(4, 2, 8)
    state = model.init_state(3, dtype=x.dtype)
    predictions = []
    for i in range(8):
        predictions.append(model.predict(state, x[:, i : i + 1]))
        state = model.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    torch.testing.assert_close(torch.cat(predictions, dim=1), model(x, y))
    at_once = model.observe(model.init_state(3, dtype=x.dtype), x, y)
    torch.testing.assert_close(model.predict(at_once, x), model.predict(state, x))
    assert model.state_size(10) == model.state_size(10**6) == num_layers * 2 * 36


def test_causal_and_full_attention_differ_beyond_one_layer(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 8)
    for num_layers, same in [(1, True), (2, False)]:
        full, causal = (
            linear_transformer(d_x=4, d_y=2, num_layers=num_layers, attention=kind, scale=1.0)
            for kind in ("full", "causal")
        )
        causal.load_state_dict(full.state_dict())
        assert torch.allclose(full(x, y), causal(x, y)) == same


def test_learned_positions_end_where_they_end(make_pairs: MakePairs) -> None:
    model = zoo.create_model("transformer", d_x=3, d_y=3, d_model=8, max_context=4).double()
    x, y = make_pairs(3, 3, 6)
    model(x[:, :5], y[:, :5])
    message = r"length 5 \(max_context = 4 and the query\), got 6"
    with pytest.raises(ValueError, match=message):
        model(x, y)
    state = model.observe(model.init_state(3), x[:, :4], y[:, :4])
    model.predict(state, x[:, :1])
    with pytest.raises(ValueError, match="got 6"):
        model.predict(model.observe(state, x[:, :1], y[:, :1]), x[:, :1])
    without = zoo.create_model("transformer", d_x=3, d_y=3, d_model=8, positions="none").double()
    assert without(*make_pairs(3, 3, 200)).shape == (3, 200, 3)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads must divide d_model = 64, got 5"):
        zoo.create_model("transformer", d_x=3, d_y=3, num_heads=5)


def test_scales_only_change_units(make_pairs: MakePairs) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = zoo.create_model("transformer", d_x=3, d_y=3, d_model=8).double()
    scaled = zoo.create_model(
        "transformer", d_x=3, d_y=3, d_model=8, x_scale=2.0, y_scale=0.5
    ).double()
    scaled.load_state_dict(plain.state_dict())
    x, y = make_pairs(3, 3, 6)
    torch.testing.assert_close(scaled(x, y), plain(2 * x, 0.5 * y) / 0.5)


@pytest.mark.parametrize("length", [1, 2, 21, SHORT])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_plain_products_are_the_kernels_attention_in_values_and_gradients(
    length: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, 2, 3, length, 4, generator=generator, dtype=torch.float64)
    *heads, weight = drawn.to(dtype)
    heads = [part.requires_grad_() for part in heads]
    results = []
    for attention in (causal_products, partial(scaled_dot_product_attention, is_causal=True)):
        mixed = attention(*heads)
        results.append((mixed, *torch.autograd.grad((mixed * weight).sum(), heads)))
    for products, kernel in zip(*results, strict=True):
        torch.testing.assert_close(products, kernel)


@pytest.mark.parametrize("length", [SHORT, SHORT + 1])
def test_attention_is_causal_on_both_sides_of_the_choice(length: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = CausalAttention(8, num_heads=2).double()
        u = torch.randn(2, length, 8, dtype=torch.float64)
    nothing = u.new_zeros(2, 2, 0, 4)
    whole, *_ = attention(u, nothing, nothing, u.new_zeros(2))
    first, *state = attention(u[:, :30], nothing, nothing, u.new_zeros(2))
    rest, *_ = attention(u[:, 30:], *state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    u[:, 40:] = torch.nan
    spoiled, *_ = attention(u, nothing, nothing, u.new_zeros(2))
    torch.testing.assert_close(spoiled[:, :40], whole[:, :40])
    assert spoiled[:, 40:].isnan().all()
