"""Episodes as tables have them: padded inputs, functions and noise of one scale, some classes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import Generators
from datamodules.tabular import Tabular, TabularClassification
from tests.datamodules.statistics import assert_mean, draw, per_episode

PADDED = {"name": "padded"}
SIZES = {"d_x": 6, "d_y": 1, "num_context": 49, "inputs": PADDED}


def drawn(num_episodes: int, **spec: Any) -> tuple[Any, dict[str, Tensor]]:
    sampler = create_sampler(SIZES | spec)
    return sampler.sample(num_episodes, Generators(0, "train", 0, "cpu"), latents=True)


@pytest.mark.parametrize(
    ("ends", "low", "high"), [([1, None], 1, 10), ([2, 5], 2, 5), ([None, None], 10, 10)]
)
def test_padded_inputs_use_leading_coordinates_uniformly_many_in_each_episode(
    ends: list[int | None], low: int, high: int
) -> None:
    spec = EpisodeSpec(inputs={"name": "padded", "variance": 2.0, "active_dims": ends})  # type: ignore[arg-type]
    x = create_sampler(spec).sample(20_000, Generators(0, "train", 0, "cpu")).x
    k = x.ne(0).any(1).sum(1)  # (batch,)
    assert k.unique().tolist() == list(range(low, high + 1))
    for number in range(low, high + 1):
        assert_mean(k == number, 1 / (high - low + 1), scale=1.0)
    in_use = torch.arange(10) < k[:, None]
    assert torch.equal(x.ne(0), in_use[:, None].expand_as(x))
    assert_mean(x[in_use[:, None].expand_as(x)].square(), 2.0)
    assert spec.input_variance == pytest.approx(2.0 * (low + high) / 20)
    assert_mean(per_episode(x.square()), spec.input_variance)


def test_labels_of_tables_have_variance_one_of_which_the_noise_has_its_share() -> None:
    episodes, latents = drawn(4000, function={"name": "tabular", "noise_share": [0.2, 0.6]})
    share = latents["noise_share"].double()
    assert share.min() >= 0.2
    assert share.max() <= 0.6
    assert_mean(share, 0.4)
    target, noise = episodes.target.double(), (episodes.y - episodes.target).double()
    assert target.mean(1).abs().max() < 1e-5
    assert (target.square().mean((1, 2)) - (1 - share)).abs().max() < 1e-4
    assert_mean(per_episode(noise.square()) / share, 1.0)
    assert_mean(per_episode(episodes.y.square()), 1.0)
    assert EpisodeSpec(**SIZES, function={"name": "tabular"}).label_variance == 1.0  # type: ignore[arg-type]


def test_noise_of_a_spec_adds_to_that_of_the_family() -> None:
    clean, _ = drawn(500, function={"name": "tabular", "noise_share": [0.36, 0.36]})
    noisy, latents = drawn(
        500, function={"name": "tabular", "noise_share": [0.36, 0.36]}, noise=0.8
    )
    assert torch.equal(clean.target, noisy.target)
    assert torch.allclose(latents["noise_level"], torch.ones(500))
    assert torch.allclose(noisy.y - noisy.target, (clean.y - clean.target) / 0.6, atol=1e-5)


def test_a_third_of_the_functions_of_tables_each_is_linear_sparse_and_a_network() -> None:
    function = {"name": "tabular", "num_nonzero": 2}
    episodes, latents = drawn(2000, function=function)
    kind = latents["component"]
    for number in range(3):
        assert_mean(kind == number, 1 / 3, scale=1.0)
    x, f = episodes.x.double(), episodes.target.double()
    table = torch.cat([x, torch.ones_like(x[..., :1])], dim=2)
    weights = torch.linalg.pinv(table) @ f  # (batch, d_x + 1, 1)
    is_linear = (table @ weights - f).abs().amax((1, 2)) < 1e-4
    assert is_linear[kind < 2].all()
    k = x.ne(0).any(1).sum(1)
    assert not is_linear[(kind == 2) & (k > 1)].any()
    num_used = (weights[:, :-1, 0].abs() > 1e-5).sum(1)
    assert torch.equal(num_used[kind == 0], k[kind == 0])
    assert num_used[kind == 1].unique().tolist() == [1, 2]
    assert (num_used[(kind == 1) & (k >= 2)] == 1).double().mean().item() == pytest.approx(
        0.5, abs=0.1
    )


def test_a_mixture_keeps_the_noise_of_the_families_that_have_some() -> None:
    noisy = {"name": "tabular", "noise_share": [0.5, 0.5]}
    components = [{"function": {"name": "linear"}}, {"function": noisy}]
    episodes, latents = drawn(200, function={"name": "mixture", "components": components})
    differs = (episodes.y != episodes.target).any((1, 2))
    assert torch.equal(differs, latents["component"] == 1)


def test_classes_of_tables_are_uniformly_many_and_none_beyond_them_occurs() -> None:
    spec: dict[str, Any] = {"d_y": 5, "function": {"name": "tabular_classification"}}
    episodes, latents = drawn(4000, **spec)
    num_classes = latents["num_classes"]
    assert num_classes.unique().tolist() == [2, 3, 4, 5]
    for number in (2, 3, 4, 5):
        assert_mean(num_classes == number, 1 / 4, scale=1.0)
    present = episodes.y.any(1)  # (batch, 5)
    assert not present[torch.arange(5) >= num_classes[:, None]].any()
    assert (episodes.y.sum(2) == 1).all()
    assert present.sum(1).double().mean() > num_classes.double().mean() - 0.7
    three = TabularClassification(num_classes=[3, 3])
    label = three.sample(torch.randn(50, 20, 2), 5, torch.Generator().manual_seed(0)).target
    assert label.any(1).sum(1).max() == 3


def test_temperature_is_what_tells_equal_rows_apart() -> None:
    x = torch.randn(200, 20, 3, generator=torch.Generator().manual_seed(1)).repeat(1, 2, 1)
    shares = []
    for temperature in (0.0, 0.3, 1.0):
        family = TabularClassification(temperature=[temperature, temperature])
        label = family.sample(x, 4, torch.Generator().manual_seed(0)).target
        shares.append((label[:, :20] != label[:, 20:]).any(2).double().mean().item())
    assert shares[0] == 0
    assert 0.05 < shares[1] < shares[2] < 0.75


def test_functions_without_any_column_are_zero_and_not_undefined() -> None:
    x = torch.zeros(30, 8, 4)
    target = Tabular().sample(x, 2, torch.Generator().manual_seed(0)).target
    assert (target == 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"inputs": {"name": "padded", "active_dims": [3, 2]}}, "first must be at most the second"),
        ({"inputs": {"name": "padded", "active_dims": [1, 11]}}, "rise to at most d_x = 10"),
        ({"inputs": {"name": "padded", "active_dims": [0, 3]}}, "active_dims"),
        ({"function": {"name": "tabular", "noise_share": [0.1, 1.1]}}, "noise_share"),
        ({"function": {"name": "tabular", "noise_share": [0.1]}}, "noise_share"),
        (
            {"function": {"name": "tabular_classification", "num_classes": [1, 3]}},
            "from at least 2 to at most d_y = 10",
        ),
        (
            {"d_y": 4, "function": {"name": "tabular_classification", "num_classes": [2, 5]}},
            "from at least 2 to at most d_y = 4",
        ),
        ({"d_y": 1, "function": {"name": "tabular_classification"}}, "at least 2, got 1"),
    ],
)
def test_ends_out_of_order_or_range_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSpec(**spec)


def test_small_sets_of_tables_are_the_first_of_larger_ones() -> None:
    sampler = create_sampler(SIZES | {"function": {"name": "tabular"}, "num_context": 9})
    sets = []
    for size in (5, 12):
        generators = Generators(0, "test", 0, "cpu")
        sets.append(torch.cat([e.y for e in sampler.batches(size, generators)]))
    assert torch.equal(sets[0], sets[1][:5])
    assert draw(3, **SIZES, function={"name": "tabular"}).y.shape == (3, 50, 1)
