"""Trained weights beside those that the theory constructs."""

import copy
from collections.abc import Collection
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from zoo.layers.gd_ssm import GDSSMLayer
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.predictor import Predictor


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
    trained = {name: w.detach().clone() for name, w in model.identifiable_weights().items()}
    constructed = {
        name: w.detach().clone() for name, w in constructed_model.identifiable_weights().items()
    }
    if logits:
        trained = {n: w - w.mean(0) if n in ("C", "C_1") else w for n, w in trained.items()}
    for name in trained:
        partners = _partners(name, trained)
        if partners:
            scale = (trained[name] * constructed[name]).sum() / trained[name].square().sum()
            trained[name] *= scale
            for partner in partners:
                trained[partner] /= scale
    return {name: (trained[name], constructed[name]) for name in trained}


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
    for name in ("Q", "D"):
        weight, goal = getattr(between.layer, name), getattr(constructed.layer, name)
        scale = (weight * goal).sum() / weight.square().sum()
        weight *= scale
        between.layer.C.div_(scale)
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
    for name, w in model.identifiable_weights().items():
        if name.startswith("Lambda_bar"):
            summary[f"mean_{name}"] = w.mean().item()
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
    weights = {name: w.detach().double() for name, w in model.identifiable_weights().items()}
    Q_B = weights["Q"] if "Q" in weights else weights["Q_B"]
    sizes: dict[str, list[float]] = {"C": [], "E": []}
    for name, w in weights.items():
        kind, _, step = name.partition("_")
        if kind not in sizes:
            continue
        scale = Q_B[0, 1] * weights["D"][2] if kind == "C" else weights["Q_A"][0, 0]
        if f"P_{step}" in weights:
            scale = scale * weights[f"P_{step}"].diagonal().mean()
        sizes[kind].append((scale * (w.diagonal() if w.ndim == 2 else w).mean()).item())
    return {kind: sorted(values) for kind, values in sizes.items()}


def _partners(name: str, names: Collection[str]) -> list[str]:
    """The weights that make up for a scale of this one."""
    if name in ("Q", "Q_B"):
        prefixes: tuple[str, ...] = ("C",)
    elif name == "D":
        prefixes = ("C", "W_0")
    elif name == "Q_A":
        prefixes = ("E_",)
    elif name.startswith("P_"):
        step = name.removeprefix("P_")
        return [partner for partner in (f"C_{step}", f"E_{step}") if partner in names]
    else:
        return []
    return [partner for partner in names if partner.startswith(prefixes)]
