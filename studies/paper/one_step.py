"""Figures a to d: one layer is one step of gradient descent."""

from typing import Any

from studies.claims import Claim, Found, compared, over_seeds
from studies.drawing import band, legend, new_figure, per_seed
from studies.history import metrics_of
from studies.measure import (
    Runs,
    against_gradient_descent,
    histories,
    model_of,
    of_each,
    query_loss,
    spec_of,
    suite,
)
from studies.paper.sources import FIGURE, V1
from studies.paper.swept import swept
from studies.plan import Effort, Training
from zoo.analysis.construction import interpolated, weights_beside_construction
from zoo.analysis.figures import weights_figure
from zoo.evaluation.episodes import evaluation_episodes
from zoo.metrics.alignment import alignment, query_response
from zoo.metrics.drawing import BLUE, PURPLE, VERMILION, label_loss, marked, style_of
from zoo.models.gd_ssm import GDSSM
from zoo.references import create_reference, linear_moments
from zoo.solvers.moment import GradientDescent
from zoo.solvers.theory import optimal_half_mse

# Seed by seed: figure a shows how the agreement develops.
BASE = Training("one-step", 1_500, 3.0, validations=30, together=False)
# 1 %, the distance that the training of a single seed is judged by.
LOW, HIGH = 0.99, 1.01
# Why these have one bound.
COSINE = "a cosine is at most 1"
DISTANCE = "a distance is at least 0"


def base_trainings(effort: Effort) -> list[Training]:
    """Trainings of figures a to c: the paper's setting alone."""
    return [BASE]


def loss_over_training(runs: Runs, effort: Effort) -> Found:
    """Figure a: the loss and the agreement with one gradient step in the course of training."""
    base = runs[BASE.name]
    spec = spec_of(base[0])
    moments = linear_moments(spec)
    assert moments is not None
    figure, (left, middle, right) = new_figure(3)
    steps, losses = histories(base, "val/half_mse_query")
    _, ratios = histories(base, "val/ratio_to_gradient_descent")
    band(left, steps, losses, "GD-SSM, trained", style_of("gd_ssm"))
    reference = losses[0][-1] / ratios[0][-1]
    label = "one gradient step, same episodes"
    left.axhline(reference, label=label, **style_of("gradient_descent"))
    closed_form = optimal_half_mse(moments)
    left.axhline(closed_form, label="closed form", **style_of("closed_form"))
    label_loss(left, at_place=True)
    for name, color in (("prediction_difference", BLUE), ("model_difference", VERMILION)):
        steps, values = histories(base, f"alignment/{name}")
        band(middle, steps, values, name.replace("_", " "), {"color": color})
    middle.set_ylabel("distance from one gradient step")
    steps, values = histories(base, "alignment/cosine")
    band(right, steps, values, "cosine of sensitivities", {"color": PURPLE})
    right.set_ylabel("cosine with one gradient step")
    for ax in (left, middle, right):
        ax.set_xlabel("optimizer steps")
        legend(ax)

    episodes = evaluation_episodes(spec, effort.num_episodes)
    zero, step = (
        query_response(create_reference(name, spec, {}), episodes.x, episodes.y)
        for name in ("zero", "gradient_descent")
    )
    distance = alignment(zero, step)
    same = (
        "A layer trained from a random start reproduces the outputs of one step of gradient "
        "descent: predictions, and their sensitivity to the query."
    )
    claims = [
        against_gradient_descent(
            base,
            "0.5*MSE at the query",
            claimed="A trained one-layer GD-SSM reaches the loss of one step of gradient descent.",
            source=V1,
            low=LOW,
            high=HIGH,
        ),
        Claim(
            "cosine of sensitivities",
            over_seeds(of_each(base, "model", "alignment/cosine", "value")),
            claimed=same,
            source=V1,
            low=0.99,
            one_sided=COSINE,
        ),
    ]
    for name, from_zero in (
        ("prediction_difference", distance.prediction_difference),
        ("model_difference", distance.model_difference),
    ):
        claims.append(
            compared(
                name.replace("_", " "),
                of_each(base, "model", f"alignment/{name}", "value"),
                "that of predicting zero",
                [from_zero.value] * len(base),
                claimed=same,
                source=V1,
                high=0.05,
                one_sided=DISTANCE,
            )
        )
    first = [metrics_of(run)["first_step_within_1_percent"] for run in base]
    reached = [float(step) for step in first if step is not None]
    if reached:
        quantity = f"optimizer steps until within 1 % ({len(reached)} of {len(base)} seeds)"
        claims.append(Claim(quantity, over_seeds(reached)))
    caption = "Validation loss, distances and cosine over training; mean and 95 % band over seeds."
    return Found({"loss_over_training": (figure, caption)}, claims)


def weights(runs: Runs, effort: Effort) -> Found:
    """Figure b: trained beside constructed weights."""
    base = runs[BASE.name]
    claimed = "The trained weights are those of the construction."
    claims = [
        Claim(
            f"cosine of {name} with the construction",
            over_seeds(of_each(base, "weights", f"cosine_{name}")),
            claimed=claimed,
            source=V1,
            low=0.99,
            one_sided=COSINE,
        )
        for name in ("Q", "D", "C")
    ]
    num_seeds = len(base)
    claims += [
        compared(
            "step size in Q, D and C",
            of_each(base, "weights", "step_size_C_1"),
            "best step size, closed form",
            of_each(base, "weights", "constructed_step_size"),
            claimed=claimed,
            source=V1,
            low=0.95,
            high=1.05,
        ),
        # Not judged: a random start is within the bounds already.
        compared(
            "mean of Lambda_bar, which starts near 0.989",
            of_each(base, "weights", "mean_Lambda_bar"),
            "constructed",
            [1.0] * num_seeds,
        ),
    ]
    spec = spec_of(base[0])
    episodes = evaluation_episodes(spec, effort.num_episodes)
    step = create_reference("gradient_descent", spec, {})
    assert isinstance(step, GradientDescent)
    reference = query_loss(step, episodes)
    models = [model_of(run) for run in base]
    between = []
    for model in models:
        assert isinstance(model, GDSSM)
        between.append(query_loss(interpolated(model, step.step_size, 0.5), episodes))
    called = "one step of gradient descent"
    quantity = "0.5*MSE of the mean of trained and constructed weights"
    claims.append(compared(quantity, between, called, [reference] * num_seeds))
    assert isinstance(models[0], GDSSM)
    figure = weights_figure(weights_beside_construction(models[0], step.step_size))
    caption = "Trained (top, seed 0) and constructed weights, after their scales are matched."
    return Found({"weights": (figure, caption)}, claims)


def other_scales(runs: Runs, effort: Effort) -> Found:
    """Figure c: inputs and functions larger and smaller than in training."""
    base = runs[BASE.name]
    spec = spec_of(base[0])
    figure, axes = new_figure(2)
    claims = []
    for ax, name, what in zip(
        axes, ("input_scale", "weight_scale"), ("inputs", "functions"), strict=True
    ):
        settings = suite(name).settings
        places = [float(label) for label in settings]
        specs = [setting.apply(spec) for setting in settings.values()]
        found = swept(base, specs, effort.num_episodes)
        for label, place, trained, exact, expected in zip(
            settings, places, found.trained, found.exact, found.expected, strict=True
        ):
            bounds: dict[str, Any] = {}
            if place > 1:
                words = f"On larger {what} the trained layer does what gradient descent does."
                bounds = {"claimed": words, "source": FIGURE, "low": 0.95, "high": 1.05}
            claims.append(
                compared(
                    f"0.5*MSE, {what} {label} times as large",
                    trained,
                    "one gradient step of the size for training",
                    [exact] * len(base),
                    closed_form=expected,
                    **bounds,
                )
            )
        band(ax, places, per_seed(found.trained), "GD-SSM, trained", style_of("gd_ssm"))
        ax.plot(places, found.exact, label="one step", **marked(style_of("gradient_descent")))
        ax.plot(places, found.expected, label="closed form", **style_of("closed_form"))
        ax.plot(places, found.zero, label="zero", **style_of("zero"))
        ax.set_yscale("log")
        ax.set_xlabel(f"scale of {what}, training at 1")
        label_loss(ax, at_place=True)
        legend(ax)
    caption = (
        "Test loss at scales of inputs and functions that training did not show; the gradient "
        "step keeps its size. Layer and step are both linear in the labels, so the scale of "
        "functions tests little."
    )
    return Found({"other_scales": (figure, caption)}, claims)


def _dimension(d: int) -> Training:
    steps, step_ms = {5: (1_500, 1.5), 20: (2_000, 3.0), 35: (3_000, 7.0)}.get(d, (4_000, 14.0))
    return Training(f"dimension-{d}", steps, step_ms, (f"data.d_x={d}", f"data.num_context={d}"))


def _other_dimensions(effort: Effort) -> tuple[int, ...]:
    return (5, 20) if effort.fewer_settings else (5, 20, 35, 50)


def dimension_trainings(effort: Effort) -> list[Training]:
    """Trainings of figure d: d_x = d_y = N = 10, and at other values."""
    return [BASE, *map(_dimension, _other_dimensions(effort))]


def dimensions(runs: Runs, effort: Effort) -> Found:
    """Figure d: the loss against the dimension of inputs."""
    by_dimension = {10: runs[BASE.name]}
    by_dimension |= {d: runs[_dimension(d).name] for d in _other_dimensions(effort)}
    by_dimension = dict(sorted(by_dimension.items()))
    claims = [
        against_gradient_descent(
            found,
            f"0.5*MSE at the query, d = N = {d}",
            claimed="The trained layer reaches one gradient step in every dimension.",
            source=FIGURE,
            low=LOW,
            high=HIGH,
        )
        for d, found in by_dimension.items()
    ]
    figure, (left, right) = new_figure(2)
    places = list(by_dimension)
    loss = "test/half_mse_query"
    values = [of_each(found, "model", loss, "value") for found in by_dimension.values()]
    band(left, places, per_seed(values), "GD-SSM, trained", style_of("gd_ssm"))
    exact = [
        of_each(found[:1], "references", "gradient_descent", loss, "value")[0]
        for found in by_dimension.values()
    ]
    left.plot(places, exact, label="one gradient step", **marked(style_of("gradient_descent")))
    expected = [
        metrics_of(found[0])["closed_form/half_mse_query"] for found in by_dimension.values()
    ]
    left.plot(places, expected, label="closed form", **style_of("closed_form"))
    label_loss(left, at_place=True)
    ratios = [[v / e for v in of_seeds] for of_seeds, e in zip(values, exact, strict=True)]
    band(right, places, per_seed(ratios), "trained / one gradient step", marked(style_of("gd_ssm")))
    right.axhline(1.0, **style_of("gradient_descent"))
    for ax in (left, right):
        ax.set_xlabel("d = N")
        legend(ax)
    caption = "Test loss for inputs and targets of other dimensions, as many examples as inputs."
    return Found({"dimensions": (figure, caption)}, claims)
