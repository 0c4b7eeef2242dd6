"""The weights that one layer answers with, beside those of an algorithm, example by example."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators, Split
from zoo.analysis.lens import Candidate, match
from zoo.analysis.online_rates import counterpart
from zoo.analysis.readouts import InTime, in_time, mean_by_position, read_out
from zoo.metrics.errors import Summary
from zoo.models.online_learner import OnlineLearner
from zoo.predictor import Predictor
from zoo.solvers.tuning import log_grid

# Checkpoints of one layer and one seed.
LEARNERS = (
    "gd_ssm.linear",
    "online_learner.linear_delta_rule",
    "online_learner.linear_delta_product",
    "online_learner.linear_test_time_training",
    "online_learner.linear_noisy_longhorn",
    "online_learner.linear_noisy_mesa",
    "online_learner.linear_drift_gated_linear_attention",
    "online_learner.linear_drift_gated_delta_rule",
    "online_learner.linear_drift_mesa",
)
# What the layer computes whose products are summed up with a decay.
OF_GD_SSM = "weighted_gradient_descent"
NUM_TO_MATCH = 200
# Queries for each input dimension.
QUERIES = 4
FORGETTING = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
RHO, OUTLIERS = 0.9, 0.1
AS_TRAINED, DRIFT, WITH_OUTLIERS = "as in training", "drift", "outliers"
UPDATES = "updates"


class Beside(NamedTuple):
    """A layer beside algorithms, by kind of episodes.

    Attributes:
        algorithm: That which its rule is, with the arguments that were fitted on episodes as in
            training.
        nonlinear: Of all answers, the part that no weights explain, as in training.
        found: Beside that algorithm, by kind of episodes.
        others: Beside other ones that were fitted in the same way: the one whose weights are
            nearest after all examples, and by what cosine, by kind of episodes.
    """

    algorithm: str
    nonlinear: float
    found: dict[str, InTime]
    others: dict[str, tuple[str, Summary]]


def kinds(spec: EpisodeSpec) -> dict[str, EpisodeSpec]:
    """The episodes of training, and such as contradict themselves where training has none.

    Of `UPDATES` see `drawn`.
    """
    drift = {"name": "linear_drift", "rho": RHO}
    found = {AS_TRAINED: spec, UPDATES: spec}
    if spec.function.name != drift["name"]:
        found[DRIFT] = EpisodeSpec(**{**spec.model_dump(), "function": drift})
    outliers = {"probability": OUTLIERS}
    return found | {WITH_OUTLIERS: EpisodeSpec(**{**spec.model_dump(), "outliers": outliers})}


def beside(name: str, num_episodes: int) -> Beside:
    """Compares a checkpoint of one layer with the algorithm that its rule is, and with others.

    What an algorithm leaves open is fitted to the predictions of the layer, on episodes as in
    training, and stays for the others.
    """
    model = zoo.load(name)
    assert model.card is not None
    spec = EpisodeSpec(**model.card.data)
    fit = drawn(AS_TRAINED, spec, "tune", NUM_TO_MATCH)
    own = candidate(model, spec)
    algorithm, arguments = match(own, model, *fit)
    others = {
        _label(other.solver, of_other): solver
        for other in algorithms(spec)
        if _family(other) != _family(own)
        for solver, of_other in (match(other, model, *fit),)
    }
    found, nearest, nonlinear = {}, {}, 0.0
    for kind, of_kind in kinds(spec).items():
        x, y = drawn(kind, of_kind, "test", num_episodes)
        queries = queries_of(x)
        of_model, of_solver = (read_out(f, x, y, queries) for f in (model, algorithm))
        found[kind] = in_time(of_model.W, of_solver.W)
        cosines = {
            label: mean_by_position(in_time(of_model.W, read_out(f, x, y, queries).W).cosine)[-1]
            for label, f in others.items()
        }
        known = {label: cosine for label, cosine in cosines.items() if cosine is not None}
        label = max(known, key=lambda label: known[label].value)
        nearest[kind] = label, known[label]
        if kind == AS_TRAINED:
            nonlinear = of_model.nonlinear[:, -1].mean().item()
    return Beside(_label(own.solver, arguments), nonlinear, found, nearest)


def algorithms(spec: EpisodeSpec) -> list[Candidate]:
    """One of every family that a layer may be constructed to be, with all else left open."""
    unit = 1 / (spec.num_context * spec.input_variance)
    sizes, penalties = log_grid(0.1, 10, 9, unit), log_grid(1e-2, 1e2, 9)
    # A step of longhorn is never too large: however large, it goes to the example and no further.
    longhorn = log_grid(0.1, 1000, 13, unit)
    forgetting = {"forgetting": FORGETTING}
    return [
        Candidate(OF_GD_SSM, {}, {"step_size": sizes, **forgetting}),
        Candidate("online_gradient_descent", {}, {"step_size": sizes, **forgetting}),
        Candidate("online_gradient_descent", {"num_passes": 2}, {"step_size": sizes, **forgetting}),
        Candidate("minibatch_gradient_descent", {"window": 4}, {"step_size": sizes}),
        Candidate("longhorn", {}, {"step_size": longhorn}),
        Candidate("ridge", {}, {"penalty": penalties, **forgetting}),
    ]


def _family(algorithm: Candidate) -> tuple[str, int]:
    """What algorithms of one rule have in common."""
    return algorithm.solver, algorithm.fixed.get("num_passes", 1)


def candidate(model: Predictor, spec: EpisodeSpec) -> Candidate:
    """The algorithm that a layer can be constructed to be, with what training chose left open."""
    name: str = OF_GD_SSM
    settled: dict[str, Any] = {}
    forgets = True
    if isinstance(model, OnlineLearner):
        name, settled = counterpart(model)
        forgets = model.log_decay is not None
    same = (name, settled.get("num_passes", 1))
    (open_,) = (other.grid for other in algorithms(spec) if _family(other) == same)
    grid = {key: values for key, values in open_.items() if forgets or key != "forgetting"}
    return Candidate(name, settled, grid)


def drawn(kind: str, spec: EpisodeSpec, split: Split, num: int) -> tuple[Tensor, Tensor]:
    """x and y of episodes of a kind.

    In those of `UPDATES` the second half of the examples repeats the inputs of the first, with the
    labels that these have in another episode.
    """
    episodes = create_sampler(spec).sample(num, Generators(EVAL_SEED, split, 0, "cpu"))
    x, y = episodes.x, episodes.y
    if kind == UPDATES:
        half = (x.shape[1] - 1) // 2
        x, y = x.clone(), y.clone()
        x[:, half : 2 * half], y[:, half : 2 * half] = x[:, :half], y[:, :half].roll(1, dims=0)
    return x, y


def queries_of(x: Tensor) -> Tensor:
    """What weights are read out with: gaussian queries of the size of x (batch, length, d_x).

    Returns:
        (batch, 4 d_x, d_x), always the same directions.
    """
    num, _, d_x = x.shape
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, QUERIES * d_x, d_x, generator=generator) * x.std()


def _label(name: str, arguments: Mapping[str, Any]) -> str:
    """With all arguments."""
    return f"{name}({', '.join(f'{key}={value:.2g}' for key, value in arguments.items())})"
