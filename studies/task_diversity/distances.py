"""How far predictions are from those of the pool's predictor and of ridge."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules import EpisodeSpec
from datamodules.episodes import Episodes
from datamodules.linear import Linear, LinearPool
from zoo.evaluation.episodes import evaluation_episodes
from zoo.metrics.errors import half_squared_error
from zoo.predictor import Predictor
from zoo.references import create_reference

# Episodes that are predicted at once: `dmmse` holds a number for each of them and each function.
BATCH = 200
ALGORITHMS = ("dmmse", "ridge")


class Kind(NamedTuple):
    """Whose functions the episodes are.

    Attributes:
        name: Of the kind.
        text: In captions.
        best: The algorithm of least expected error there.
    """

    name: str
    text: str
    best: str

    def episodes(self, spec: EpisodeSpec) -> EpisodeSpec:
        """Episodes of this kind that are otherwise those of training.

        Args:
            spec: Of training, with functions from a pool.

        Raises:
            ValueError: If they are not from a pool.
        """
        if not isinstance(spec.function, LinearPool):
            raise ValueError(f"functions must be those of linear_pool, got {spec.function.name}")
        if self == POOL:
            return spec
        return spec.model_copy(update={"function": Linear(scale=spec.function.scale)})


POOL = Kind("pool", "functions of the pool", "dmmse")
NEW = Kind("new", "new functions", "ridge")
KINDS = (POOL, NEW)


class Answers(NamedTuple):
    """What both algorithms predict on episodes of a kind.

    Attributes:
        kind: Whose functions they are.
        episodes: The episodes.
        of: Predictions by the name of the algorithm, (num_episodes, length, d_y).
    """

    kind: Kind
    episodes: Episodes
    of: dict[str, Tensor]


class Measured(NamedTuple):
    """A predictor beside both algorithms; all by episode and position, (num_episodes, length).

    Attributes:
        error: 1/2 (prediction - target)^2.
        distances: 1/2 (prediction - that of an algorithm)^2, by its name.
        least: The error of the best algorithm on the same episodes.
    """

    error: Tensor
    distances: dict[str, Tensor]
    least: Tensor


@cache
def answers(spec: EpisodeSpec, kind: Kind, num_episodes: int) -> Answers:
    """Both algorithms on test episodes; they are told of training, whatever the kind.

    Args:
        spec: Of training.
        kind: Of the test episodes.
        num_episodes: How many of them.
    """
    episodes = evaluation_episodes(kind.episodes(spec), num_episodes)
    solvers = {name: create_reference(name, spec, {}) for name in ALGORITHMS}
    return Answers(kind, episodes, {name: predicted(p, episodes) for name, p in solvers.items()})


@torch.no_grad()
def predicted(predictor: Predictor, episodes: Episodes) -> Tensor:
    """Predictions at every position, (num_episodes, length, d_y)."""
    return torch.cat([predictor(part.x, part.y) for part in episodes.split(BATCH)])


def measured(prediction: Tensor, beside: Answers) -> Measured:
    """The error of predictions and their distances to those of both algorithms.

    On the pool's own episodes `dmmse` is the posterior mean, so the mean distance to it is what a
    predictor's expected error exceeds the least one by; on new functions that is the distance to
    `ridge`.

    Args:
        prediction: On the same episodes, (num_episodes, length, d_y).
        beside: The algorithms.
    """
    target = beside.episodes.target
    return Measured(
        half_squared_error(prediction, target),
        {name: half_squared_error(prediction, other) for name, other in beside.of.items()},
        half_squared_error(beside.of[beside.kind.best], target),
    )
