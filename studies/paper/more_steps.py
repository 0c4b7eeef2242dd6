"""Figure e: several steps of gradient descent."""

from studies.claims import Claim, Found, compared, over_seeds
from studies.drawing import band, legend, new_figure, per_seed
from studies.measure import (
    Runs,
    against_gradient_descent,
    model_of,
    of_each,
    query_loss,
    spec_of,
)
from studies.paper.one_step import BASE, HIGH, LOW
from studies.paper.sources import V1
from studies.plan import Effort, Training
from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import weights_figure
from zoo.evaluation.episodes import evaluation_episodes
from zoo.metrics.drawing import label_loss, marked, style_of
from zoo.models.gd_ssm import GDSSM
from zoo.references import best_schedule, create_reference
from zoo.solvers.moment import GradientDescent

CAPTION = (
    "Test loss of k steps; mean and 95 % band over seeds. One layer keeps both sums and is read "
    "once for every step. The published code has three recurrences for two steps, which give the "
    "same polynomial of the sums; its further groups of three read tokens to which outputs were "
    "added, which is not the computation shown here."
)


def training(k: int) -> Training:
    """k steps in one layer with learned readouts.

    Two steps of the published code are a group of three recurrences, read as Z_1 + Z_1 Z_2 + Z_3:
    the same polynomial of the sums as here, with a recurrence for every product. It has no more
    steps in that sense: a further group of three reads the tokens after the outputs of the one
    before it were added to their last N. Eight are trained by their recipe, with a quarter
    of its episodes.
    """
    if k == 8:
        overrides = ("recipe=gd_ssm_eight_steps", "batch_size=128")
        return Training("steps-8", 8_000, 15.0, overrides)
    steps, step_ms = {2: (4_000, 5.0), 3: (5_000, 5.5)}.get(k, (8_000, 6.0))
    return Training(f"steps-{k}", steps, step_ms, (f"model.num_steps={k}",))


def numbers_of_steps(effort: Effort) -> tuple[int, ...]:
    """How many steps are compared, beside one."""
    return (2, 4) if effort.fewer_settings else (2, 3, 4, 8)


def trainings(effort: Effort) -> list[Training]:
    """Trainings of figure e: one step and several."""
    return [BASE, *map(training, numbers_of_steps(effort))]


def several_steps(runs: Runs, effort: Effort) -> Found:
    """Figure e: losses and weights of two and more steps."""
    several = numbers_of_steps(effort)
    by_steps = {1: runs[BASE.name]} | {k: runs[training(k).name] for k in several}
    spec = spec_of(by_steps[1][0])
    episodes = evaluation_episodes(spec, effort.num_episodes)
    claims = []
    best = []
    for k in several:
        found = by_steps[k]
        solver, expected = best_schedule(spec, k)
        best.append(query_loss(solver, episodes))
        claims.append(
            compared(
                f"0.5*MSE at the query, k = {k}",
                of_each(found, "model", "test/half_mse_query", "value"),
                f"{k} gradient steps of the best sizes",
                [best[-1]] * len(found),
                claimed="Extensions to several steps agree: they reach as many exact ones.",
                source=V1,
                low=LOW,
                high=HIGH,
                closed_form=expected,
            )
        )
    for k in several:
        # Not judged: learned sizes that differ from step to step do better than a shared one.
        claims.append(
            against_gradient_descent(
                by_steps[k],
                f"0.5*MSE at the query, k = {k}",
                reference=f"gradient_descent_{k}",
                called=f"{k} gradient steps of the best shared size",
            )
        )
    for k in several:
        least = [
            min(v for name, v in weights.items() if name.startswith("cosine_"))
            for weights in of_each(by_steps[k], "weights")
        ]
        claims.append(
            Claim(
                f"least cosine of a weight with the construction, k = {k}",
                over_seeds(least),
            )
        )
    figure, (ax,) = new_figure()
    values = [of_each(f, "model", "test/half_mse_query", "value") for f in by_steps.values()]
    band(ax, list(by_steps), per_seed(values), "GD-SSM, trained", marked(style_of("gd_ssm")))
    shared = [
        of_each(f, "references", f"gradient_descent_{k}" if k > 1 else "gradient_descent")[0]
        for k, f in by_steps.items()
    ]
    losses = [found["test/half_mse_query"]["value"] for found in shared]
    ax.plot(
        list(by_steps), losses, label="shared step", **marked(style_of("gradient_descent"), "s")
    )
    ax.plot(several, best, label="best schedule", **marked(style_of("best_schedule"), "D"))
    ax.set_xticks(list(by_steps))
    ax.set_xlabel("steps k")
    label_loss(ax, at_place=True)
    legend(ax)
    k = several[0]
    model = model_of(by_steps[k][0])
    step = create_reference("gradient_descent", spec, {"num_steps": k})
    assert isinstance(model, GDSSM)
    assert isinstance(step, GradientDescent)
    heat_maps = weights_figure(weights_beside_construction(model, step.step_size))
    return Found(
        {
            "several_steps": (
                figure,
                CAPTION,
            ),
            "several_steps_weights": (
                heat_maps,
                f"Trained (top, seed 0) and constructed weights for k = {k}.",
            ),
        },
        claims,
    )
