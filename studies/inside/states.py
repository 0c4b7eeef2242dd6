"""The weights that one layer answers with, beside those of an algorithm, example by example."""

from typing import Any, NamedTuple

import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators, Split
from zoo.analysis.lens import Candidate, match
from zoo.analysis.online_rates import counterpart
from zoo.analysis.readouts import InTime, in_time, read_out
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
FORGETTING = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
RHO, OUTLIERS = 0.9, 0.1
AS_TRAINED, DRIFT, WITH_OUTLIERS = "as in training", "drift", "outliers"


class Beside(NamedTuple):
    """A layer beside its algorithm, by kind of episodes.

    Attributes:
        algorithm: Its name, with the arguments that were fitted on episodes as in training.
        nonlinear: Of all answers, the part that no weights explain, as in training.
        found: By kind of episodes.
    """

    algorithm: str
    nonlinear: float
    found: dict[str, InTime]


def kinds(spec: EpisodeSpec) -> dict[str, EpisodeSpec]:
    """The episodes of training, and such as contradict themselves."""
    drift = {"name": "linear_drift", "rho": RHO}
    return {
        AS_TRAINED: spec,
        DRIFT: EpisodeSpec(**{**spec.model_dump(), "function": drift}),
        WITH_OUTLIERS: EpisodeSpec(**{**spec.model_dump(), "outliers": {"probability": OUTLIERS}}),
    }


def beside(name: str, num_episodes: int) -> Beside:
    """Compares a checkpoint of one layer with the algorithm that its rule is.

    What the algorithm leaves open is fitted to the predictions of the layer, on episodes as in
    training, and stays for the others.
    """
    model = zoo.load(name)
    assert model.card is not None
    spec = EpisodeSpec(**model.card.data)
    fit = _drawn(spec, "tune", NUM_TO_MATCH)
    algorithm, arguments = match(candidate(model, spec), model, *fit)
    found, nonlinear = {}, 0.0
    for kind, of_kind in kinds(spec).items():
        x, y = _drawn(of_kind, "test", num_episodes)
        queries = torch.randn(
            num_episodes, QUERIES * spec.d_x, spec.d_x, generator=torch.Generator().manual_seed(0)
        )
        queries = queries * x.std()
        of_model, of_solver = (read_out(f, x, y, queries) for f in (model, algorithm))
        found[kind] = in_time(of_model.W, of_solver.W)
        if kind == AS_TRAINED:
            nonlinear = of_model.nonlinear[:, -1].mean().item()
    return Beside(_label(model, arguments), nonlinear, found)


def candidate(model: Predictor, spec: EpisodeSpec) -> Candidate:
    """The algorithm that a layer can be constructed to be, with what training chose left open."""
    name: str = OF_GD_SSM
    settled: dict[str, Any] = {}
    if isinstance(model, OnlineLearner):
        name, settled = counterpart(model)
    unit = 1 / (spec.num_context * spec.input_variance)
    grid: dict[str, tuple[float, ...]] = {"step_size": log_grid(0.1, 10, 25, unit)}
    if name == "ridge":
        grid = {"penalty": log_grid(1e-2, 1e2, 25)}
    forgets = name == OF_GD_SSM or (
        isinstance(model, OnlineLearner) and model.log_decay is not None
    )
    if forgets:
        grid["forgetting"] = FORGETTING
    return Candidate(name, settled, grid)


def _label(model: Predictor, arguments: dict[str, object]) -> str:
    name = (
        counterpart(model)[0] if isinstance(model, OnlineLearner) else "weighted_gradient_descent"
    )
    told = (f"{k}={v:.2g}" for k, v in arguments.items() if isinstance(v, float))
    return f"{name}({', '.join(told)})"


def _drawn(spec: EpisodeSpec, split: Split, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = create_sampler(spec).sample(num, Generators(EVAL_SEED, split, 0, "cpu"))
    return drawn.x, drawn.y
