"""Trained weights beside those that the theory constructs."""

import copy
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from zoo.layers.gd_ssm import GDSSMLayer
from zoo.layers.gd_ssm_weights import GDSSMWeights, diagonal
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.predictor import Predictor


@torch.no_grad()
def weights_beside_construction(model: GDSSM, step_size: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Trained and constructed identifiable weights, `{"Q": (trained, constructed), ...}`.

    Q -> aQ, D -> bD, C -> C/(ab) leaves every prediction as it is. The trained weights are shown
    with the signs and scales of Q and D that bring them nearest to the construction; what that
    takes from Q and D is given to C. With several steps the same holds of Q_B, D and every C_j, of
    D and W_0, of Q_A and every E_j, and of each P_j with its C_j and E_j. A number added to all
    logits changes no probability, so for logits C is shown without the mean of its rows, beside the
    construction for cross entropy.

    Args:
        model: A trained `gd_ssm`.
        step_size: eta of every constructed gradient step.

    Raises:
        ValueError: If the model predicts logits in several steps or from a learned start, for which
            there is no construction.
    """
    logits = model.output == "logits"
    constructed_model = construct_gradient_descent_(
        copy.deepcopy(model), step_size, loss="cross_entropy" if logits else "mse"
    )
    trained = copy.deepcopy(model).identifiable_weights()
    constructed = constructed_model.identifiable_weights()
    if logits:
        for step in trained.steps:
            step.C.sub_(step.C.mean(0))
    match_scales_(trained, constructed)
    pairs = zip(trained.named().items(), constructed.named().values(), strict=True)
    return {name: (weight.detach(), goal.detach()) for (name, weight), goal in pairs}


def match_scales_(weights: GDSSMWeights, goal: GDSSMWeights) -> None:
    """Brings the weights, in place, to the scales of others without a change of any prediction."""

    def match(weight: Tensor, goal: Tensor, *partners: Tensor | None) -> None:
        scale = (weight * goal).sum() / weight.square().sum()
        weight *= scale
        for partner in partners:
            if partner is not None:
                partner /= scale

    match(weights.B.Q, goal.B.Q, *(step.C for step in weights.steps))
    match(weights.D, goal.D, *(step.C for step in weights.steps), weights.W_0)
    if weights.A is not None and goal.A is not None:
        match(weights.A.Q, goal.A.Q, *(step.E for step in weights.steps))
    for step, step_goal in zip(weights.steps, goal.steps, strict=True):
        if step.P is not None and step_goal.P is not None:
            match(step.P, step_goal.P, step.C, step.E)


def is_one_step(model: Predictor) -> TypeGuard[GDSSM]:
    """Whether this is a `gd_ssm` of one step from zero that predicts values."""
    return (
        isinstance(model, GDSSM) and isinstance(model.layer, GDSSMLayer) and model.output == "value"
    )


@torch.no_grad()
def interpolated(model: GDSSM, step_size: float, fraction: float) -> GDSSM:
    """A model of one step between the trained and the constructed one.

    Its weights are (1 - fraction) * trained + fraction * constructed, after the trained ones are
    brought to the signs and scales of the constructed. If both compute the same thing in the same
    way, so does everything between (von Oswald et al. 2022, arXiv 2212.07677).

    Args:
        model: A trained `gd_ssm` of one step from zero, for values.
        step_size: eta of the constructed gradient step.
        fraction: From 0, the trained, to 1, the constructed model.

    Raises:
        ValueError: If the model has several steps or a learned start, or predicts logits.
    """
    if not is_one_step(model):
        raise ValueError("only models of one step from zero for values are interpolated")
    constructed = construct_gradient_descent_(copy.deepcopy(model), step_size)
    between = copy.deepcopy(model)
    match_scales_(between.layer.weights(), constructed.layer.weights())
    for weight, goal in zip(between.parameters(), constructed.parameters(), strict=True):
        weight.lerp_(goal, fraction)
    return between


def cosines_with_construction(model: GDSSM, step_size: float) -> dict[str, float]:
    """Cosine of each trained weight with the constructed one, up to the symmetry of signs.

    The construction starts from zero, so a learned W_0 has none, nor has a single number.
    """
    pairs = weights_beside_construction(model, step_size)
    return {
        name: cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()
        for name, (a, b) in pairs.items()
        if name != "W_0" and a.numel() > 1
    }


def weights_summary(model: GDSSM, step_size: float) -> dict[str, float]:
    """What is known of the weights beside the construction, as numbers by name.

    `cosine_W` of each trained weight with the constructed one, `mean_Lambda_bar` of each decay,
    `step_size_C_j` and `step_size_E_j` as in `effective_step_sizes`, and `constructed_step_size`.
    """
    cosines = cosines_with_construction(model, step_size)
    summary = {f"cosine_{name}": value for name, value in cosines.items()}
    weights = model.identifiable_weights()
    for name, recurrence in (("Lambda_bar", weights.B), ("Lambda_bar_A", weights.A)):
        if recurrence is not None and recurrence.Lambda_bar is not None:
            summary[f"mean_{name}"] = recurrence.Lambda_bar.mean().item()
    for kind, sizes in effective_step_sizes(model).items():
        for rank, size in enumerate(sizes, start=1):
            summary[f"step_size_{kind}_{rank}"] = size
    summary["constructed_step_size"] = step_size
    return summary


def effective_step_sizes(model: GDSSM) -> dict[str, list[float]]:
    """The step sizes that the trained weights amount to, in rising order.

    Under `"C"` Q_B[0, 1] * D[2] * mean of the diagonal of C_j, with which step j reads B; under
    `"E"` Q_A[0, 0] * mean of the diagonal of E_j, with which it reads A. A preconditioner
    multiplies both by the mean of its diagonal. In gradient descent with scalar step sizes the
    steps commute, so their order says nothing; there the two lists agree but for the first step,
    which has no E_j where it starts from zero.
    """
    weights = copy.deepcopy(model).double().identifiable_weights()
    sizes: dict[str, list[float]] = {"C": [], "E": []}
    for C, E, P in weights.steps:
        scale = 1.0 if P is None else P.diagonal().mean()
        reads_B = weights.B.Q[0, 1] * weights.D[2] * C.diagonal().mean()
        sizes["C"].append((scale * reads_B).item())
        if E is not None and weights.A is not None:
            sizes["E"].append((scale * weights.A.Q[0, 0] * diagonal(E).mean()).item())
    return {kind: sorted(values) for kind, values in sizes.items()}
