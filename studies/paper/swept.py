"""Trained layers and the gradient step of their training, on episodes of other kinds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules import EpisodeSpec
from studies.measure import model_of, query_loss, spec_of
from zoo.evaluation.episodes import evaluation_episodes
from zoo.references import create_reference, linear_moments
from zoo.solvers.moment import GradientDescent
from zoo.solvers.theory import expected_half_mse


class Swept(NamedTuple):
    """0.5*MSE at the query on episodes of several kinds, those of training among them.

    Attributes:
        trained: For each kind a number for each seed.
        exact: That of one gradient step, whose size is the best for training.
        zero: That of predicting zero.
        expected: Of the gradient step, in closed form.
    """

    trained: list[list[float]]
    exact: list[float]
    zero: list[float]
    expected: list[float]


def swept(runs: Sequence[Path], specs: Iterable[EpisodeSpec], num_episodes: int) -> Swept:
    """Tests trained models and the gradient step of their training on other linear episodes."""
    trained_on = spec_of(runs[0])
    models = [model_of(run) for run in runs]
    step = create_reference("gradient_descent", trained_on, {})
    zero = create_reference("zero", trained_on, {})
    assert isinstance(step, GradientDescent)
    found = Swept([], [], [], [])
    for spec in specs:
        moments = linear_moments(spec)
        assert moments is not None
        episodes = evaluation_episodes(spec, num_episodes)
        found.trained.append([query_loss(model, episodes) for model in models])
        found.exact.append(query_loss(step, episodes))
        found.zero.append(query_loss(zero, episodes))
        found.expected.append(expected_half_mse(moments, step.step_size))
    return found
