"""What is drawn: distributions, corruption, and the specs that describe them."""

from typing import Any

import pytest
import torch

from datamodules import Episodes, EpisodeSpec, create_sampler
from datamodules.stream import Generators

NUM_EPISODES = 20_000


def draw(num_episodes: int = NUM_EPISODES, **spec: Any) -> Episodes:
    return create_sampler(EpisodeSpec(**spec)).sample(
        num_episodes, Generators(0, "train", 0, "cpu")
    )


def test_default_is_the_papers_linear_regression() -> None:
    episodes = draw(100)
    assert episodes.x.shape == episodes.y.shape == episodes.target.shape == (100, 11, 10)
    assert episodes.scored.shape == (100, 11)
    assert episodes.scored.all()
    assert episodes.x.dtype == torch.float32
    assert torch.equal(episodes.y, episodes.target)


@pytest.mark.parametrize(
    ("inputs", "variance", "kurtosis"),
    [
        ({"name": "uniform", "r": 0.5}, 1 / 12, 1.8),
        ({"name": "uniform", "r": 2.0}, 4 / 3, 1.8),
        ({"name": "gaussian", "variance": 2.5}, 2.5, 3.0),
    ],
)
def test_inputs_have_the_moments_they_state(
    inputs: dict[str, Any], variance: float, kurtosis: float
) -> None:
    x = draw(inputs=inputs).x.double()
    stated = EpisodeSpec(inputs=inputs).inputs
    assert (stated.variance, stated.kurtosis) == pytest.approx((variance, kurtosis))
    assert x.mean().item() == pytest.approx(0, abs=4e-3 * variance**0.5)
    assert x.var().item() == pytest.approx(variance, rel=5e-3)
    assert (x.pow(4).mean() / x.var() ** 2).item() == pytest.approx(kurtosis, rel=1e-2)
    flat = x[:, 0]
    correlation = torch.corrcoef(flat.T) - torch.eye(10)
    assert correlation.abs().max() < 0.03
    if inputs["name"] == "uniform":
        assert x.abs().max() <= inputs["r"]


@pytest.mark.parametrize("d_y", [1, 4])
def test_one_linear_function_for_each_episode(d_y: int) -> None:
    episodes = draw(d_x=3, d_y=d_y, num_context=6, function={"scale": 2.0})
    W = torch.linalg.lstsq(episodes.x.double(), episodes.target.double()).solution
    torch.testing.assert_close(episodes.x.double() @ W, episodes.target.double(), atol=1e-4, rtol=0)
    assert W.mean().item() == pytest.approx(0, abs=0.03)
    assert W.std().item() == pytest.approx(2.0, rel=0.02)
    assert (W[0] - W[1]).abs().max() > 0.1


def test_noise_is_on_labels_alone_and_leaves_inputs_and_functions() -> None:
    clean, noisy = draw(), draw(noise=0.3)
    assert torch.equal(clean.x, noisy.x)
    assert torch.equal(clean.target, noisy.target)
    noise = noisy.y - noisy.target
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=2e-3)


def test_distractors_replace_a_random_subset_of_the_context_in_each_episode() -> None:
    spec = {"d_x": 3, "d_y": 2, "num_context": 8}
    clean = draw(**spec)
    distracted = draw(**spec, distractors={"count": 3, "scale": 1.5})
    assert torch.equal(clean.target, distracted.target)
    assert torch.equal(clean.x, distracted.x)
    replaced = (distracted.y != clean.y).any(-1)
    assert (replaced.sum(1) == 3).all()
    assert not replaced[:, -1].any()
    torch.testing.assert_close(
        replaced.float().mean(0)[:-1], torch.full((8,), 3 / 8), atol=0.015, rtol=0
    )
    assert len(replaced.unique(dim=0)) == 56  # all subsets of 3 among 8
    labels = distracted.y[replaced]
    assert labels.std().item() == pytest.approx(1.5, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([labels[:, 0], clean.y[replaced][:, 0]]))[0, 1]) < 0.02
    every = draw(100, **spec, distractors={"count": 8})
    assert (every.y != every.target)[:, :-1].all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"d_x": 0}, "d_x"),
        ({"noise": -1.0}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"nois": 1.0}, "nois"),
        ({"function": {"name": "cubic"}}, "'linear'"),
        ({"inputs": {"name": "gausian"}}, "'uniform', 'gaussian'"),
        ({"inputs": {"name": "uniform", "variance": 1.0}}, "variance"),
        ({"num_context": 4, "distractors": {"count": 5}}, "at most num_context = 4, got 5"),
    ],
)
def test_wrong_specs_are_refused_by_name(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_sampler(spec)


def test_a_spec_is_plain_data_that_makes_itself_again() -> None:
    spec = EpisodeSpec(inputs={"name": "gaussian"}, noise=0.1, distractors={"count": 2})
    assert EpisodeSpec(**spec.model_dump()) == spec
