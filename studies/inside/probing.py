"""What layers and states know of the weights of algorithms, of moments and of the noise."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules import create_sampler
from datamodules.episodes import Episodes
from datamodules.stream import EVAL_SEED, Generators, Split
from studies.inside.task import NUM_TO_FIT, Task, episodes, solver
from zoo.analysis.places import Place, features, num_seen, weights
from zoo.analysis.probes import ProbeScore, probe_all
from zoo.predictor import Predictor

# Of the descent whose weights are looked for beside those of the best algorithm.
NUM_STEPS = 4
NOISE_LEVELS = (0.1, 0.3, 1.0)


class Target(NamedTuple):
    """What is looked for beside the noise level, as tables have it."""

    best: str = "W of the best"
    steps: str = f"W of {NUM_STEPS} steps"
    online: str = "W of the delta rule"
    one_step: str = "B, W of one step"
    inputs: str = "A"


TARGETS = Target()
NOISE = "noise level"


def scores(model: Predictor, task: Task, num_episodes: int) -> dict[Place, dict[str, ProbeScore]]:
    """R^2 of every quantity at every place, on test episodes.

    Args:
        model: Trained or not.
        task: Of whose episodes.
        num_episodes: In the test.
    """
    sets = {}
    for split, num in (("tune", NUM_TO_FIT), ("test", num_episodes)):
        drawn = episodes(task, split, num)
        sets[split] = drawn.x, drawn.y
    found = {split: features(model, *pairs) for split, pairs in sets.items()}
    scored = {}
    for place, num in num_seen(model, sets["test"][0].shape[1] - 1).items():
        train, test = (
            (h[place], _targets(task, split, len(h[place]), num)) for split, h in found.items()
        )
        scored[place] = probe_all(train, test)
    return scored


@cache
def _targets(task: Task, split: Split, num: int, num_examples: int) -> Mapping[str, Tensor]:
    """The quantities after so many examples; B is W of one step divided by the step size."""
    drawn = episodes(task, split, num)
    x, y = drawn.x[:, :num_examples], drawn.y[:, :num_examples]
    above = torch.triu(torch.ones(x.shape[2], x.shape[2])).bool()
    return {
        TARGETS.best: weights(solver(task.best, task), x, y),
        TARGETS.steps: weights(solver("gradient_descent", task, NUM_STEPS), x, y),
        TARGETS.online: weights(solver("online_gradient_descent", task), x, y),
        TARGETS.one_step: x.mT @ y,
        TARGETS.inputs: (x.mT @ x)[:, above],
    }


def noise_scores(model: Predictor, task: Task, num_episodes: int) -> dict[Place, ProbeScore]:
    """R^2 of the noise level, on episodes that differ in it."""
    sets = []
    for split, num in (("tune", NUM_TO_FIT), ("test", num_episodes)):
        drawn, levels = _of_noise(task, split, num)
        sets.append((features(model, drawn.x, drawn.y), {NOISE: levels}))
    (train, of_train), (test, of_test) = sets
    return {
        place: probe_all((train[place], of_train), (test[place], of_test))[NOISE] for place in test
    }


@cache
def _of_noise(task: Task, split: Split, num: int) -> tuple[Episodes, Tensor]:
    """Episodes of several noise levels, in turn, and the level of each."""
    parts = []
    for i, level in enumerate(NOISE_LEVELS):
        sampler = create_sampler(task.spec.model_copy(update={"noise": level}))
        share = num // len(NOISE_LEVELS) + (i < num % len(NOISE_LEVELS))
        parts.append(sampler.sample(share, Generators(EVAL_SEED, split, i + 1, "cpu")))
    levels = torch.cat(
        [torch.full((len(p.x),), s) for p, s in zip(parts, NOISE_LEVELS, strict=True)]
    )
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    joined = Episodes.joined(parts)
    return Episodes(*(part[order] for part in joined)), levels[order]
