"""Trained weights beside those that the theory constructs."""

import copy

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_


def weights_beside_construction(model: GDSSM, step_size: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Trained and constructed identifiable weights, `{"Q": (trained, constructed), ...}`.

    Q -> aQ, D -> bD, C -> C/(ab) leaves every prediction as it is. The trained weights are shown
    with the signs and scales of Q and D that bring them nearest to the construction; what that
    takes from Q and D is given to C.

    Args:
        model: A trained `gd_ssm`.
        step_size: eta of the constructed gradient step.
    """
    constructed_model = construct_gradient_descent_(copy.deepcopy(model), step_size)
    trained = {name: w.detach().clone() for name, w in model.identifiable_weights().items()}
    constructed = {
        name: w.detach().clone() for name, w in constructed_model.identifiable_weights().items()
    }
    for name in ("Q", "D"):
        scale = (trained[name] * constructed[name]).sum() / trained[name].square().sum()
        trained[name] *= scale
        trained["C"] /= scale
    return {name: (trained[name], constructed[name]) for name in trained}


def cosines_with_construction(model: GDSSM, step_size: float) -> dict[str, float]:
    """Cosine of each trained weight with the constructed one, up to the symmetry of signs."""
    pairs = weights_beside_construction(model, step_size)
    return {
        name: cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()
        for name, (a, b) in pairs.items()
    }


def effective_step_size(model: GDSSM) -> float:
    """The step size the trained weights amount to: Q[0, 1] * D[2] * mean of the diagonal of C."""
    weights = model.identifiable_weights()
    step_size = weights["Q"][0, 1] * weights["D"][2] * torch.diagonal(weights["C"]).mean()
    return step_size.item()
