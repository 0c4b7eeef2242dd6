"""How far a model behaves like an algorithm: predictions and sensitivities at the query."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.metrics.errors import Summary, error_summaries, mean_interval
from zoo.predictor import Predictor


class QueryResponse(NamedTuple):
    """What a predictor says of the query of each episode.

    Attributes:
        prediction: f, (batch, d_y).
        jacobian: df / dx_query, (batch, d_y, d_x).
    """

    prediction: Tensor
    jacobian: Tensor


class Alignment(NamedTuple):
    """Agreement of a model f with an algorithm g, averaged over episodes.

    Source: von Oswald et al. 2022 (arXiv 2212.07677).

    Attributes:
        prediction_difference: mean |f - g|_2.
        model_difference: mean |J_f - J_g|_F, J the Jacobian with respect to the query input.
        cosine: mean <J_f, J_g> / (|J_f| |J_g|) over the episodes where both norms are positive,
            None where these are fewer than two.
        num_zero_norm: Episodes left out of the cosine because a norm is zero.
    """

    prediction_difference: Summary
    model_difference: Summary
    cosine: Summary | None
    num_zero_norm: int


class Agreement(NamedTuple):
    """What `Alignment` averages, for each episode.

    Attributes:
        prediction_difference: |f - g|_2, (num_episodes,).
        model_difference: |J_f - J_g|_F, (num_episodes,).
        cosine: <J_f, J_g> / (|J_f| |J_g|), NaN where a norm is zero, (num_episodes,).
    """

    prediction_difference: Tensor
    model_difference: Tensor
    cosine: Tensor

    @staticmethod
    def joined(parts: "Iterable[Agreement]") -> "Agreement":
        """Batches as one."""
        return Agreement(*map(torch.cat, zip(*parts, strict=True)))


def query_response(
    predictor: Predictor, x: Tensor, y: Tensor, batch_size: int = 500
) -> QueryResponse:
    """Prediction and Jacobian at the query of each episode, without gradients of the parameters.

    The examples are observed once; the d_y backward passes go through `predict` alone.

    Args:
        predictor: Any predictor.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        batch_size: Episodes at once.
    """
    parts = [
        _query_response(predictor, x_part, y_part)
        for x_part, y_part in zip(
            torch.split(x, batch_size), torch.split(y, batch_size), strict=True
        )
    ]
    predictions, jacobians = zip(*parts, strict=True)
    return QueryResponse(torch.cat(predictions), torch.cat(jacobians))


def _query_response(predictor: Predictor, x: Tensor, y: Tensor) -> QueryResponse:
    # Tensors made in inference mode cannot take part in a backward pass; their clones can.
    with torch.inference_mode(False), torch.no_grad():
        x, y = x.clone(), y.clone()
        state = predictor.init_state(len(x), device=x.device, dtype=x.dtype)
        if x.shape[1] > 1:
            state = predictor.observe(state, x[:, :-1], y[:, :-1])
    with torch.inference_mode(False), torch.enable_grad():
        query = x[:, -1:].requires_grad_()
        prediction = predictor.predict(state, query)[:, 0]
        if not prediction.requires_grad:  # it does not depend on the query, such as zero
            return QueryResponse(prediction, x.new_zeros(*prediction.shape, x.shape[-1]))
        rows = [
            torch.autograd.grad(prediction[:, q].sum(), query, retain_graph=True)[0][:, 0]
            for q in range(prediction.shape[1])
        ]
    return QueryResponse(prediction.detach(), torch.stack(rows, dim=1))


def agreement(f: QueryResponse, g: QueryResponse) -> Agreement:
    """Compares two predictors by their responses to the same episodes."""
    J_f, J_g = f.jacobian.flatten(1).double(), g.jacobian.flatten(1).double()
    return Agreement(
        prediction_difference=(f.prediction - g.prediction).norm(dim=1),
        model_difference=(J_f - J_g).norm(dim=1),
        cosine=cosines(J_f, J_g),
    )


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / (|a| |b|) of the rows, (num_rows,); NaN where a norm is zero."""
    norms = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norms > 0, (a * b).sum(1) / norms, torch.nan)


def mean_cosine(values: Tensor) -> Summary | None:
    """Mean of the cosines that are defined, None where these are fewer than two."""
    defined = values[~values.isnan()]
    return Summary(*mean_interval(defined)) if len(defined) > 1 else None


def alignment(f: QueryResponse, g: QueryResponse) -> Alignment:
    """Compares two predictors by their responses to the same episodes."""
    return mean_agreement(agreement(f, g))


def mean_agreement(
    found: Agreement, measure: Callable[[int], Agreement] | None = None
) -> Alignment:
    """Averages over episodes.

    Args:
        found: Of the episodes.
        measure: Of the further set of a number, as `error_summaries` takes it.
    """

    def differences(values: Agreement) -> dict[str, Tensor]:
        return {
            "prediction_difference": values.prediction_difference,
            "model_difference": values.model_difference,
        }

    apart = None if measure is None else lambda number: differences(measure(number))
    return Alignment(
        **error_summaries(differences(found), apart),
        cosine=mean_cosine(found.cosine),
        num_zero_norm=int(found.cosine.isnan().sum()),
    )
