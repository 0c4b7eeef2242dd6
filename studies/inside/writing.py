"""What becomes of predictions where other weights are written, or a part is taken away."""

import math
from typing import NamedTuple

import torch

from studies.inside.shipped import BEST, NUM_TO_FIT, episodes, solver
from zoo.analysis.ablations import error_increases
from zoo.analysis.interventions import Effect, effect, probe_change
from zoo.analysis.places import Place, features, num_seen, places, site, weights
from zoo.analysis.probes import fit_probe
from zoo.metrics.errors import half_squared_error
from zoo.predictor import Predictor


class Written(NamedTuple):
    """Weights that were written along the directions of a probe.

    Attributes:
        other: Effect of the weights that the best algorithm has in another episode.
        one_step: Effect of those of one step of gradient descent in the same episode.
        size: Of the change for `other`, beside that of the features.
    """

    other: Effect
    one_step: Effect
    size: float


def written(model: Predictor, task: str, num_episodes: int) -> dict[Place, Written]:
    """Writes weights at every place of a model, and says how far its predictions follow."""
    fit, test = episodes(task, "tune", NUM_TO_FIT), episodes(task, "test", num_episodes)
    fitted_on, found = features(model, fit.x, fit.y), {}
    best, one_step = solver(BEST[task], task), solver("gradient_descent", task)
    for place in places(model):
        num = num_seen(model, place, test.x.shape[1] - 1)
        probe = fit_probe(fitted_on[place], weights(best, fit.x[:, :num], fit.y[:, :num]))
        h = site(model, test.x, test.y, place)
        x, y = test.x[:, :num], test.y[:, :num]
        other = weights(best, x, y).roll(1, dims=0)
        change = probe_change(probe, h.h, other)
        of_other, of_one_step = (
            effect(h, probe_change(probe, h.h, W), torch.einsum("bp,bpq->bq", test.x[:, -1], W))
            for W in (other, weights(one_step, x, y))
        )
        found[place] = Written(of_other, of_one_step, (change.norm() / h.h.norm()).item())
    return found


def needed(model: Predictor, task: str, num_episodes: int) -> dict[int, dict[str, float]]:
    """How much the error at the query grows without each part, divided by that of zero.

    Args:
        model: Of several layers.
        task: Of whose episodes.
        num_episodes: In the test.

    Returns:
        By layer from 1, and by the kind of the part: `layer`, `head`, `place`, `decay`, `gate`. Of
        several heads or places it is the largest number.
    """
    test = episodes(task, "test", num_episodes)
    zero = half_squared_error(torch.zeros_like(test.target[:, -1]), test.target[:, -1]).mean()
    found: dict[int, dict[str, float]] = {}
    for part, more in error_increases(model, test.x, test.y, test.target).items():
        kind, number = part.split(" ")
        of_layer = found.setdefault(int(number.partition(".")[0]), {})
        of_layer[kind] = max(of_layer.get(kind, -math.inf), more.value / zero.item())
    return found
