"""What is drawn: distributions, corruption, and the specs that describe them."""

import copy
import pickle
from typing import Any

import pytest
import torch

from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import Generators
from tests.datamodules.statistics import draw


def test_default_is_the_papers_linear_regression() -> None:
    episodes = draw(100)
    assert episodes.x.shape == episodes.y.shape == episodes.target.shape == (100, 11, 10)
    assert episodes.scored.shape == (100, 11)
    assert episodes.scored.all()
    assert episodes.x.dtype == torch.float32
    assert torch.equal(episodes.y, episodes.target)


def test_what_draws_episodes_survives_pickling_and_copying() -> None:
    sampler = create_sampler(
        {"function": {"name": "linear_pool"}, "outliers": {"probability": 0.5}}
    )
    expected = sampler.sample(5, Generators(0, "train", 0, "cpu"))
    for other in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert other.spec == sampler.spec
        found = other.sample(5, Generators(0, "train", 0, "cpu"))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert pickle.loads(pickle.dumps(expected)).x.equal(expected.x)


@pytest.mark.parametrize(
    ("spec", "sums"),
    [
        ({}, (8.718691110610962, 18.83187752906815, 18.83187752906815)),
        (
            {
                "d_x": 5,
                "d_y": 1,
                "num_context": 7,
                "inputs": {"name": "gaussian"},
                "noise": 0.3,
                "distractors": {"count": 2},
            },
            (90.82513248594478, -14.101833614520729, -25.009039260447025),
        ),
    ],
)
def test_what_was_once_drawn_is_drawn_again(
    spec: dict[str, Any], sums: tuple[float, float, float]
) -> None:
    episodes = draw(64, **spec)
    found = [part.double().sum().item() for part in episodes[:3]]
    assert found == pytest.approx(list(sums), abs=1e-3)  # logarithms round as the machine does


@pytest.mark.parametrize("d_y", [1, 4])
def test_one_linear_function_for_each_episode(d_y: int) -> None:
    episodes = draw(d_x=3, d_y=d_y, num_context=6, function={"scale": 2.0})
    W = torch.linalg.lstsq(episodes.x.double(), episodes.target.double()).solution
    torch.testing.assert_close(episodes.x.double() @ W, episodes.target.double(), atol=1e-4, rtol=0)
    assert W.mean().item() == pytest.approx(0, abs=0.03)
    assert W.std().item() == pytest.approx(2.0, rel=0.02)
    assert (W[0] - W[1]).abs().max() > 0.1


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
