"""Exact algorithms, told what is known of the episodes that they are measured on."""

import math
from typing import Any

import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.datamodule import EVAL_SEED
from datamodules.linear import Linear, LinearDrift, LinearPool
from datamodules.stream import Generators
from zoo.predictor import Predictor
from zoo.solvers.moment import ScheduledGradientDescent, ScheduledGradientDescentConfig
from zoo.solvers.theory import (
    LinearEpisodes,
    best_step_sizes,
    optimal_forgetting,
    optimal_half_mse,
    optimal_step_size,
)
from zoo.solvers.tuning import log_grid, tune

# Episodes that step sizes and penalties are fitted on; no comparison sees them.
TUNE_EPISODES = 2_000
# Finer values are tried between the neighbours of the best one.
REFINED = 9
# The best schedule is found for so many eigenvalues, of contexts with at most so many numbers, and
# for at most so many steps: the zeros of polynomials of higher degree are lost in rounding.
SPECTRUM_SIZE = 1_000_000
SPECTRUM_INPUTS = 20_000_000
MAX_SCHEDULE = 16


# Algorithms made for a family of functions, beside those that every run is measured with. Not
# `two_layer_network` beside ReLU networks: it trains a network at every position of every episode,
# which for 10,000 episodes of 21 positions takes nine minutes on one core.
BESIDE = {
    "linear_pool": ["dmmse"],
    "linear_drift": ["weighted_gradient_descent", "recursive_least_squares", "kalman_filter"],
    "quadratic": ["fixed_features"],
    "sine": ["fixed_features", "random_features_ridge", "knn"],
    "sparse_linear": ["lasso"],
    "relu_network": ["random_features_ridge", "knn"],
}

# The map of the inputs in which a family is linear.
FEATURES = {"quadratic": "squares", "sine": "sine_cosine"}


def linear_moments(spec: EpisodeSpec) -> LinearEpisodes | None:
    """What the closed forms need to know of the episodes, None where they do not hold."""
    function = spec.function
    if (
        not isinstance(function, Linear | LinearDrift)
        or (isinstance(function, Linear) and function.mean_scale > 0)
        or spec.inputs.kurtosis is None
        or spec.outliers.probability > 0
        or spec.distractors.count == spec.num_context
    ):
        return None
    return LinearEpisodes(
        d_x=spec.d_x,
        num_context=spec.num_context,
        input_variance=spec.input_variance,
        input_kurtosis=spec.inputs.kurtosis,
        weight_variance=function.scale**2,
        noise_variance=spec.noise**2,
        num_distractors=spec.distractors.count,
        distractor_variance=spec.distractors.scale**2,
        rho=function.rho if isinstance(function, LinearDrift) else 1.0,
    )


def closed_form_of(spec: EpisodeSpec) -> float | None:
    """Expected 0.5*MSE of the optimal gradient step, where the theory covers the episodes.

    Where weights drift it is the step that forgets, the one that a decay can learn.
    """
    moments = linear_moments(spec)
    return None if moments is None else optimal_half_mse(moments, optimal_forgetting(moments))


def has_best_schedule(spec: EpisodeSpec) -> bool:
    """Whether `best_schedule` is known: clean linear regression on independent coordinates.

    Not for `sign` inputs, where A can have fewer eigenvalues than there are steps, and not for
    tails heavier than gaussian ones, where single episodes decide about the mean and no sample of
    them says what is best.
    """
    moments = linear_moments(spec)
    return (
        moments is not None
        and moments.rho == 1
        and moments.input_kurtosis <= 3
        and spec.inputs.name != "sign"
        and moments.noise_variance == moments.num_distractors == 0
    )


def best_schedule(spec: EpisodeSpec, num_steps: int) -> tuple[ScheduledGradientDescent, float]:
    """The k steps of least expected error among all that are fixed beforehand, and that error.

    Both are estimated from the eigenvalues of many contexts. On a few thousand episodes, without
    the rare large eigenvalues, other steps can do better; so can `conjugate_gradient`, whose sizes
    depend on the context.

    Args:
        spec: Episodes for which `has_best_schedule` is true.
        num_steps: k, at most 16.

    Returns:
        The solver, and its expected 0.5*MSE at the query.

    Raises:
        ValueError: If the best schedule of these episodes or of so many steps is not known.
    """
    moments = linear_moments(spec)
    if moments is None or not has_best_schedule(spec):
        raise ValueError(f"the best schedule is not known for {spec}")
    if num_steps > MAX_SCHEDULE:
        raise ValueError(f"num_steps must be at most {MAX_SCHEDULE}, got {num_steps}")
    size = spec.d_x * (spec.num_context + 1)
    num_contexts = min(SPECTRUM_SIZE // spec.d_x, SPECTRUM_INPUTS // size)
    sampler = create_sampler(spec.model_copy(update={"d_y": 1}))  # labels play no part
    x = sampler.sample(num_contexts, Generators(EVAL_SEED, "tune", 1, "cpu")).x[:, :-1].double()
    spectrum = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0)
    sizes = best_step_sizes(num_steps, spectrum)
    left = torch.stack([1 - size * spectrum for size in sizes]).prod(0)
    variance = moments.input_variance * moments.weight_variance
    expected = 0.5 * variance * left.square().sum(1).mean().item()
    config = ScheduledGradientDescentConfig(d_x=spec.d_x, d_y=spec.d_y, step_sizes=sizes)
    return ScheduledGradientDescent(config), expected


def references_of(spec: EpisodeSpec, model: dict[str, Any]) -> dict[str, Predictor]:
    """The exact algorithms that a model is measured beside, by the names its card has them.

    `gradient_descent` is one step on the loss of these episodes; a model of k layers or steps also
    meets k of them, and a model of k steps `best_schedule_k` and `conjugate_gradient_k` where the
    former is known.
    """
    name = "gradient_descent" if spec.output == "value" else "softmax_gradient_descent"
    depth = max(model.get("num_layers", 1), model.get("num_steps", 1))
    references: dict[str, Predictor] = {
        "gradient_descent" if k == 1 else f"gradient_descent_{k}": create_reference(
            name, spec, {"num_steps": k}
        )
        for k in sorted({1, depth})
    }
    num_steps = model.get("num_steps", 1)
    if 1 < num_steps <= MAX_SCHEDULE and has_best_schedule(spec):
        references[f"best_schedule_{num_steps}"] = best_schedule(spec, num_steps)[0]
        references[f"conjugate_gradient_{num_steps}"] = create_reference(
            "conjugate_gradient", spec, {"num_steps": num_steps}
        )
    others = ["zero"]
    if spec.output == "value":
        beside = [name for name in BESIDE.get(spec.function.name, []) if _applies(name, spec)]
        others = ["least_squares", *beside, "zero"]
        if spec.noise > 0:
            others.insert(0, "ridge")
    return references | {name: create_reference(name, spec, {}) for name in others}


def _applies(name: str, spec: EpisodeSpec) -> bool:
    """Whether a solver that is optimal for clean episodes alone is told all it needs."""
    function = spec.function
    if isinstance(function, LinearDrift) and function.rho == 1 and spec.noise == 0:
        return name != "kalman_filter"  # least squares is the best predictor then
    return name not in ("kalman_filter", "dmmse") or bool(known_arguments(name, spec, {}))


def create_reference(name: str, spec: EpisodeSpec, given: dict[str, Any]) -> Predictor:
    """A solver for episodes of a kind, with `arguments_for` them.

    Raises:
        ValueError: If the name or an argument is unknown, or one is missing and neither known nor
            to be fitted.
    """
    arguments = arguments_for(name, spec, given)
    return zoo.create_solver(name, d_x=spec.d_x, d_y=spec.d_y, **arguments)


def arguments_for(name: str, spec: EpisodeSpec, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a solver beside its widths.

    What is not given is, where the episodes say it, their noise, pool and drift, and for one step
    of gradient descent, plain or forgetting, the best by the closed form; else what is best on
    episodes of its own, the split `tune`.

    Args:
        name: Registered name.
        spec: The episodes.
        given: Arguments that are settled.
    """
    arguments = {**known_arguments(name, spec, given), **given}
    grid = {key: g for key, g in grids(name, spec).items() if key not in arguments}
    return _tuned(name, spec, arguments, grid) if grid else arguments


def known_arguments(name: str, spec: EpisodeSpec, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a solver that follow from the episodes.

    Those of `ridge`, `kalman_filter` and `dmmse` are those of the best predictor there is, and so
    they are known only where weights and noise are as it assumes.
    """
    noise_variance, function = spec.noise**2, spec.function
    if name == "fixed_features" and function.name in FEATURES:
        return {"features": FEATURES[function.name]}
    moments = linear_moments(spec)
    if moments is not None and moments.rho > 0:  # else the best step is none at all
        if name == "gradient_descent" and given.get("num_steps", 1) == 1:
            return {"step_size": optimal_step_size(moments)}
        if name == "weighted_gradient_descent" and "step_size" not in given:
            forgetting = given.get("forgetting")
            if not isinstance(forgetting, int | float):  # the solver refuses what is no number
                forgetting = optimal_forgetting(moments)
            return {"step_size": optimal_step_size(moments, forgetting), "forgetting": forgetting}
    clean = (
        spec.distractors.count == 0
        and spec.outliers.probability == 0
        and spec.inputs.name != "preconditioned"
    )
    if not clean:
        return {}
    # Weights from N(0, scale^2), those of a pool over pools.
    if not isinstance(function, Linear | LinearPool | LinearDrift):
        return {}
    gaussian = isinstance(function, LinearPool) or (
        isinstance(function, Linear) and function.mean_scale == 0
    )
    if name == "ridge" and gaussian and spec.noise > 0 and given.get("forgetting", 1) == 1:
        return {"penalty": noise_variance / function.scale**2}
    if name == "dmmse" and isinstance(function, LinearPool):
        pool = function.pool(spec.d_x, spec.d_y).mT.tolist()
        return {"pool": pool, "noise_variance": noise_variance}
    if name == "kalman_filter" and (gaussian or isinstance(function, LinearDrift)):
        transition = function.rho if isinstance(function, LinearDrift) else 1.0
        variances = {"noise_variance": noise_variance, "weight_variance": function.scale**2}
        return {"transition": transition, **variances}
    return {}


def grids(name: str, spec: EpisodeSpec) -> dict[str, tuple[float, ...]]:
    """What is tried for the arguments that are not known."""
    # The largest eigenvalue of A is about the first; a step beyond 2 over it diverges.
    of_sum = 1 / (spec.input_variance * (spec.num_context + spec.d_x))
    of_example = 1 / (spec.input_variance * spec.d_x)
    steps = {"step_size": _times(of_sum, log_grid(0.02, 5.0, 25))}
    return {
        "gradient_descent": steps,
        "gradient_descent_plus_plus": {
            "step_size": _times(of_sum, log_grid(0.02, 5.0, 13)),
            "gamma": (0.0, *_times(of_sum, log_grid(0.02, 2.0, 9))),
        },
        "softmax_gradient_descent": {"step_size": _times(of_sum, log_grid(0.1, 100.0, 25))},
        "minibatch_gradient_descent": steps,
        "online_gradient_descent": {"step_size": _times(of_example, log_grid(0.02, 5.0, 25))},
        "weighted_gradient_descent": {
            "step_size": _times(of_sum, log_grid(0.1, 20.0, 31)),
            "forgetting": tuple(0.5 + 0.02 * i for i in range(26)),
        },
        "longhorn": {"step_size": _times(of_example, log_grid(0.1, 1e4, 21))},
        "ridge": {"penalty": _times(spec.input_variance, log_grid(1e-10, 1e2, 37))},
        # Without noise the error falls with the square of the penalty.
        "lasso": {"penalty": _times(spec.input_variance, log_grid(1e-10, 1e2, 37))},
        "logistic_regression": {"penalty": log_grid(1e-2, 1e2, 9)},
        "random_features_ridge": {
            "bandwidth": _times(math.sqrt(spec.input_variance * spec.d_x), log_grid(0.1, 10.0, 7)),
            "penalty": log_grid(1e-12, 1.0, 7),
        },
        "recursive_least_squares": {
            "penalty": _times(spec.input_variance, log_grid(1e-4, 1e2, 7)),
            "forgetting": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 1.0),
        },
    }.get(name, {})


def _times(factor: float, grid: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(factor * value for value in grid)


def _tuned(
    name: str, spec: EpisodeSpec, fixed: dict[str, Any], grid: dict[str, tuple[float, ...]]
) -> dict[str, Any]:
    generators = Generators(EVAL_SEED, "tune", 0, "cpu")
    x, y, target, _ = create_sampler(spec).sample(TUNE_EPISODES, generators)
    best = tune(name, grid, x, y, target, fixed=fixed)
    if len(grid) > 1:
        return best
    ((key, values),) = grid.items()
    i = values.index(best[key])
    near = values[max(0, i - 1)], values[min(len(values) - 1, i + 1)]
    return tune(name, {key: (best[key], *log_grid(*near, REFINED))}, x, y, target, fixed=fixed)
