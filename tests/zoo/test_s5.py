"""S5: equations, start and stability."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import MakePairs
from zoo.layers.discretization import bilinear, zoh
from zoo.layers.initialization import diagonal_hippo, hippo_normal, lecun_normal
from zoo.layers.s5 import S5Block, S5Layer
from zoo.models.s5 import S5

discretizations = pytest.mark.parametrize("discretization", ["zoh", "bilinear"])


def random_layer(**arguments: Any) -> S5Layer:
    """A float64 layer with 5 channels and 12 states."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return S5Layer(5, 12, dt_min=0.01, dt_max=1.0, **arguments).double()


def published_outputs(layer: S5Layer, u: np.ndarray, discretization: str) -> np.ndarray:
    """The equations of the paper for one sequence u (length, d_model), step by step."""
    p = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    Lambda = p["Lambda_re"] + 1j * p["Lambda_im"]
    B, C = (p[name][..., 0] + 1j * p[name][..., 1] for name in "BC")
    step = np.exp(p["log_step"][:, 0])
    if discretization == "zoh":
        Lambda_bar = np.exp(Lambda * step)
        B_bar = ((Lambda_bar - 1) / Lambda)[:, None] * B
    else:
        Lambda_bar = (1 + step / 2 * Lambda) / (1 - step / 2 * Lambda)
        B_bar = (step / (1 - step / 2 * Lambda))[:, None] * B
    x, outputs = np.zeros(len(Lambda), complex), []
    for u_t in u:
        x = Lambda_bar * x + B_bar @ u_t
        outputs.append(2 * (C @ x).real + p["D"] * u_t)
    return np.stack(outputs)


@discretizations
@pytest.mark.parametrize("method", ["chunked", "loop"])
@pytest.mark.parametrize("length", [1, 5, 200])
def test_a_layer_computes_the_equations_of_the_paper(
    length: int, method: Any, discretization: Any
) -> None:
    layer = random_layer(discretization=discretization)
    u = torch.randn(2, length, 5, dtype=torch.float64)
    y, _ = layer(u, method=method)
    for b in range(2):
        expected = published_outputs(layer, u[b].numpy(), discretization)
        torch.testing.assert_close(y[b].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@discretizations
def test_gradients_of_a_layer_are_those_of_the_loop(discretization: Any) -> None:
    layer = random_layer(discretization=discretization)
    u = torch.randn(2, 150, 5, dtype=torch.float64, requires_grad=True)
    inputs = [u, *layer.parameters()]
    chunked, loop = (
        torch.autograd.grad(layer(u, method=method)[0].square().sum(), inputs)
        for method in ("chunked", "loop")
    )
    torch.testing.assert_close(chunked, loop, rtol=1e-10, atol=1e-10)


def test_parameters_have_the_published_names_and_shapes() -> None:
    shapes = {name: tuple(p.shape) for name, p in S5Layer(5, 12).named_parameters()}
    assert shapes == {
        "Lambda_re": (6,),
        "Lambda_im": (6,),
        "B": (6, 5, 2),
        "C": (5, 6, 2),
        "D": (5,),
        "log_step": (6, 1),
    }


@pytest.mark.skipif(importlib.util.find_spec("s5") is None, reason="s5-pytorch is not installed")
def test_outputs_are_those_of_s5_pytorch_with_the_same_parameters() -> None:
    from s5 import S5 as PeerS5

    layer = S5Layer(5, 12)
    peer = PeerS5(5, 6, block_count=1)
    with torch.no_grad():  # the peer has no factor 2 and one complex Lambda and C
        peer.seq.Lambda.copy_(torch.complex(layer.Lambda_re, layer.Lambda_im))
        peer.seq.B.copy_(layer.B)
        peer.seq.C.copy_(2 * torch.view_as_complex(layer.C))
        peer.seq.D.copy_(layer.D)
        peer.seq.log_step.copy_(layer.log_step.squeeze(-1))
    u = torch.randn(2, 40, 5)
    torch.testing.assert_close(layer(u)[0], peer(u), rtol=1e-4, atol=1e-5)


def test_hippo_normal_is_hippo_plus_rank_one() -> None:
    n = np.arange(6)
    root = np.sqrt(2 * n + 1)
    A = -np.tril(np.outer(root, root), -1) - np.diag(n + 1)
    p = np.sqrt(n + 0.5)
    np.testing.assert_allclose(hippo_normal(6).numpy(), A + np.outer(p, p), atol=1e-12)


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_the_start_diagonalizes_blocks_of_hippo_normal(num_blocks: int) -> None:
    Lambda, V = diagonal_hippo(12, num_blocks)
    S = torch.block_diag(*[hippo_normal(12 // num_blocks)] * num_blocks).to(V.dtype)
    torch.testing.assert_close(S @ V, V * Lambda)
    torch.testing.assert_close(V.mH @ V, torch.eye(6, dtype=V.dtype))
    # With the conjugates it is the whole matrix.
    torch.testing.assert_close(2 * ((V * Lambda) @ V.mH).real, S.real)
    assert (Lambda.imag < 0).all()
    torch.testing.assert_close(Lambda.real, torch.full((6,), -0.5, dtype=torch.float64))


def test_the_start_has_the_published_scales() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = S5Layer(256, 128)
        values = lecun_normal(100, 400)
    assert values.std() == pytest.approx(0.1, rel=0.02)
    assert values.abs().max() <= 0.2 / 0.8796
    # Unitary coordinates keep the scale: 1 / sqrt(d_state) for entries of B and each part of C.
    B, C = torch.view_as_complex(layer.B.detach()), torch.view_as_complex(layer.C.detach())
    assert B.abs().square().mean().sqrt() == pytest.approx(128**-0.5, rel=0.03)
    assert C.abs().square().mean().sqrt() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert layer.D.detach().std() == pytest.approx(1, rel=0.15)
    step = layer.log_step.detach().exp()
    assert 1e-3 <= step.min() < 2e-3
    assert 5e-2 < step.max() <= 1e-1


def test_zoh_and_bilinear_agree_for_small_steps_and_at_lambda_zero() -> None:
    Lambda = torch.tensor([0, -0.5 + 3j, 1e-9j], dtype=torch.complex128, requires_grad=True)
    B = torch.ones(3, 2, dtype=torch.complex128)
    Delta = torch.full((3,), 1e-4, dtype=torch.float64)
    for one, other in zip(zoh(Lambda, B, Delta), bilinear(Lambda, B, Delta), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)
    Lambda_bar, B_bar = zoh(Lambda, B, Delta)
    torch.testing.assert_close(B_bar[0], 1e-4 * B[0])
    (gradient,) = torch.autograd.grad(Lambda_bar.real.sum() + B_bar.real.sum(), Lambda)
    assert gradient.isfinite().all()


def test_clipped_layers_do_not_grow() -> None:
    clipped, free = random_layer(), random_layer(clip_eigs=False)
    u = torch.randn(1, 1000, 5, dtype=torch.float64)
    torch.testing.assert_close(clipped(u)[0], free(u)[0])  # no real part to clip at the start
    with torch.no_grad():
        clipped.Lambda_re.fill_(0.2)
        free.Lambda_re.fill_(0.2)
    assert clipped(u)[0].abs().max() < 1e4
    assert free(u)[0].abs().max() > 1e10


def test_bfloat16_tokens_keep_a_complex64_state() -> None:
    layer = S5Layer(5, 12)
    u = torch.randn(2, 40, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, x = layer(u.bfloat16())
    assert (y.dtype, x.dtype) == (torch.bfloat16, torch.complex64)
    torch.testing.assert_close(y.float(), layer(u.bfloat16().float())[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("activation", ["gelu", "half_glu", "full_glu"])
@discretizations
def test_every_variant_streams_as_it_predicts_and_trains(
    activation: str, discretization: str, make_pairs: MakePairs
) -> None:
    model = zoo.create_model(
        "s5",
        d_x=3,
        d_y=2,
        d_model=8,
        d_state=12,
        num_blocks=2,
        num_layers=2,
        activation=activation,
        discretization=discretization,
    ).double()
    x, y = make_pairs(3, 2, 100)
    prediction = model(x, y)
    state = model.observe(model.init_state(3), x[:, :60], y[:, :60])
    state = model.observe(state, x[:, 60:99], y[:, 60:99])
    last = model.predict(state, x[:, 99:])[:, 0]
    torch.testing.assert_close(last, prediction[:, -1], rtol=1e-10, atol=1e-10)
    prediction.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_state_does_not_grow() -> None:
    model = zoo.create_model("s5", d_x=3, d_y=2, d_state=12, num_layers=2)
    assert model.state_size(1) == model.state_size(1000) == 24
    state = model.init_state(1)
    for _ in range(3):
        state = model.observe(state, torch.randn(1, 50, 3), torch.randn(1, 50, 2))
        (part,) = state.blocks[0]
        assert part.untyped_storage().nbytes() == 6 * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_state": 7}, "multiple of 2 .* got d_state 7 and num_blocks 1"),
        ({"d_state": 12, "num_blocks": 4}, "got d_state 12 and num_blocks 4"),
        ({"d_state": 0}, "d_state: .*greater than 0"),
        ({"discretization": "euler"}, "discretization: .*'zoh' or 'bilinear'"),
        ({"activation": "relu"}, "activation: .*'gelu', 'half_glu' or 'full_glu'"),
        ({"dt_min": 0.5}, "dt_min <= dt_max, got 0.5 and 0.1"),
    ],
)
def test_wrong_arguments_of_a_model_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("s5", d_x=3, d_y=2, **arguments)


def test_wrong_arguments_of_a_layer_are_named() -> None:
    layer: Any = S5Layer
    with pytest.raises(ValueError, match="at least 1, got 0"):
        layer(0, 4)
    with pytest.raises(ValueError, match="'zoh' or 'bilinear', got 'euler'"):
        layer(4, 4, discretization="euler")
    block: Any = S5Block
    with pytest.raises(ValueError, match="gelu, half_glu, full_glu, got 'relu'"):
        block(S5Layer(4, 4), "relu")
    with pytest.raises(ValueError, match=r"length, 4\) .* got \(2, 3, 5\)"):
        S5Layer(4, 4)(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"x must be .*\(2, 2\).* got \(1, 2\)"):
        S5Layer(4, 4)(torch.zeros(2, 3, 4), torch.zeros(1, 2, dtype=torch.complex64))


def test_the_recurrence_trains_at_its_own_rate() -> None:
    model = zoo.create_model("s5", d_x=3, d_y=2)
    assert isinstance(model, S5)
    assert set(S5Layer.ssm_parameters) == {"Lambda_re", "Lambda_im", "log_step", "B"}
