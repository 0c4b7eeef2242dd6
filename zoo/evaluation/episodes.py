"""The episodes that predictors are measured on."""

from collections.abc import Iterator

import torch

from datamodules import EpisodeSpec, create_sampler
from datamodules.corruption import Distractors, Outliers
from datamodules.episodes import Episodes
from datamodules.stream import EVAL_SEED, Generators, generators_of_test
from zoo.metrics.errors import NUM_APART


def evaluation_batches(
    spec: EpisodeSpec, num_episodes: int, device: str = "cpu", number: int = 0
) -> Iterator[Episodes]:
    """Test episodes of a kind, the same for every predictor, run and machine.

    Args:
        spec: The kind.
        num_episodes: How many.
        device: Where they are moved to.
        number: 0 for the episodes that all is measured on, 1, 2, ... for further sets of as many.
    """
    batches = create_sampler(spec).batches(num_episodes, generators_of_test(number))
    return (episodes.to(device) for episodes in batches)


def evaluation_episodes(spec: EpisodeSpec, num_episodes: int, device: str = "cpu") -> Episodes:
    """The test episodes of a kind as one batch."""
    return Episodes.joined(evaluation_batches(spec, num_episodes, device))


def fresh_queries(
    spec: EpisodeSpec, num_episodes: int, device: str = "cpu", number: int = 0
) -> Iterator[torch.Tensor]:
    """4 d_x inputs for each episode, from the distribution of its inputs, in batches."""
    clean = {"distractors": Distractors(), "outliers": Outliers(), "curriculum": None}
    longer = spec.model_copy(update={"num_context": 4 * spec.d_x, **clean})
    # Steps 0 and 2 to 11 are those of the episodes.
    generators = Generators(EVAL_SEED, "test", 1 if number == 0 else 1 + NUM_APART + number, "cpu")
    batches = create_sampler(longer).batches(num_episodes, generators)
    return (episodes.x[:, 1:].to(device) for episodes in batches)
