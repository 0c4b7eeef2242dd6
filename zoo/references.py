"""Exact algorithms, told what is known of the episodes that they are measured on."""

from typing import Any

import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes
from datamodules.family import SymbolFamily
from datamodules.inputs import Preconditioned, Sign
from datamodules.linear import Linear, LinearDrift, LinearPool
from datamodules.recall import Recall
from datamodules.stream import EVAL_SEED, Generators
from zoo.metrics.scoring import Scoring
from zoo.predictor import Predictor
from zoo.solvers.moment import ScheduledGradientDescent, ScheduledGradientDescentConfig
from zoo.solvers.solver import EpisodeFacts, Grid, solver_of
from zoo.solvers.theory import (
    LinearEpisodes,
    best_step_sizes,
    optimal_forgetting,
    optimal_half_mse,
)
from zoo.solvers.tuning import refined, tune

# Episodes that step sizes and penalties are fitted on; no comparison sees them.
TUNE_EPISODES = 2_000
# The best schedule is found for so many eigenvalues, of contexts with at most so many numbers, and
# for at most so many steps: the zeros of polynomials of higher degree are lost in rounding.
SPECTRUM_SIZE = 1_000_000
SPECTRUM_INPUTS = 20_000_000
MAX_SCHEDULE = 16


def linear_moments(spec: EpisodeSpec) -> LinearEpisodes | None:
    """What the closed forms need to know of the episodes, None where they do not hold."""
    function = spec.function
    if (
        not isinstance(function, Linear | LinearDrift)
        or (isinstance(function, Linear) and function.mean_scale > 0)
        or spec.inputs is None
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


def facts_of(spec: EpisodeSpec) -> EpisodeFacts:
    """What solvers may know of the episodes."""
    function = spec.function
    weights = function if isinstance(function, Linear | LinearPool | LinearDrift) else None
    centred = weights is not None and spec.mean_function() is None
    return EpisodeFacts(
        d_x=spec.d_x,
        d_y=spec.d_y,
        num_context=spec.num_context,
        family=function.name,
        output=spec.output,
        input_variance=spec.input_variance,
        noise_variance=spec.noise**2,
        clean=spec.distractors.count == 0
        and spec.outliers.probability == 0
        and not isinstance(spec.inputs, Preconditioned),
        weight_variance=weights.scale**2 if weights is not None and centred else None,
        rho=function.rho if isinstance(function, LinearDrift) else None,
        linear=linear_moments(spec),
        labels_hidden=spec.labels_hidden,
        symbols=function.symbols if isinstance(function, SymbolFamily) else (),
        told=function.tensors(spec.d_x, spec.d_y),
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
        and not isinstance(spec.inputs, Sign)
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


def scoring_of(spec: EpisodeSpec) -> Scoring:
    """How predictions on such episodes are scored."""
    function = spec.function
    return Scoring(
        classes=spec.output == "logits",
        labels_hidden=spec.labels_hidden,
        are_bytes=spec.function.name == "text",
        code_book=spec.function.tensors(spec.d_x, spec.d_y).get("code_book"),
        first_query=function.first_query
        if isinstance(function, Recall) and function.num_queries > 1
        else None,
    )


def references_of(spec: EpisodeSpec, model: dict[str, Any]) -> dict[str, Predictor]:
    """The exact algorithms that a model is measured beside, by the names its card has them.

    The first is the one whose loss the model's is divided by: where labels are hidden `uniform`,
    elsewhere `gradient_descent`, one step on the loss of these episodes. There a model of k layers
    or steps also meets k of them, and a model of k steps `best_schedule_k` and
    `conjugate_gradient_k` where the former is known. Then come what the family and what solvers
    themselves say stands beside such episodes.
    """
    name = spec.function.reference
    references: dict[str, Predictor] = {}
    if spec.labels_hidden:
        references[name] = create_reference(name, spec, {})
    else:
        depth = max(model.get("num_layers", 1), model.get("num_steps", 1))
        references |= {
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
    return references | {other: create_reference(other, spec, {}) for other in beside(spec)}


def beside(spec: EpisodeSpec) -> list[str]:
    """Names of the solvers that every model on such episodes is measured beside."""
    facts = facts_of(spec)
    found = (name for name in zoo.list_solvers() if solver_of(name).stands_beside(facts))
    return [*spec.function.beside, *found]


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

    What is not given is what the solver itself knows of such episodes, else what of its grid is
    best on episodes of the split `tune`.

    Args:
        name: Registered name.
        spec: The episodes.
        given: Arguments that are settled.

    Raises:
        ValueError: If the solver learns from labels, and those of the episodes are hidden.
    """
    solver, facts = solver_of(name), facts_of(spec)
    if spec.labels_hidden and solver.reads_labels:
        offered = ", ".join([spec.function.reference, *beside(spec)])
        raise ValueError(
            f"{name} learns from labels, and those of {spec.function.name} are hidden: {offered}"
        )
    arguments = {**solver.known(facts, given), **given}
    grid = {key: values for key, values in solver.grid(facts).items() if key not in arguments}
    return _tuned(name, spec, arguments, grid) if grid else arguments


def _tuned(name: str, spec: EpisodeSpec, fixed: dict[str, Any], grid: Grid) -> dict[str, Any]:
    generators = Generators(EVAL_SEED, "tune", 0, "cpu")
    episodes = Episodes.joined(create_sampler(spec).batches(TUNE_EPISODES, generators))

    def best_of(tried: Grid) -> dict[str, Any]:
        return tune(name, tried, episodes.x, episodes.y, episodes.target, fixed=fixed)

    return refined(best_of, grid)
