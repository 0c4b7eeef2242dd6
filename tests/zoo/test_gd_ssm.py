"""The GD-SSM against its definition, the published implementation and gradient descent."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import MakePairs
from zoo.layers.gd_ssm import GDSSMLayer, load_published_parameters_
from zoo.layers.tokens import interleave, windows_of_pairs, windows_of_tokens
from zoo.models.gd_ssm import GDSSM, GDSSMConfig, construct_gradient_descent_

PUBLISHED = Path(__file__).parents[1] / "data" / "gd_ssm_vec_d4_n7.npz"
SIZES = [(1, 1, 1), (4, 4, 7), (3, 5, 16), (5, 2, 17), (10, 1, 40)]  # d_x, d_y, N


def large_random_model(d_x: int, d_y: int, decay: str = "elementwise") -> GDSSM:
    """A float64 model in which every term matters and the decay is strong."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GDSSMConfig(d_x=d_x, d_y=d_y, decay=decay, scale_Q=1.0, scale_C=1.0, scale_D=1.0)
        model = GDSSM(config).double()
        if model.layer.Lambda_re is not None:
            torch.nn.init.uniform_(model.layer.Lambda_re, -20.0, 0.5)  # some are clamped
    return model


def test_layer_equals_the_published_implementation() -> None:
    published = np.load(PUBLISHED)
    layer = load_published_parameters_(GDSSMLayer(4), published)
    tokens = torch.as_tensor(published["tokens"])
    expected = torch.as_tensor(published["output_all_windows"])
    for method in ("chunked", "loop"):
        torch.testing.assert_close(layer(tokens, method), expected, rtol=0, atol=2e-6)
    last = layer.last_window(windows_of_tokens(tokens))
    torch.testing.assert_close(last, expected[:, -1], rtol=0, atol=2e-6)
    Lambda_bar = layer.weights().B.Lambda_bar
    torch.testing.assert_close(Lambda_bar, torch.as_tensor(published["Lambda_bar"]))


@pytest.mark.parametrize("decay", ["elementwise", "none"])
@pytest.mark.parametrize(("d_x", "d_y", "num_context"), SIZES)
def test_fast_paths_equal_the_loop_in_values_and_gradients(
    d_x: int, d_y: int, num_context: int, decay: str, make_pairs: MakePairs
) -> None:
    layer = large_random_model(d_x, d_y, decay).layer
    pairs = [part.requires_grad_() for part in make_pairs(d_x, d_y, num_context + 1)]
    inputs = [*pairs, *layer.parameters()]
    S = windows_of_pairs(*pairs)
    loop, chunked, last = layer.all_windows(S, "loop"), layer.all_windows(S), layer.last_window(S)
    torch.testing.assert_close(chunked, loop, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, loop[:, -1], rtol=1e-10, atol=1e-10)

    direction = torch.linspace(-1, 1, loop.numel(), dtype=loop.dtype).view_as(loop)
    for fast, slow, weight in [
        (chunked, loop, direction),
        (last, loop[:, -1], direction[:, -1]),
    ]:
        gradients = [
            torch.autograd.grad((output * weight).sum(), inputs, retain_graph=True)
            for output in (fast, slow)
        ]
        for fast_gradient, slow_gradient in zip(*gradients, strict=True):
            torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decay", ["elementwise", "none"])
@pytest.mark.parametrize(("d_x", "d_y", "num_context"), [*SIZES, (6, 6, 0)])
def test_construction_equals_one_gradient_step_at_every_prefix(
    d_x: int, d_y: int, num_context: int, decay: str, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(d_x, d_y, num_context + 1)
    model = construct_gradient_descent_(large_random_model(d_x, d_y, decay), step_size=0.37)
    solver = zoo.create_solver("gradient_descent", d_x=d_x, d_y=d_y, step_size=0.37)
    torch.testing.assert_close(model(x, y), solver(x, y), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model.predict_query(x, y), solver.predict_query(x, y), rtol=0, atol=1e-10
    )


def test_windows_of_pairs_are_those_of_the_interleaved_tokens(make_pairs: MakePairs) -> None:
    for d_x, d_y in [(3, 3), (5, 2), (2, 5)]:
        x, y = make_pairs(d_x, d_y, 4)
        tokens = interleave(x, y)
        assert tokens.shape == (3, 7, max(d_x, d_y))
        torch.testing.assert_close(windows_of_pairs(x, y), windows_of_tokens(tokens))
    assert tokens[0, 0].tolist() == [*x[0, 0].tolist(), 0, 0, 0]  # x first
    x, y = make_pairs(5, 2, 4)
    assert interleave(x, y)[0, 1].tolist() == [0, 0, 0, *y[0, 0].tolist()]  # y last


def test_state_stays_float32_under_autocast(make_pairs: MakePairs) -> None:
    model = large_random_model(4, 4).float()
    x, y = (part.float() for part in make_pairs(4, 4, 30))
    expected = model(x, y), model.predict_query(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close((model(x, y), model.predict_query(x, y)), expected)
    half = copy.deepcopy(model).bfloat16()
    assert half.init_state(2).Z.dtype == torch.float32
    assert half(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16


def test_streaming_equals_the_loop_when_every_term_matters(make_pairs: MakePairs) -> None:
    for decay in ("elementwise", "none"):
        model = large_random_model(5, 3, decay)
        x, y = make_pairs(5, 3, 40)
        expected = model.layer.all_windows(windows_of_pairs(x, y), "loop")[..., -3:]
        state = model.observe(model.init_state(len(x)), x[:, :30], y[:, :30])
        assert state.Z.dtype == torch.float64
        assert model.state_size(40) == state.Z[0].numel() + 5 + 3
        for i in range(30, 40):
            prediction = model.predict(state, x[:, i : i + 1])[:, 0]
            torch.testing.assert_close(prediction, expected[:, i - 1], rtol=1e-10, atol=1e-10)
            state = model.observe(state, x[:, i : i + 1], y[:, i : i + 1])
        low = copy.deepcopy(model).bfloat16()
        pairs = x.bfloat16(), y.bfloat16()
        assert low.observe(low.init_state(len(x)), *pairs).Z.dtype == torch.float32


def test_the_start_has_the_scales_that_were_asked_for() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [GDSSMLayer(50, scale_Q=0.3, scale_C=2.0, scale_D=0.7) for _ in range(50)]
    for name, std in [("Q", 0.3), ("C", 2.0 / 50**0.5), ("D", 0.7)]:
        drawn = torch.stack([getattr(layer, name) for layer in layers])
        assert drawn.std().item() == pytest.approx(std, rel=0.15)
        assert drawn.mean().item() == pytest.approx(0, abs=std / 4)
    log_step = torch.stack([layer.log_step for layer in layers]).exp()
    assert 1e-3 <= log_step.min() < 1.2e-3
    assert 0.08 < log_step.max() <= 0.1
    assert all((layer.Lambda_re == -0.5).all() for layer in layers)


def test_growing_modes_are_clamped() -> None:
    layer = GDSSMLayer(3)
    torch.nn.init.constant_(layer.Lambda_re, 0.7)
    Lambda_bar = layer.weights().B.Lambda_bar
    assert Lambda_bar is not None
    assert Lambda_bar.max() == 1


def test_between_construction_and_a_rescaled_copy_nothing_changes(make_pairs: MakePairs) -> None:
    from zoo.analysis.construction import interpolated

    model = construct_gradient_descent_(large_random_model(4, 4), 0.1)
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        rescaled.layer.Q *= -3
        rescaled.layer.D *= 0.5
        rescaled.layer.C /= -1.5
    x, y = make_pairs(4, 4, 6)
    for fraction in (0.0, 0.3, 1.0):
        between = interpolated(rescaled, 0.1, fraction)
        torch.testing.assert_close(between(x, y), model(x, y))
    other = large_random_model(4, 4)
    torch.testing.assert_close(interpolated(other, 0.1, 0.0)(x, y), other(x, y))
    torch.testing.assert_close(interpolated(other, 0.1, 1.0)(x, y), model(x, y))


def test_a_clamped_rate_comes_back_when_the_loss_asks_for_it() -> None:
    layer = GDSSMLayer(2)
    with torch.no_grad():
        layer.Lambda_re.copy_(torch.tensor([[0.2, 0.2], [-0.2, -0.2]]))
    Lambda_bar = layer.weights().B.Lambda_bar
    assert Lambda_bar is not None
    Lambda_bar.sum().backward()
    assert layer.Lambda_re.grad is not None
    assert (layer.Lambda_re.grad > 0).all()


def test_rescaling_symmetry_leaves_predictions_and_cosines(make_pairs: MakePairs) -> None:
    from zoo.analysis.construction import cosines_with_construction, effective_step_sizes

    model = large_random_model(4, 4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layer.Q.mul_(-3)
        other.layer.D.mul_(0.5)
        other.layer.C.div_(-1.5)
    x, y = make_pairs(4, 4, 6)
    torch.testing.assert_close(model(x, y), other(x, y))
    ours, theirs = (cosines_with_construction(m, 0.1) for m in (model, other))
    assert ours == pytest.approx(theirs)
    assert effective_step_sizes(model)["C"] == pytest.approx(effective_step_sizes(other)["C"])


@pytest.mark.parametrize("length", [0, 1, 2, 6])
def test_layer_refuses_tokens_that_are_not_whole_windows(length: int) -> None:
    with pytest.raises(ValueError, match=r"2N \+ 1, 4.*got \(2, " + str(length)):
        GDSSMLayer(4)(torch.zeros(2, length, 4))


def test_layer_refuses_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="'chunked' or 'loop', got 'fast'"):
        GDSSMLayer(4)(torch.zeros(2, 3, 4), method="fast")  # type: ignore[arg-type]


def test_published_parameters_are_checked() -> None:
    good = dict(np.load(PUBLISHED))
    for change, message in [
        ({"Q": None}, "'Q' is missing"),
        ({"C": np.zeros((3, 4))}, r"C must be \(4, 4\), got \(3, 4\)"),
        ({"D": np.array([1.0, np.nan, 0.0])}, "D is not finite"),
        ({"Lambda_re": np.full((4, 4), 0.1)}, "Lambda_re must not be positive"),
    ]:
        bad = {k: v for k, v in (good | change).items() if v is not None}
        layer = GDSSMLayer(4)
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=message):
            load_published_parameters_(layer, bad)
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
