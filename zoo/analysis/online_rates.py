"""What a trained `online_learner` amounts to, in the terms of the solver that its rule is."""

from typing import Any

import torch
from torch import Tensor

from zoo.models.online_learner import OnlineLearner
from zoo.predictor import Predictor


def counterpart(model: OnlineLearner) -> tuple[str, dict[str, Any]]:
    """The solver that the model can be constructed to be, and the arguments that its form settles.

    Rates, penalties and forgetting are what is learned: `construct_solver_` has the whole table.
    """
    if model.rule == "gated_linear_attention":
        return ("gradient_descent" if model.log_decay is None else "weighted_gradient_descent"), {}
    if model.rule == "longhorn":
        return "longhorn", {}
    if model.rule == "test_time_training":
        return "minibatch_gradient_descent", {"window": model.mini_batch}
    settled: dict[str, Any] = {"forgetting": 1.0} if model.log_decay is None else {}
    if model.rule == "mesa":
        return "ridge", settled
    if model.rule == "delta_product":
        settled["num_passes"] = len(model.W_k)
    return "online_gradient_descent", settled


@torch.no_grad()
def effective_rate(predictor: Predictor, x: Tensor, y: Tensor) -> float:
    """The step that a predictor takes on its first example, beside x y^T.

        rate = sum_b <W_b, x_b y_b^T> / sum_b |x_b y_b^T|^2

    W_b (d_x, d_y) is what example b alone makes of the predictor, which answers a query q by q W_b.
    The weights of an `online_learner` can be rescaled (k -> c k, q -> c q, beta -> beta / c^2)
    without a change of any prediction; this number stays. Of gradient descent it is the step size,
    of `ridge` and `longhorn` it depends on |x|: compare predictors on the same examples.

    Args:
        predictor: Linear in the query, as an `online_learner` and the solvers of its rules are.
        x: One example of each episode, (batch, d_x).
        y: Its label, (batch, d_y).
    """
    state = predictor.init_state(len(x), device=x.device, dtype=x.dtype)
    state = predictor.observe(state, x[:, None], y[:, None])
    basis = torch.eye(x.shape[1], device=x.device, dtype=x.dtype).expand(len(x), -1, -1)
    W = predictor.predict(state, basis).double()  # (batch, d_x, d_y)
    outer = (x[:, :, None] * y[:, None, :]).double()
    return ((W * outer).sum() / outer.square().sum()).item()


@torch.no_grad()
def effective_forgetting(model: OnlineLearner) -> float | None:
    """The factor by which the state decays with each example, a mean over coordinates.

    None of a model without decay.
    """
    return None if model.log_decay is None else model.log_decay.double().exp().mean().item()


@torch.no_grad()
def effective_gain(model: OnlineLearner) -> float:
    """What the answers are multiplied by: tr(K^-1 W_q) / d_x times tr(V) / d_y.

    K and V are the parts of W_k that reads x and of W_v that reads y, of several updates each by
    itself, and the mean is returned. The state comes to answer the key K x by V y, so the query
    W_q x gets V y scaled by K^-1 W_q. It is 1 of every construction: solvers have no gain.

    Raises:
        ValueError: If the rule is `gated_linear_attention`, of which rate and gain are one number.
    """
    if model.rule == "gated_linear_attention":
        raise ValueError("rule gated_linear_attention has no gain apart from its rate")
    K, V = model.W_k[:, :, : model.d_x].double(), model.W_v[:, :, model.d_x :].double()
    of_inputs = torch.linalg.solve(K, model.W_q.double()).diagonal(dim1=1, dim2=2).mean(1)
    gains: Tensor = of_inputs * V.diagonal(dim1=1, dim2=2).mean(1)
    return gains.mean().item()


@torch.no_grad()
def effective_penalty(model: OnlineLearner) -> float:
    """The penalty lambda of the ridge regression that a `mesa` learner computes.

    With K (d_x, d_x) the part of W_k that reads x, its weights are those of a regression with the
    matrix K^-1 diag(ridge) K^-T / beta as penalty; lambda is the mean of its diagonal,
    ridge / (beta c^2) for K = c I.

    Raises:
        ValueError: If the rule is another one.
    """
    if model.log_ridge is None or model.log_beta is None:
        raise ValueError(f"only rule mesa has a penalty, got {model.rule}")
    inverse: Tensor = torch.linalg.inv(model.W_k[0, :, : model.d_x].double())
    squares = inverse.square().sum(0)  # the diagonal of K^-T K^-1, by key
    log_penalties = squares.log() + model.log_ridge.double() - model.log_beta.double()
    return log_penalties.exp().mean().item()
