"""Function families: the moments they state, and what makes each of them itself."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import EpisodeSpec
from datamodules.functions import (
    DecisionTree,
    FunctionFamily,
    GaussianMixture,
    LinearClassification,
    LinearDrift,
    LinearPool,
    ReluNetwork,
    Sine,
    SparseLinear,
    SparseParity,
)
from tests.datamodules.statistics import NUM_EPISODES, assert_mean, draw, per_episode, random_normal

GAUSSIAN = {"name": "gaussian"}
SIGN = {"name": "sign"}
SINE = {"d_x": 1, "d_y": 1, "inputs": {"name": "uniform", "r": 5.0}}
MIXTURE = {
    "name": "mixture",
    "components": [
        {"weight": 3.0, "function": {"name": "linear"}},
        {"weight": 1.0, "function": {"name": "quadratic"}},
    ],
}
FAMILIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "linear", "scale": 0.5}, {"inputs": GAUSSIAN}),
    ({"name": "sparse_linear", "num_nonzero": 2}, {"inputs": GAUSSIAN}),
    ({"name": "linear_pool", "pool_size": 7}, {"inputs": GAUSSIAN}),
    ({"name": "linear_drift", "rho": 0.9}, {"inputs": GAUSSIAN}),
    ({"name": "quadratic"}, {"inputs": GAUSSIAN}),
    ({"name": "relu_network", "hidden": 30}, {"inputs": GAUSSIAN}),
    ({"name": "decision_tree", "depth": 3}, {"inputs": GAUSSIAN}),
    ({"name": "sine"}, SINE),
    ({"name": "linear_classification"}, {"inputs": GAUSSIAN}),
    ({"name": "linear_classification", "label": "sampled"}, {"inputs": GAUSSIAN}),
    ({"name": "gaussian_mixture"}, {"inputs": GAUSSIAN}),
    ({"name": "sparse_parity"}, {"d_y": 1, "inputs": SIGN}),
    (MIXTURE, {"inputs": GAUSSIAN}),
]
SIZES = {"d_x": 5, "d_y": 3, "num_context": 6}


def sample(function: FunctionFamily, x: Tensor, d_y: int = 1, seed: int = 0) -> Tensor:
    return function.sample(x, d_y, torch.Generator().manual_seed(seed))[1]


@pytest.mark.parametrize(("function", "spec"), FAMILIES, ids=lambda part: part.get("name", ""))
def test_corruption_leaves_inputs_and_functions_as_they_were(
    function: dict[str, Any], spec: dict[str, Any]
) -> None:
    spec = SIZES | spec | {"function": function}
    clean = draw(200, **spec)
    classes = EpisodeSpec(**spec).output == "logits"
    noise = {"label_flip": 0.3} if classes else {"noise": 0.3}
    corrupted = draw(200, **spec, **noise, distractors={"count": 2})
    assert torch.equal(clean.x, corrupted.x)
    assert torch.equal(clean.target, corrupted.target)
    assert not torch.equal(clean.y, corrupted.y)
    assert torch.equal(clean.y, clean.target)
    assert clean.x.dtype == clean.y.dtype == torch.float32
    assert clean.x.isfinite().all()
    assert clean.y.isfinite().all()
    if classes:
        for labels in (clean.target, corrupted.y):
            assert labels.unique().tolist() == [0, 1]
            assert (labels.sum(2) == 1).all()


@pytest.mark.parametrize(
    ("function", "spec", "expected"),
    [
        ({"name": "linear", "scale": 2.0}, {}, lambda x: 4 * x.square().sum(2)),
        (
            {"name": "sparse_linear", "num_nonzero": 2, "scale": 0.5},
            {},
            lambda x: 0.25 * 2 / 5 * x.square().sum(2),
        ),
        ({"name": "linear_drift", "rho": 0.9, "scale": 2.0}, {}, lambda x: 4 * x.square().sum(2)),
        ({"name": "quadratic"}, {}, lambda x: x.pow(4).sum(2) / 3),
        ({"name": "relu_network"}, {}, lambda x: x.square().sum(2)),
        ({"name": "decision_tree"}, {}, lambda x: torch.ones_like(x[..., 0])),
        ({"name": "sine"}, SINE, lambda x: torch.full_like(x[..., 0], 0.31 / 6)),
        (MIXTURE, {}, lambda x: 3 / 4 * x.square().sum(2) + x.pow(4).sum(2) / 12),
    ],
    ids=lambda part: part.get("name", "") if isinstance(part, dict) else "",
)
def test_labels_have_the_second_moment_they_state(
    function: dict[str, Any], spec: dict[str, Any], expected: Callable[[Tensor], Tensor]
) -> None:
    episodes = draw(**(SIZES | {"inputs": GAUSSIAN} | spec | {"function": function}))
    x, y = episodes.x.double(), episodes.target.double()
    value = expected(x)
    difference = y.square().mean(2) - value
    assert_mean(per_episode(difference), 0, scale=value.mean().item())
    mean = 0.6 / math.pi * x.cos() if function["name"] == "sine" else 0.0
    assert_mean(per_episode(y - mean), 0, scale=math.sqrt(value.mean().item()))


def test_sparse_weights_have_a_uniform_support_of_their_own_in_each_row() -> None:
    function = SparseLinear(num_nonzero=2, scale=3.0)
    W = function.weights(torch.empty(NUM_EPISODES, 1, 5), 2, torch.Generator().manual_seed(0))
    support = W != 0
    assert W.shape == (NUM_EPISODES, 2, 5)
    assert (support.sum(2) == 2).all()
    for share in support.flatten(0, 1).double().T:
        assert_mean(share, 2 / 5)
    assert_mean((support[:, 0] & support[:, 1]).sum(1), 2 * 2 / 5)  # rows are independent
    assert len(support[:, 0].unique(dim=0)) == 10
    assert_mean(W[support].square(), 9.0)


def test_a_pool_is_fixed_and_drawn_from_uniformly() -> None:
    function = LinearPool(pool_size=5, pool_seed=3, scale=2.0)
    pool = function.pool(4, 2)
    assert pool.shape == (5, 2, 4)
    W = function.weights(torch.empty(NUM_EPISODES, 1, 4), 2, torch.Generator().manual_seed(0))
    same = (W[:, None] == pool).flatten(2).all(2)  # (batch, 5)
    assert (same.sum(1) == 1).all()
    for share in same.T:
        assert_mean(share, 1 / 5, scale=1 / 3)
    spec = {"d_x": 4, "d_y": 2, "function": function.model_dump()}
    episodes = draw(50, **spec)
    errors = episodes.x @ pool[:, None].mT - episodes.target  # (pool, batch, length, d_y)
    assert errors.abs().amax((2, 3)).amin(0).max() < 1e-5
    assert not torch.equal(LinearPool(pool_size=5, pool_seed=4, scale=2.0).pool(4, 2), pool)
    assert_mean(LinearPool(pool_size=20_000, scale=3.0).pool(4, 2).square(), 9.0)


def test_drifting_weights_have_the_stated_correlation_at_every_lag() -> None:
    x = torch.ones(NUM_EPISODES, 9, 1)
    w = sample(LinearDrift(rho=0.8, scale=2.0), x)[:, :, 0]
    for position in (0, 1, 8):
        assert_mean(w[:, position].square(), 4.0)
        assert_mean(w[:, position] * w[:, 4], 4 * 0.8 ** abs(position - 4), scale=4.0)
    still = sample(LinearDrift(rho=1.0), x)
    assert torch.equal(still, still[:, :1].expand_as(still))
    restless = sample(LinearDrift(rho=0.0), x)
    assert_mean(restless[:, 3] * restless[:, 4], 0, scale=1.0)


def test_quadratic_functions_are_linear_in_the_squares() -> None:
    episodes = draw(100, d_x=3, d_y=2, function={"name": "quadratic"})
    squares, target = episodes.x.double().square(), episodes.target.double()
    W = torch.linalg.lstsq(squares, target).solution
    torch.testing.assert_close(squares @ W, target, atol=1e-5, rtol=0)


def test_relu_networks_are_homogeneous_and_not_linear() -> None:
    x = random_normal(100, 4, 3)
    y = sample(ReluNetwork(hidden=20), x, 2)
    torch.testing.assert_close(sample(ReluNetwork(hidden=20), 2 * x, 2), 2 * y)
    assert (sample(ReluNetwork(hidden=20), -x, 2) + y).abs().mean() > 0.5
    # One hidden unit: for each x it is on, or off and all labels are zero.
    assert_mean((sample(ReluNetwork(hidden=1), x[:, :1].repeat(120, 1, 1)) == 0).double(), 0.5)


def test_a_tree_asks_for_signs_and_has_all_its_leaves() -> None:
    x = random_normal(200, 300, 100)
    y = sample(DecisionTree(depth=3), x)
    assert torch.equal(sample(DecisionTree(depth=3), x.sign() * 7), y)
    num_labels = torch.tensor([len(labels.unique()) for labels in y])
    assert num_labels.max() == 8
    assert num_labels.double().mean() > 7.5  # less than 8 where a path asks the same twice
    alone = sample(DecisionTree(depth=4), x[:, :, :1])
    assert all(len(labels.unique()) == 2 for labels in alone)


def test_the_coordinates_of_a_tree_are_uniform_and_new_in_each_episode() -> None:
    # Position 0 is all negative, position 1 + p has coordinate p positive.
    x = torch.cat([torch.zeros(1, 4), torch.eye(4)]).sub(0.5).expand(NUM_EPISODES, 5, 4)
    y = sample(DecisionTree(depth=1), x)[:, :, 0]
    asked = y[:, 1:] != y[:, :1]
    assert (asked.sum(1) == 1).all()
    for share in asked.T:
        assert_mean(share, 1 / 4, scale=1 / 2)
    assert_mean((asked[1:] & asked[:-1]).any(1)[::2], 1 / 4, scale=1 / 2)


def amplitude_and_phase(function: Sine) -> tuple[Tensor, Tensor]:
    y = sample(function, torch.tensor([[[0.0], [math.pi / 2]]]).expand(NUM_EPISODES, 2, 1))
    return y.norm(dim=1)[:, 0], torch.atan2(y[:, 0, 0], y[:, 1, 0])


def test_amplitude_and_phase_of_a_sine_are_uniform_and_independent() -> None:
    amplitude, phase = amplitude_and_phase(Sine())
    u, v = (amplitude - 0.1) / 0.4, phase / math.pi
    for part in (u, v):
        assert part.min() >= -1e-5
        assert part.max() <= 1 + 1e-5
        assert_mean(part, 1 / 2)
        assert_mean(part.square(), 1 / 3)
        assert_mean(part.pow(4), 1 / 5)
    joint = torch.histogramdd(torch.stack([u, v], 1), [4, 4], range=[0, 1, 0, 1]).hist
    expected = NUM_EPISODES / 16
    assert ((joint - expected).abs() < 5 * math.sqrt(expected)).all()


def test_legacy_sines_tie_amplitude_and_phase() -> None:
    amplitude, phase = amplitude_and_phase(Sine(legacy_tied=True))
    torch.testing.assert_close((amplitude - 0.1) / 0.4, phase / math.pi, atol=1e-4, rtol=0)


def test_every_episode_of_sparse_parity_has_a_subset_of_its_own() -> None:
    # Position p is all ones but coordinate p: the label tells whether p belongs to the subset.
    x = (1 - 2 * torch.eye(5)).expand(NUM_EPISODES, 5, 5)
    secret = sample(SparseParity(num_secret=2), x)[:, :, 0] == -1
    assert (secret.sum(1) == 2).all()
    subsets, counts = secret.unique(dim=0, return_counts=True)
    assert len(subsets) == 10
    assert ((counts - NUM_EPISODES / 10).abs() < 5 * math.sqrt(NUM_EPISODES / 10)).all()
    assert_mean((secret[1:] == secret[:-1]).all(1)[::2], 1 / 10, scale=0.3)
    episodes = draw(d_x=5, d_y=1, inputs=SIGN, function={"name": "sparse_parity"})
    assert episodes.target.unique().tolist() == [-1, 1]
    assert_mean(per_episode(episodes.target), 0, scale=1.0)
    single = sample(SparseParity(num_secret=1), episodes.x)
    assert (single == episodes.x).all(1).any(1).all()


def test_classes_are_those_of_the_largest_linear_logit() -> None:
    x = random_normal(NUM_EPISODES, 3, 4)
    label = sample(LinearClassification(), x, 3)
    for share in label.mean(1).T:
        assert_mean(share, 1 / 3)
    assert torch.equal(sample(LinearClassification(scale=9.0), 2 * x, 3), label)
    two = sample(LinearClassification(), x, 2)
    assert torch.equal(sample(LinearClassification(), -x, 2), 1 - two)
    # Half planes of a random normal: the angle between two inputs over pi is how often they differ.
    cosine = torch.cosine_similarity(x[:, 0], x[:, 1])
    differ = (two[:, 0] != two[:, 1]).any(1).double()
    assert_mean(differ - cosine.acos() / math.pi, 0, scale=0.5)


def test_sampled_classes_follow_the_softmax_of_logits_of_the_stated_scale() -> None:
    x = torch.ones(4000, 1000, 4)
    label = sample(LinearClassification(label="sampled", scale=0.7), x, 2)
    share = label[:, :, 0].mean(1)
    # Log odds are the difference of two logits N(0, 0.7^2), plus the error of counting.
    log_odds = torch.log(share / (1 - share))
    counting = 1 / (1000 * share * (1 - share))
    assert_mean(log_odds, 0, scale=2.0)
    assert_mean(log_odds.square() - counting, 2 * 0.49, scale=2.0)  # * 4 / 4, x being all ones


def test_points_of_a_gaussian_mixture_lie_around_the_means_of_their_classes() -> None:
    z = math.sqrt(2.0) * random_normal(2000, 60, 3)
    function = GaussianMixture(spread=0.5)
    x, label, *_ = function.sample(z, 2, torch.Generator().manual_seed(0))
    mu = (x - 0.5 * z)[:, :, None] * label[..., None]  # (batch, length, d_y, d_x)
    means = mu.sum(1) / label.sum(1)[..., None]
    torch.testing.assert_close(label @ means + 0.5 * z, x, atol=1e-5, rtol=1e-5)
    assert_mean(means.square(), 1.0, scale=1.5)
    assert_mean(means[:, 0] * means[:, 1], 0, scale=1.5)
    assert_mean(per_episode(label[..., 0]), 1 / 2)
    assert_mean(per_episode(x.square()), 1 + 0.25 * 2)


def test_a_mixture_draws_one_family_for_each_episode_with_the_weights_as_odds() -> None:
    episodes = draw(d_x=3, d_y=1, num_context=7, inputs=GAUSSIAN, function=MIXTURE)
    x, target = episodes.x.double(), episodes.target.double()
    fits = []
    for features in (x, x.square()):
        W = torch.linalg.lstsq(features, target).solution
        fits.append((features @ W - target).abs().amax((1, 2)) < 1e-4)
    linear, quadratic = fits
    assert (linear ^ quadratic).all()
    assert_mean(linear, 3 / 4)
    classes = {
        "name": "mixture",
        "components": [
            {"function": {"name": "linear_classification"}},
            {"function": {"name": "gaussian_mixture", "spread": 0.1}},
        ],
    }
    spec = EpisodeSpec(d_x=3, d_y=4, inputs=GAUSSIAN, function=classes)
    assert spec.output == "logits"
    assert EpisodeSpec(**spec.model_dump()) == spec
    moved = (
        draw(4000, d_x=3, d_y=4, inputs=GAUSSIAN, function=classes).x
        != draw(4000, d_x=3, d_y=4, inputs=GAUSSIAN).x
    )
    assert torch.equal(moved.all((1, 2)), moved.any((1, 2)))  # whole episodes
    assert_mean(moved.all((1, 2)), 1 / 2, scale=1.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"d_x": 2, "function": {"name": "sparse_linear"}}, "at most d_x = 2, got 3"),
        ({"function": {"name": "linear_drift", "rho": 1.1}}, "rho"),
        ({"function": {"name": "linear_pool", "pool_size": 0}}, "pool_size"),
        ({"function": {"name": "sine"}}, "d_x = 1 and d_y = 1, got 10 and 10"),
        ({"d_y": 1, "function": {"name": "linear_classification"}}, "at least 2, got 1"),
        ({"function": {"name": "gaussian_mixture"}}, "needs inputs gaussian, got uniform"),
        (
            {"d_x": 1, "d_y": 1, "inputs": SIGN, "function": {"name": "sparse_parity"}},
            "num_secret must be at most d_x = 1, got 2",
        ),
        ({"inputs": SIGN, "function": {"name": "sparse_parity"}}, "needs d_y = 1, got 10"),
        ({"d_y": 1, "function": {"name": "sparse_parity"}}, "needs inputs sign, got uniform"),
        ({"function": {"name": "mixture", "components": []}}, "components"),
        (
            {
                "function": {
                    "name": "mixture",
                    "components": [
                        {"function": {"name": "linear"}},
                        {"function": {"name": "linear_classification"}},
                    ],
                }
            },
            "of values or of classes",
        ),
        (
            {
                "d_x": 2,
                "function": {
                    "name": "mixture",
                    "components": [{"function": {"name": n}} for n in ("linear", "sparse_linear")],
                },
            },
            "num_nonzero must be at most d_x = 2",
        ),
        (
            {"inputs": {"name": "preconditioned"}, "function": {"name": "quadratic"}},
            "function linear, got quadratic",
        ),
        ({"d_x": 1, "inputs": {"name": "half_subspace"}}, "at least 2, got 1"),
        ({"inputs": {"name": "ill_conditioned", "kappa": 0.5}}, "kappa"),
    ],
)
def test_what_does_not_go_together_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSpec(**spec)
