"""Figure h: learned step sizes, forgetting, longer contexts, all ours, and classes."""

from studies.claims import Claim, Found, compared, over_seeds
from studies.drawing import band, bars, legend, new_figure, per_seed
from studies.history import metrics_of
from studies.measure import (
    Runs,
    of_each,
    query_loss,
    spec_of,
)
from studies.paper.more_steps import numbers_of_steps
from studies.paper.more_steps import training as steps_training
from studies.paper.one_step import BASE, HIGH, LOW
from studies.paper.sources import V3
from studies.paper.swept import swept
from studies.plan import Effort, Training
from zoo.evaluation.episodes import evaluation_episodes
from zoo.metrics.drawing import BLACK, BLUE, label_examples, label_loss, marked, style_of
from zoo.metrics.text import loss_label
from zoo.references import best_schedule, create_reference, linear_moments
from zoo.solvers.moment import GradientDescent
from zoo.solvers.theory import optimal_forgetting, optimal_half_mse

LENGTHS = (2, 5, 10, 15, 20, 30, 40)
CLASSIFICATION = Training("classification", 3_000, 4.0, ("data=classification",))


def _drift(rho: str) -> Training:
    overrides = ("data=linear_drift", "data.d_y=5", f"data.function.rho={rho}", "optim.ssm_lr=0.01")
    return Training(f"drift-{rho}", 4_000, 1.5, overrides)


DRIFTS = {0.99: _drift("0.99"), 0.95: _drift("0.95")}


def _most_steps(effort: Effort) -> int:
    return max(k for k in numbers_of_steps(effort) if k <= 4)


def trainings(effort: Effort) -> list[Training]:
    """Several steps, drifting weights and classes; longer contexts are those of one step."""
    return [BASE, steps_training(_most_steps(effort)), *DRIFTS.values(), CLASSIFICATION]


def additions(runs: Runs, effort: Effort) -> Found:
    """Figure h: step sizes, forgetting, longer contexts and classes."""
    parts = [
        step_sizes(runs, effort),
        forgetting(runs, effort),
        longer_contexts(runs, effort),
        classes(runs, effort),
    ]
    figures = {name: pair for part in parts for name, pair in part.figures.items()}
    return Found(figures, [claim for part in parts for claim in part.claims])


def step_sizes(runs: Runs, effort: Effort) -> Found:
    """The step sizes that several learned steps amount to."""
    k = _most_steps(effort)
    found = runs[steps_training(k).name]
    spec = spec_of(found[0])
    best = sorted(best_schedule(spec, k)[0].step_sizes)
    shared = create_reference("gradient_descent", spec, {"num_steps": k})
    assert isinstance(shared, GradientDescent)
    figure, (ax,) = new_figure()
    ranks = list(range(1, k + 1))
    claims = []
    for letter, read, color, num_sizes in (("C", "B", BLACK, k), ("E", "A", BLUE, k - 1)):
        ranks_read = list(range(1, num_sizes + 1))
        learned = [
            [weights[f"step_size_{letter}_{rank}"] for rank in ranks_read]
            for weights in of_each(found, "weights")
        ]
        label = f"learned, where {read} is read"
        band(ax, ranks_read, learned, label, marked({"color": color}))
        for rank, sizes in zip(ranks_read, zip(*learned, strict=True), strict=True):
            quantity = f"step size of rank {rank} of {num_sizes}, {label.removeprefix('learned, ')}"
            claims.append(Claim(quantity, over_seeds(sizes)))
    ax.plot(ranks, best, label="best schedule", **marked(style_of("best_schedule"), "D"))
    ax.axhline(shared.step_size, label="best shared", **style_of("gradient_descent"))
    ax.set_xticks(ranks)
    ax.set_xlabel(f"rank of the step, k = {k}")
    ax.set_ylabel("step size")
    legend(ax)
    caption = (
        "Learned step sizes in rising order; mean and 95 % band over seeds. The two sums are read "
        "by weights of their own: other sizes than those of the best schedule can have its error."
    )
    return Found({"step_sizes": (figure, caption)}, claims)


def forgetting(runs: Runs, effort: Effort) -> Found:
    """Weights that drift: the decay of the recurrence against the best forgetting of one step."""
    figure, axes = new_figure(len(DRIFTS))
    claims: list[Claim] = []
    for ax, (rho, training) in zip(axes, DRIFTS.items(), strict=True):
        found = runs[training.name]
        spec = spec_of(found[0])
        episodes = evaluation_episodes(spec, effort.num_episodes)
        loss = of_each(found, "model", "test/half_mse_query", "value")
        moments = linear_moments(spec)
        assert moments is not None
        factor = optimal_forgetting(moments)
        rows = {"GD-SSM, trained": loss}
        for name in (
            "weighted_gradient_descent",
            "gradient_descent",
            "recursive_least_squares",
            "kalman_filter",
        ):
            rows[name.replace("_", " ")] = [query_loss(create_reference(name, spec, {}), episodes)]
        for name in ("weighted gradient descent", "kalman filter"):
            exact = rows[name] * len(found)
            expected = optimal_half_mse(moments, factor) if name.startswith("weighted") else None
            label = f"0.5*MSE at the query, drift rho = {rho:g}"
            claims.append(compared(label, loss, name, exact, closed_form=expected))
        claims.append(
            compared(
                f"mean of Lambda_bar, drift rho = {rho:g}",
                of_each(found, "weights", "mean_Lambda_bar"),
                "best forgetting factor of one step",
                [factor] * len(found),
            )
        )
        bars(ax, rows)
        ax.set_xlabel(loss_label("half_mse", at_place=True))
        ax.set_title(f"drift rho = {rho:g}", fontsize=9)
    caption = (
        "Weights that drift from one example to the next; d = 5, N = 20. Weighted gradient descent "
        "forgets by one factor; factor and step size are the best in expectation. The closed form "
        "is that expectation, the errors those of these episodes, which scatter by 2 %."
    )
    return Found({"forgetting": (figure, caption)}, claims)


def longer_contexts(runs: Runs, effort: Effort) -> Found:
    """Contexts shorter and longer than the ten examples of training."""
    base = runs[BASE.name]
    spec = spec_of(base[0])
    specs = [spec.model_copy(update={"num_context": num}) for num in LENGTHS]
    found = swept(base, specs, effort.num_episodes)
    fitted = [
        query_loss(
            create_reference("gradient_descent", changed, {}),
            evaluation_episodes(changed, effort.num_episodes),
        )
        for changed in specs
    ]
    claims = [
        compared(
            f"0.5*MSE after {num_context} examples, trained with {spec.num_context}",
            trained,
            "one gradient step of the size for training",
            [exact] * len(base),
            closed_form=expected,
        )
        for num_context, trained, exact, expected in zip(
            LENGTHS, found.trained, found.exact, found.expected, strict=True
        )
    ]
    figure, (ax,) = new_figure()
    band(ax, LENGTHS, per_seed(found.trained), "GD-SSM, trained", style_of("gd_ssm"))
    step = style_of("gradient_descent")
    ax.plot(LENGTHS, found.exact, label="one gradient step", **marked(step))
    ax.plot(LENGTHS, found.expected, label="its closed form", **style_of("closed_form"))
    ax.plot(LENGTHS, fitted, label="one step of the best size for N", **marked(step, "s"))
    ax.set_yscale("log")
    ax.set_xlabel("examples N, training at 10")
    label_loss(ax, at_place=True)
    legend(ax)
    caption = "Test loss with fewer and more examples than in training."
    return Found({"longer_contexts": (figure, caption)}, claims)


def classes(runs: Runs, effort: Effort) -> Found:
    """Softmax regression: cross entropy beside one gradient step, and the learning curve."""
    found = runs[CLASSIFICATION.name]
    loss = "test/cross_entropy_query"
    claims = [
        compared(
            "cross entropy at the query, four classes",
            of_each(found, "model", loss, "value"),
            "one step of softmax regression",
            of_each(found, "references", "gradient_descent", loss, "value"),
            claimed=(
                "The same design extends to classes: it reaches one step of softmax regression."
            ),
            source=V3,
            low=LOW,
            high=HIGH,
        ),
        compared(
            "accuracy at the query, four classes",
            of_each(found, "model", "test/accuracy_query", "value"),
            "one step of softmax regression",
            of_each(found, "references", "gradient_descent", "test/accuracy_query", "value"),
        ),
        Claim(
            "expected calibration error, four classes",
            over_seeds(of_each(found, "test/calibration_error")),
        ),
    ]
    curves = [[point["value"] for point in metrics_of(run)["curves"]["model"]] for run in found]
    exact = metrics_of(found[0])["curves"]["gradient_descent"]
    figure, (ax,) = new_figure()
    places = list(range(len(curves[0])))
    values = [point["value"] for point in exact]
    ax.plot(places, values, label="one gradient step", **style_of("gradient_descent"))
    band(ax, places, curves, "GD-SSM, trained", style_of("gd_ssm"))
    label_examples(ax)
    label_loss(ax, "cross_entropy")
    legend(ax)
    caption = "Ten dimensions, four classes; mean and 95 % band over seeds."
    return Found({"classes": (figure, caption)}, claims)
