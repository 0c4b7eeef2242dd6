"""The Mamba layer against the paper's equations, its start, its state."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.layers.mamba import MambaLayer
from zoo.ops.selective_scan import selective_scan
from zoo.training.optim import parameter_groups
from zoo.training.options import OptimConfig

Array = np.ndarray[Any, np.dtype[np.float64]]


def layer(*sizes: int, negative_eigenvalues: bool = False) -> MambaLayer:
    """A float64 layer whose every parameter is away from the values it starts with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mamba = MambaLayer(*sizes, negative_eigenvalues=negative_eigenvalues).double()
        with torch.no_grad():
            for parameter in mamba.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return mamba


def tokens(batch: int, length: int, d_model: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def by_the_paper(p: dict[str, Array], s: Array, negative: bool) -> Array:
    """Algorithm 2 and figure 3 of arXiv 2312.00752 for one sequence (length, d_model).

    If `negative`, with the transition of table 2 of arXiv 2411.12537.
    """
    d_inner, d_state = p["A_log"].shape
    dt_rank, d_conv = p["dt_proj.weight"].shape[1], p["conv1d.weight"].shape[2]
    A = -np.exp(p["A_log"])
    x, z = np.split(s @ p["in_proj.weight"].T, 2, axis=1)
    h, outputs = np.zeros((d_inner, d_state)), []
    for t in range(len(s)):
        u = p["conv1d.bias"].copy()
        for lag in range(min(d_conv, t + 1)):
            u += p["conv1d.weight"][:, 0, d_conv - 1 - lag] * x[t - lag]
        u = silu(u)
        selected = p["x_proj.weight"] @ u
        dt, B, C = np.split(selected, [dt_rank, dt_rank + d_state])
        delta = np.log1p(np.exp(p["dt_proj.weight"] @ dt + p["dt_proj.bias"]))
        a = np.exp(delta[:, None] * A)
        h = (2 * a - 1 if negative else a) * h + np.outer(delta * u, B)
        y = h @ C + p["D"] * u
        outputs.append(p["out_proj.weight"] @ (y * silu(z[t])))
    return np.stack(outputs)


@pytest.mark.parametrize("d_conv", [1, 4])
def test_the_convolution_of_a_cpu_and_of_the_kernel_agree(
    d_conv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mamba, asked = layer(6, 4, d_conv), []
    s = tokens(3, 9, 6).requires_grad_()
    wanted = [s, *mamba.parameters()]

    def kernel(x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(x.device.type)
        x = torch.cat([tail, x], dim=1)
        u = torch.nn.functional.conv1d(x.mT, weight, bias, groups=len(weight)).mT
        return u, x[:, x.shape[1] - d_conv + 1 :]

    def run() -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        first, state = mamba(s[:, :4])
        second, (tail, _) = mamba(s[:, 4:], state)
        o = torch.cat([first, second], dim=1)
        return o, tail, torch.autograd.grad(o.sin().sum(), wanted)

    found = run()
    monkeypatch.setattr("zoo.layers.mamba.causal_convolution", kernel)
    torch.testing.assert_close(found, run())
    assert asked == ["cpu", "cpu"]
    mamba.to("meta")(s.detach().to("meta"))
    assert asked == ["cpu", "cpu"]


@pytest.mark.parametrize("sizes", [(6, 4, 4, 2, 2), (5, 3, 1, 3, 1), (20, 16)])
@pytest.mark.parametrize("method", ["chunked", "loop"])
@pytest.mark.parametrize("negative", [False, True])
def test_outputs_are_those_of_the_papers_equations(
    sizes: tuple[int, ...], negative: bool, method: Any
) -> None:
    mamba = layer(*sizes, negative_eigenvalues=negative)
    parameters = {name: p.detach().numpy() for name, p in mamba.named_parameters()}
    for length in (1, 2, 5, 40):
        s = tokens(2, length, sizes[0])
        o, _ = mamba(s, method=method)
        expected = np.stack([by_the_paper(parameters, rows.numpy(), negative) for rows in s])
        np.testing.assert_allclose(o.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_a_published_mixer_loads_by_name() -> None:
    published = {
        "A_log": (128, 16),
        "D": (128,),
        "in_proj.weight": (256, 64),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "x_proj.weight": (4 + 2 * 16, 128),
        "dt_proj.weight": (128, 4),
        "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }
    mamba = MambaLayer(64)
    mamba.load_state_dict({name: torch.ones(shape) for name, shape in published.items()})
    assert MambaLayer(65).dt_rank == 5


def test_the_start_is_the_published_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mamba = MambaLayer(256)
    dt = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert dt.min() >= 0.99e-3
    assert dt.max() <= 1.01e-1
    assert abs(dt.log10().mean() + 2) < 0.1  # log-uniform between -3 and -1
    bound = mamba.dt_rank**-0.5
    assert 0.95 * bound < mamba.dt_proj.weight.abs().max() <= bound
    expected = torch.arange(1.0, 17.0).expand(512, 16)
    torch.testing.assert_close(mamba.A_log.exp(), expected)
    assert torch.equal(mamba.D, torch.ones(512))


@pytest.mark.parametrize("negative", [False, True])
def test_chunked_and_loop_have_the_same_gradients(negative: bool) -> None:
    mamba, s = layer(6, 4, negative_eigenvalues=negative), tokens(2, 37, 6)
    gradients = []
    for method in ("chunked", "loop"):
        o, (_, h) = mamba(s, method=method)
        value = o.square().sum() + h.square().sum()
        gradients.append(torch.autograd.grad(value, list(mamba.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("d_conv", "negative"), [(1, False), (2, False), (4, False), (4, True)])
def test_any_cut_of_a_sequence_gives_the_same_outputs_and_state(
    d_conv: int, negative: bool
) -> None:
    mamba, s = layer(6, 4, d_conv, negative_eigenvalues=negative), tokens(2, 23, 6)
    expected, last = mamba(s)
    for cuts in ([1] * 23, [2, 3, 18], [20, 3], [22, 1]):
        state, parts = None, []
        for part in s.split(cuts, dim=1):
            o, state = mamba(part, state)
            parts.append(o)
        torch.testing.assert_close(torch.cat(parts, dim=1), expected)
        torch.testing.assert_close(state, last)


def test_whole_episodes_are_scanned_without_a_state(
    make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []

    def scan(*args: Any) -> Any:
        states.append(args[6])
        return selective_scan(*args)

    monkeypatch.setattr("zoo.layers.mamba.selective_scan", scan)
    model = zoo.create_model("mamba", d_x=3, d_y=2, d_model=8, num_layers=2).double()
    model(*make_pairs(3, 2, 5))
    assert states == [None, None]
    model.observe(model.init_state(3), *make_pairs(3, 2, 1))
    assert all(h is not None for h in states[2:])


def test_negative_eigenvalues_are_an_option_of_the_architecture() -> None:
    for given in (False, True):
        model = zoo.create_model(
            "mamba", d_x=3, d_y=2, d_model=8, num_layers=2, negative_eigenvalues=given
        )
        layers = [module for module in model.modules() if isinstance(module, MambaLayer)]
        assert [mamba.negative_eigenvalues for mamba in layers] == [given] * 2
    assert not MambaLayer(8).negative_eigenvalues
    with pytest.raises(ValueError, match="unknown argument of mamba2 'negative_eigenvalues'"):
        zoo.create_model("mamba2", d_x=3, d_y=2, negative_eigenvalues=True)


def test_the_state_has_constant_size(make_pairs: MakePairs) -> None:
    model = zoo.create_model("mamba", d_x=3, d_y=2, d_model=8, num_layers=2).double()
    state, sizes = model.init_state(1, dtype=torch.float64), set()
    for num_new in (1, 1, 30):
        state = model.observe(state, *make_pairs(3, 2, num_new, batch=1))
        sizes.add(sum(part.numel() for block in state.blocks for part in block))
        storage = [part.untyped_storage().nbytes() for block in state.blocks for part in block]
        assert sum(storage) == 8 * max(sizes)
    assert sizes == {model.state_size(2)} == {model.state_size(32)}


def test_a_and_d_train_at_the_rate_of_the_recurrence_without_decay() -> None:
    model = zoo.create_model("mamba", d_x=3, d_y=2, d_model=8, num_layers=1)
    groups = {g["name"]: g for g in parameter_groups(model, OptimConfig(weight_decay=0.1))}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_ssm = {names[id(parameter)] for parameter in groups["ssm"]["params"]}
    assert in_ssm == {"blocks.0.layer.A_log", "blocks.0.layer.D"}
    assert groups["ssm"]["weight_decay"] == 0.0
    in_no_decay = {names[id(parameter)] for parameter in groups["no_decay"]["params"]}
    assert "blocks.0.layer.dt_proj.bias" in in_no_decay


def test_bf16_autocast_keeps_the_state_in_float32(make_pairs: MakePairs) -> None:
    model = zoo.create_model("mamba", d_x=3, d_y=2)
    x, y = (part.float() for part in make_pairs(3, 2, 17))
    expected = model(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(x, y)
        state = model.observe(model.init_state(3), x, y)
    prediction.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())  # type: ignore[union-attr]
    torch.testing.assert_close(prediction.float(), expected, rtol=0.1, atol=0.05)
    assert all(block[1].dtype == torch.float32 for block in state.blocks)


def test_wrong_sizes_and_tokens_are_refused() -> None:
    for arguments in ({"d_state": 0}, {"d_conv": -1}, {"expand": 0}, {"dt_rank": 0}):
        with pytest.raises(ValueError, match="positive integer, got"):
            MambaLayer(4, **arguments)
    with pytest.raises(ValueError, match="dt_rank"):
        zoo.create_model("mamba", d_x=3, d_y=2, dt_rank="none")
    for shape in [(2, 0, 4), (2, 5, 3), (5, 4)]:
        with pytest.raises(ValueError, match=r"\(batch, length, 4\)") as error:
            MambaLayer(4)(torch.zeros(shape))
        assert str(shape) in str(error.value)
