"""How much of a model an algorithm explains: predictions, sensitivities, errors, weights, steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.analysis.checks import check_finite, check_shape
from zoo.metrics.alignment import (
    Agreement,
    QueryResponse,
    agreement,
    cosines,
    mean_agreement,
    mean_cosine,
    query_response,
)
from zoo.metrics.errors import Summary, error_summaries
from zoo.predictor import Predictor


class Imitation(NamedTuple):
    """A model f beside an algorithm g on the same episodes, at the query.

    The first three are those of `Alignment` (von Oswald et al. 2022, arXiv 2212.07677).

    Attributes:
        prediction_difference: mean |f - g|_2.
        model_difference: mean |J_f - J_g|_F, J the Jacobian with respect to the query input.
        cosine: mean <J_f, J_g> / (|J_f| |J_g|); None where it is not defined.
        error_cosine: mean <f - target, g - target> / (|f - target| |g - target|), which is 1 where
            both are wrong in the same way; None where one of them makes no errors.
        weight_difference: mean |W_f - W_g|_F of the implicit weights.
        weight_cosine: mean <W_f, W_g> / (|W_f| |W_g|); None where it is not defined.
    """

    prediction_difference: Summary
    model_difference: Summary
    cosine: Summary | None
    error_cosine: Summary | None
    weight_difference: Summary
    weight_cosine: Summary | None


class Likeness(NamedTuple):
    """What `Imitation` averages, for each episode.

    Attributes:
        agreement: Of predictions and Jacobians.
        error_cosine: NaN where one of both makes no error, (num_episodes,).
        weight_difference: (num_episodes,).
        weight_cosine: NaN where a norm is zero, (num_episodes,).
    """

    agreement: Agreement
    error_cosine: Tensor
    weight_difference: Tensor
    weight_cosine: Tensor

    @staticmethod
    def joined(parts: "Iterable[Likeness]") -> "Likeness":
        """Batches as one."""
        agreements, *others = zip(*parts, strict=True)
        return Likeness(Agreement.joined(agreements), *map(torch.cat, others))


class Behaviour(NamedTuple):
    """What is compared of a predictor.

    Attributes:
        response: Predictions and Jacobians at the query of each episode.
        weights: Implicit weights, (num_episodes, d_x, d_y).
    """

    response: QueryResponse
    weights: Tensor


def behaviour(predictor: Predictor, x: Tensor, y: Tensor, queries: Tensor) -> Behaviour:
    """Measures a predictor.

    Args:
        predictor: Any predictor.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        queries: Further inputs, (num_episodes, num_query, d_x) with num_query >= d_x, of the
            distribution that the predictor is to be linear on.
    """
    weights = implicit_weights(predictor, x, y, queries)
    return Behaviour(query_response(predictor, x, y), weights)


@torch.no_grad()
def implicit_weights(
    predictor: Predictor, x: Tensor, y: Tensor, queries: Tensor, batch_size: int = 500
) -> Tensor:
    """The W, (num_episodes, d_x, d_y), with q W nearest to the predictions for fresh queries q.

    Args:
        predictor: Any predictor.
        x: (num_episodes, length, d_x); all but the last are the context.
        y: (num_episodes, length, d_y).
        queries: (num_episodes, num_query, d_x), num_query >= d_x.
        batch_size: Episodes at once.

    Raises:
        ValueError: As `inverse_of`.
    """
    inverse, found = inverse_of(queries, x), []
    for x_part, y_part, q, inverse_part in zip(
        *(torch.split(part, batch_size) for part in (x, y, queries, inverse)), strict=True
    ):
        state = predictor.init_state(len(x_part), device=x.device, dtype=x.dtype)
        if x.shape[1] > 1:
            state = predictor.observe(state, x_part[:, :-1], y_part[:, :-1])
        predictions = predictor.predict(state, q)
        found.append(inverse_part @ predictions.double())
    return torch.cat(found)


def inverse_of(queries: Tensor, x: Tensor) -> Tensor:
    """The pseudoinverse of the queries of each episode, (num_episodes, d_x, num_query), float64.

    Args:
        queries: (num_episodes, num_query, d_x).
        x: (num_episodes, length, d_x).

    Raises:
        ValueError: If shapes do not fit, a number is not finite, or queries do not span all
            directions of an input by more than they are rounded, as fewer than d_x of them never
            do.
    """
    num, _, d_x = x.shape
    if queries.ndim != 3 or (len(queries), queries.shape[2]) != (num, d_x):
        raise ValueError(
            f"queries must be ({num}, num_query, {d_x}) as x is, got {tuple(queries.shape)}"
        )
    if queries.shape[1] < d_x:
        raise ValueError(
            f"weights of width {d_x} need at least as many queries, got {queries.shape[1]}"
        )
    check_finite(queries=queries)
    q = queries.double()
    # What float32 queries span beyond their rounding, not beyond that of float64.
    rounding = max(q.shape[1:]) * torch.finfo(queries.dtype).eps
    inverse: Tensor = torch.linalg.pinv(q, rtol=rounding)
    # Their product is the projection on what the queries span.
    rank = (inverse * q.mT).sum((1, 2)).min().round().int().item()
    if rank < d_x:
        raise ValueError(
            f"weights of width {d_x} need queries that span {d_x} directions in every episode, "
            f"got some that span {rank}"
        )
    return inverse


def likeness(f: Behaviour, g: Behaviour, target: Tensor) -> Likeness:
    """Compares two predictors measured on the same episodes, in each of them.

    Args:
        f: The model.
        g: The algorithm.
        target: At the query, (num_episodes, d_y).

    Raises:
        ValueError: If the target or what g is measured by is not of the shape of that of f, or a
            number is not finite.
    """
    check_shape("target", target, tuple(f.response.prediction.shape), "the predictions of f")
    for name, of_f, of_g in (
        ("predictions", f.response.prediction, g.response.prediction),
        ("Jacobians", f.response.jacobian, g.response.jacobian),
        ("weights", f.weights, g.weights),
    ):
        check_shape(f"{name} of g", of_g, tuple(of_f.shape), "those of f")
        check_finite(**{f"{name}_of_f": of_f, f"{name}_of_g": of_g})
    check_finite(target=target)
    errors = ((part.response.prediction - target).double() for part in (f, g))
    return Likeness(
        agreement(f.response, g.response),
        error_cosine=cosines(*errors),
        weight_difference=(f.weights - g.weights).flatten(1).norm(dim=1),
        weight_cosine=cosines(f.weights.flatten(1), g.weights.flatten(1)),
    )


def mean_likeness(found: Likeness, measure: Callable[[int], Likeness] | None = None) -> Imitation:
    """Averages over episodes.

    Args:
        found: Of the episodes.
        measure: Of the further set of a number, as `error_summaries` takes it.
    """
    apart = None if measure is None else lambda number: measure(number).agreement
    mean = mean_agreement(found.agreement, apart)
    weights = error_summaries(
        {"": found.weight_difference},
        None if measure is None else lambda number: {"": measure(number).weight_difference},
    )
    return Imitation(
        prediction_difference=mean.prediction_difference,
        model_difference=mean.model_difference,
        cosine=mean.cosine,
        error_cosine=mean_cosine(found.error_cosine),
        weight_difference=weights[""],
        weight_cosine=mean_cosine(found.weight_cosine),
    )


@torch.no_grad()
def best_matching(
    model: Predictor,
    candidates: Mapping[int, Predictor],
    batches: Iterable[tuple[Tensor, Tensor]],
    batch_size: int = 500,
) -> int:
    """The key of the candidate whose predictions are nearest to the model's in the mean square.

    Args:
        model: The model.
        candidates: By a number.
        batches: x and y of episodes.
        batch_size: Episodes at once.

    Returns:
        The key of the first of the nearest. A candidate that predicts NaN or an infinite number is
        infinitely far.

    Raises:
        ValueError: If there is no candidate, or none that predicts finite numbers alone, or a
            prediction of the model is not finite.
    """
    if not candidates:
        raise ValueError("best_matching needs at least one candidate, got none")
    distances = dict.fromkeys(candidates, 0.0)
    for x, y in batches:
        for pair in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            prediction = model.predict_query(*pair)
            check_finite(predictions_of_the_model=prediction)
            for key, candidate in candidates.items():
                difference = prediction - candidate.predict_query(*pair)
                distances[key] += difference.double().square().sum().item()
    best = min(distances, key=lambda key: _or_infinite(distances[key]))
    if not math.isfinite(distances[best]):
        raise ValueError(f"no candidate predicts finite numbers alone, got {[*candidates]}")
    return best


def _or_infinite(distance: float) -> float:
    """A distance, infinite where it is NaN."""
    return math.inf if math.isnan(distance) else distance
