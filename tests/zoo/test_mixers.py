"""The layers of fast weights beside their published forms, their parts, starts and states."""

from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, softplus

from zoo.layers.delta_net import DeltaNetLayer
from zoo.layers.delta_product import DeltaProductLayer
from zoo.layers.gated_delta_net import GatedDeltaNetLayer, KimiDeltaAttentionLayer
from zoo.layers.gla import GatedLinearAttentionLayer
from zoo.layers.longhorn import LonghornLayer
from zoo.layers.mamba2 import Mamba2Layer
from zoo.layers.mesa_net import MesaNetLayer
from zoo.layers.mixer import Mixer
from zoo.layers.short_convolution import ShortConvolution, causal_convolution
from zoo.layers.ttt import TTTLayer
from zoo.ops import fast_weights

# Made once from https://github.com/fla-org/flash-linear-attention at commit bc3b101dcb71: the
# forward passes of fla/layers/*.py with random weights, written out in plain torch (float32, CPU,
# eps 1e-5 in RMS norms, 1e-6 in the norm of keys) around the repository's own `naive` recurrences
# in fla/ops/*/naive.py: delta_rule_recurrence, naive_recurrent_gated_delta_rule,
# naive_recurrent_kda, naive_recurrent_gla, naive_mesa_net_exact and
# naive_recurrent_gated_delta_product. The last leaves the scale of the queries to its caller; it is
# that of the kernel. The others are the published classes themselves, with stand-ins for what they
# import: `Mamba2.torch_forward` of fla/layers/mamba2.py; the `step` of models/longhorn.py of
# https://github.com/Cranial-XIX/longhorn, commit 4ea174598787; `TTTLinear` and `TTTMLP` of ttt.py
# of https://github.com/test-time-training/ttt-lm-pytorch, commit cd831db10c8c, with share_qk,
# use_gate and mini-batches of 4. Holds `in` (2, 23, 12), `NAME/out`, the state dict as `NAME/...`.
PUBLISHED = Path(__file__).parents[1] / "data" / "mixers.npz"

SIZES = {"num_heads": 2, "d_head": 4}


def layers() -> dict[str, Mixer]:
    """Small layers by the names under which their published outputs are stored."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "delta_net": DeltaNetLayer(12, **SIZES),
            "delta_net_negative": DeltaNetLayer(12, **SIZES, negative_eigenvalues=True),
            "gated_delta_net_head": GatedDeltaNetLayer(12, **SIZES),
            "gated_delta_net_key": KimiDeltaAttentionLayer(12, **SIZES, expand_v=1),
            "gla": GatedLinearAttentionLayer(12, **SIZES),
            "mesa_net": MesaNetLayer(12, **SIZES),
            "delta_product": DeltaProductLayer(12, 3, **SIZES),
            "mamba2": Mamba2Layer(12, d_state=5, d_head=6),
            "longhorn": LonghornLayer(12, d_state=5),
            "ttt_linear": TTTLayer(12, "linear", 2, mini_batch=4),
            "ttt_mlp": TTTLayer(12, "mlp", 2, mini_batch=4, base_rate=0.1),
        }


names = pytest.mark.parametrize("name", list(layers()))


def published(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A state dict, tokens, and the outputs for them."""
    with np.load(PUBLISHED) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    of = "delta_net" if name == "delta_net_negative" else name  # the same weights
    weights = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{of}/")}
    weights.pop("out")
    return weights, arrays["in"], arrays[f"{name}/out"]


@names
def test_a_published_state_dict_loads_by_name_and_gives_the_published_outputs(name: str) -> None:
    layer = layers()[name]
    weights, s, expected = published(name)
    layer.load_state_dict(weights)
    torch.testing.assert_close(layer(s)[0], expected, rtol=1e-5, atol=1e-5)


@names
def test_any_cut_of_a_sequence_gives_the_same_outputs_and_state(name: str) -> None:
    layer = layers()[name].double()
    s = torch.randn(2, 23, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, last = layer(s)
    assert sum(part[0].numel() for part in last) == layer.state_size(23)
    for cuts in ([1] * 23, [2, 3, 18], [20, 3], [22, 1]):
        state, parts = None, []
        for part in s.split(cuts, dim=1):
            o, state = layer(part, state)
            parts.append(o)
        torch.testing.assert_close(torch.cat(parts, dim=1), expected)
        torch.testing.assert_close(state, last)
        assert state is not None
        # A state does not hold on to the sequence that it comes from.
        assert all(p.untyped_storage().nbytes() <= 8 * p.numel() for p in state)


@names
def test_no_two_parts_of_a_start_share_their_memory(name: str) -> None:
    layer = layers()[name]
    start = layer.init_state(2, torch.device("cpu"), torch.float32)
    kept = [part for part in (*start, *layer.parameters()) if part.numel()]
    assert len({part.untyped_storage().data_ptr() for part in kept}) == len(kept)


@names
def test_the_state_has_a_size_that_does_not_grow(name: str) -> None:
    layer = layers()[name]  # of test-time training a mini-batch of four tokens
    assert layer.state_size(3) == layer.state_size(23) == layer.state_size(4_000_003)


@names
def test_tokens_of_another_shape_are_refused(name: str) -> None:
    for shape in [(2, 0, 12), (2, 5, 3), (5, 12)]:
        with pytest.raises(ValueError, match=r"\(batch, length, 12\)") as error:
            layers()[name](torch.zeros(shape))
        assert str(shape) in str(error.value)


@names
def test_sizes_that_are_not_positive_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="d_model must be a positive integer, got 0"):
        type(layers()[name])(0)


def test_heads_of_test_time_training_are_even_shares() -> None:
    with pytest.raises(ValueError, match="d_model must be a multiple of 2 .* = 8, got 12"):
        TTTLayer(12)


def test_heads_of_mamba2_divide_its_channels() -> None:
    with pytest.raises(ValueError, match=r"d_head must divide expand \* d_model = 24, got 7"):
        Mamba2Layer(12, d_head=7)


def test_decays_start_as_published() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = GatedDeltaNetLayer(8, num_heads=2000, d_head=1)
        key = KimiDeltaAttentionLayer(8, num_heads=500, d_head=4)
        mamba2 = Mamba2Layer(1000, d_head=1)
    for layer, low in ((head, 0), (key, 1), (mamba2, 1)):
        rate, dt = layer.A_log.exp(), softplus(layer.dt_bias)
        assert low <= rate.min() < low + 0.1
        assert 15.9 < rate.max() <= 16
        assert abs(rate.mean() - (low + 16) / 2) < 0.5
        assert dt.min() >= 0.99e-3
        assert dt.max() <= 1.01e-1
        assert abs(dt.log10().mean() + 2) < 0.05  # log-uniform between -3 and -1


def test_the_ridge_of_mesa_net_starts_at_one() -> None:
    ridge = 0.25 + softplus(MesaNetLayer(8).lambda_params)
    torch.testing.assert_close(ridge, torch.ones(64))


def rates_of(layer: Mixer, rule: str, s: Tensor) -> Tensor:
    """The rates beta that a layer gives its rule, the fourth argument of it, for tokens s."""
    with mock.patch(rule, wraps=getattr(fast_weights, rule.rpartition(".")[2])) as called:
        layer(s)
    (call,) = called.call_args_list
    beta: Tensor = call.args[3]
    return beta


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (DeltaNetLayer, "zoo.layers.delta_net.delta_rule"),
        (GatedDeltaNetLayer, "zoo.layers.gated_delta_net.gated_delta_rule"),
        (KimiDeltaAttentionLayer, "zoo.layers.gated_delta_net.gated_delta_rule"),
        (DeltaProductLayer, "zoo.layers.delta_product.delta_product"),
    ],
)
def test_negative_eigenvalues_double_the_rates(kind: Any, rule: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, doubled = (kind(8, negative_eigenvalues=negative) for negative in (False, True))
        s = 5 * torch.randn(2, 9, 8)
    doubled.load_state_dict(plain.state_dict())
    rates = rates_of(plain, rule, s)
    assert 0 < rates.min() < 0.1
    assert 0.9 < rates.max() < 1
    assert torch.equal(rates_of(doubled, rule, s), 2 * rates)


@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_rates_of_test_time_training_are_float32_under_autocast(
    network: Literal["linear", "mlp"],
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, s = TTTLayer(16, network, 2), torch.randn(2, 16, 16)
    rule = "zoo.layers.ttt.test_time_training"
    expected = rates_of(layer, rule, s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rates_of(layer, rule, s)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def pairs_of(width: int, length: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, length, 3), (2, width - 1, 3), (3, 1, width), (3,)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    )


@pytest.mark.parametrize(("width", "length"), [(1, 3), (4, 1), (4, 2), (4, 9), (2, 5)])
def test_the_convolution_is_that_of_torch(width: int, length: int) -> None:
    x, tail, weight, bias = pairs_of(width, length)
    padded = torch.cat([tail, x], dim=1)
    expected = conv1d(padded.mT, weight, bias, groups=3).mT
    mix = torch.randn(2, length, 3, generator=torch.Generator().manual_seed(1)).double()

    def gradients(u: Tensor) -> tuple[Tensor, ...]:
        inputs = (x, tail, weight, bias)
        return torch.autograd.grad((u * mix).sum(), inputs, retain_graph=True)

    for method in ("shifts", "loop"):
        u, after = causal_convolution(x, tail, weight, bias, method=method)  # type: ignore[arg-type]
        torch.testing.assert_close(u, expected)
        torch.testing.assert_close(gradients(u), gradients(expected))
        torch.testing.assert_close(after, padded[:, length:])
    with pytest.raises(ValueError, match="method must be 'shifts' or 'loop', got 'fft'"):
        causal_convolution(x, tail, weight, bias, method="fft")  # type: ignore[arg-type]


def test_the_convolution_has_second_and_forward_derivatives() -> None:
    inputs = pairs_of(4, 5)[:3]

    def convolve(*inputs: Tensor) -> Tensor:
        return causal_convolution(*inputs)[0]

    assert torch.autograd.gradcheck(convolve, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_a_value_that_is_not_finite_changes_nothing_before_it() -> None:
    x, tail, weight, _ = (part.detach() for part in pairs_of(4, 9))
    expected, _ = causal_convolution(x, tail, weight)
    x[:, 5] = torch.nan
    found, _ = causal_convolution(x, tail, weight)
    assert torch.equal(found[:, :5], expected[:, :5])
    assert found[:, 5:].isnan().all()


def test_the_convolution_starts_like_that_of_torch() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = ShortConvolution(4000, bias=True)
    for parameter in ours.parameters():
        assert 0.499 < parameter.max() <= 0.5
        assert -0.5 <= parameter.min() < -0.499
    x = torch.ones(1, 6, 4000)
    u, _ = ours(x, x.new_zeros(1, 3, 4000))
    padded = pad(x.mT, (3, 0))
    torch.testing.assert_close(u.mT, conv1d(padded, ours.weight, ours.bias, groups=4000))
