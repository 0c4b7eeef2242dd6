"""What becomes of predictions where other weights are written, or a part is taken away."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from studies.inside.task import NUM_TO_FIT, Task, episodes, solver
from zoo.analysis.ablations import error_increases
from zoo.analysis.interventions import Effect, Site, effect, exact_change, probe_change
from zoo.analysis.places import Place, features, num_seen, site, weights
from zoo.analysis.probes import fit_probe, r_squared
from zoo.metrics.errors import Interval, half_squared_error
from zoo.models.gd_ssm import GDSSM
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor

# The third episode whose weights the control has is so many behind; controls are averaged.
THIRD = (2, 3, 4, 5)
# Errors that grow by more than so many times that of zero are written as that.
MOST = 10.0


class Written(NamedTuple):
    """Weights of the best algorithm in another episode, written into a place.

    Attributes:
        r2: That of the probe along whose directions they are written, on test episodes.
        effect: How predictions follow; the control, a mean over several, has those of a third
            episode.
        size: Of the change, beside how far features are from their mean.
        exact: As `effect`, of the change that needs no probe; of a `gd_ssm`.
        one_step: As `effect`, of the weights of one step of gradient descent, with a probe of its
            own; of a `gd_ssm`, which answers with these.
    """

    r2: float
    effect: Effect
    size: float
    exact: Effect | None
    one_step: Effect | None


def written(model: Predictor, task: Task, num_episodes: int) -> dict[Place, Written]:
    """Writes weights at every place that the query reads, and says how predictions follow."""
    fit, test = episodes(task, "tune", NUM_TO_FIT), episodes(task, "test", num_episodes)
    known, best, found = features(model, fit.x, fit.y), solver(task.best, task), {}
    query = test.x[:, -1]
    for place, num in num_seen(model, test.x.shape[1] - 1).items():
        if not _is_read(model, place):
            continue
        at, h = site(model, test.x, test.y, place), known[place]

        def of(algorithm: Predictor, num: int = num) -> tuple[Tensor, Tensor]:
            """What it has learned of the episodes of both sets."""
            W, V = (weights(algorithm, part.x[:, :num], part.y[:, :num]) for part in (fit, test))
            return W, V

        W_fit, W = of(best)
        probe = fit_probe(h, W_fit)
        change = partial(probe_change, probe, h, at.h)
        exact = one_step = None
        if isinstance(model, GDSSM):
            exact = _effect(at, partial(exact_change, model, test.x, test.y), W, query)
            V_fit, V = of(solver("gradient_descent", task, 1))
            one_step = _effect(at, partial(probe_change, fit_probe(h, V_fit), h, at.h), V, query)
        apart = at.h - at.h.mean(0)
        found[place] = Written(
            r2=r_squared(probe, at.h, W).value,
            effect=_effect(at, change, W, query),
            size=(change(W.roll(1, dims=0)).norm() / apart.norm()).item(),
            exact=exact,
            one_step=one_step,
        )
    return found


def _effect(at: Site, change: Callable[[Tensor], Tensor], W: Tensor, query: Tensor) -> Effect:
    """Of weights of another episode, and as control the mean of those of several third ones.

    Controls share their episodes: their interval is the mean one.
    """
    other = W.roll(1, dims=0)
    wanted = torch.einsum("bp,bpq->bq", query, other)
    found = [effect(at, change(other), change(W.roll(k, dims=0)), wanted) for k in THIRD]
    value, ci95 = (fmean(getattr(e.control, part) for e in found) for part in ("value", "ci95"))
    return Effect(found[0].written, Interval(value, ci95))


def _is_read(model: Predictor, place: Place) -> bool:
    """Not the stream behind the last block, but where the query is the token it is taken from."""
    last = isinstance(model, SequenceModel) and place.layer == len(model.blocks)
    return place.is_state or not last or model.token_layout == "shifted"


def needed(model: Predictor, task: Task, num_episodes: int) -> dict[int, dict[str, list[float]]]:
    """How much the error at the query grows without each part, divided by that of zero.

    Args:
        model: Of several layers, or of one.
        task: Of whose episodes.
        num_episodes: In the test.

    Returns:
        By layer from 1, and by the kind of the part: `layer`, `head`, `place`, `decay`, `gate`. Of
        several heads or places there are several numbers. None is above `MOST`.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for part, more in without(model, task, num_episodes).items():
        kind, _, number = part.partition(" ")
        # A model of one recurrence has its places without the number of a layer.
        layer = 1 if isinstance(model, GDSSM) else int(number.partition(".")[0])
        of_kind = found.setdefault(layer, {}).setdefault(kind, [])
        of_kind.append(min(more.value, MOST))
    return found


def without(model: Predictor, task: Task, num_episodes: int) -> dict[str, Interval]:
    """How much the error at the query grows without each part, divided by that of zero.

    Args:
        model: Any model that predicts values.
        task: Of whose episodes.
        num_episodes: In the test.

    Returns:
        By the name of the part, as `ablations` has it.
    """
    test = episodes(task, "test", num_episodes)
    zero = _mean_error(torch.zeros_like(test.target[:, -1]), test.target[:, -1])
    found = error_increases(model, test.x, test.y, test.target)
    return {part: Interval(more.value / zero, more.ci95 / zero) for part, more in found.items()}


def _mean_error(prediction: Tensor, target: Tensor) -> float:
    return half_squared_error(prediction, target).mean().item()
