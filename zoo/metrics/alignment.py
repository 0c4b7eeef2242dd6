"""How far a model behaves like an algorithm: predictions and sensitivities at the query."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.metrics.errors import Interval, mean_interval
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

    prediction_difference: Interval
    model_difference: Interval
    cosine: Interval | None
    num_zero_norm: int


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


def alignment(f: QueryResponse, g: QueryResponse) -> Alignment:
    """Compares two predictors by their responses to the same episodes."""
    J_f, J_g = f.jacobian.flatten(1).double(), g.jacobian.flatten(1).double()
    norms = J_f.norm(dim=1) * J_g.norm(dim=1)
    defined = norms > 0
    cosines = (J_f * J_g).sum(1)[defined] / norms[defined]
    return Alignment(
        prediction_difference=mean_interval((f.prediction - g.prediction).norm(dim=1)),
        model_difference=mean_interval((J_f - J_g).norm(dim=1)),
        cosine=mean_interval(cosines) if len(cosines) > 1 else None,
        num_zero_norm=int((~defined).sum()),
    )
