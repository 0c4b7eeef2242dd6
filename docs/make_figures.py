"""Makes the figures of the guide and of the answers, from the shipped checkpoints.

    python docs/make_figures.py

writes svg files to docs/figures, in under a minute. Nothing is trained.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import zoo
from datamodules import Episodes, EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import weights_figure
from zoo.files import write_figure
from zoo.hub.directory import read_card
from zoo.metrics.drawing import (
    BLACK,
    BLUE,
    DASHED,
    DIVERGING,
    FAINT,
    GRAY,
    GREEN,
    MARKERS,
    ORANGE,
    PALETTE,
    VERMILION,
    Style,
    bare,
    label_examples,
    label_loss,
    marked,
    style_of,
    styles_of,
)
from zoo.metrics.errors import half_squared_error
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.predictor import Predictor
from zoo.references import create_reference
from zoo.solvers.theory import LinearEpisodes, expected_half_mse, optimal_step_size

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
# x ~ U(-1/2, 1/2), W ~ N(0, 1), d = N = 10: what the models of linear functions were trained on.
PAPER = LinearEpisodes(d_x=10, num_context=10, input_variance=1 / 12, input_kurtosis=1.8)
NUM_EPISODES = 5_000
SHIPPED = (
    "gd_ssm.linear",
    "gd_ssm.linear_two_steps",
    "gd_ssm.linear_four_steps",
    "gd_ssm.linear_drift",
    "gd_ssm.classification",
    "gd_ssm_features.sine",
)
# Rules of bare learners, and the deep architectures whose colours they have.
RULES = {
    "gated_linear_attention": "gla",
    "delta_rule": "delta_net",
    "gated_delta_rule": "gated_delta_net",
    "delta_product": "delta_product",
    "longhorn": "longhorn",
    "mesa": "mesa_net",
    "test_time_training": "ttt_linear",
}
# Rules of the shipped bare learners by what they were trained on, and the best algorithm for that.
LEARNERS = {
    "linear": ("least_squares", ("delta_rule", "delta_product", "test_time_training")),
    "linear_noisy": ("ridge", ("longhorn", "mesa")),
    "linear_drift": ("kalman_filter", ("gated_linear_attention", "gated_delta_rule", "mesa")),
}


def tokens() -> Figure:
    """An episode as tokens, what a window makes of them, and the sum that the state becomes."""
    d = 4
    model = zoo.create_model("gd_ssm", d_x=d, d_y=d)
    assert isinstance(model, GDSSM)
    construct_gradient_descent_(model, 1.0)
    episode = drawn(EpisodeSpec(d_x=d, d_y=d, num_context=4), 1)
    x, y = episode.x, episode.y
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    axes = top.subplots()
    row = torch.stack([x[0], y[0]], dim=1).flatten(0, 1)[:-1]  # (2N + 1, d)
    heat_map(axes, row.mT, row.abs().max().item())
    names = [f"${name}_{i}$" for i in range(1, 6) for name in "xy"][:-1]
    axes.set_xticks(range(9), names)
    axes.set_title("an episode as tokens; a window of three moves in steps of two", fontsize=9)
    for i in range(4):
        left, height = 2 * i - 0.42, -0.75 - 0.35 * (i % 2)
        axes.plot([left, left + 2.84], [height, height], color=PALETTE[i], clip_on=False)
        axes.text(left + 1.42, height, f"$S_{i + 1}$", color=PALETTE[i], ha="center", va="bottom")
    axes.set_ylim(d - 0.5, -1.8)
    panels = bottom.subplots(1, 5)
    states = []
    for i in range(1, 6):  # a pair waits for the input after it
        states.append(model.observe(model.init_state(1), x[:, :i], y[:, :i]).Z[0, 0].detach())
    limit = max(state.abs().max().item() for state in states)
    for i, panel in enumerate(panels[:-1]):
        heat_map(panel, states[i + 1], limit)
        panel.set_title(f"$Z_{i + 1}$", fontsize=9)
    exact = torch.einsum("ip,iq->pq", x[0, :4], y[0, :4])
    heat_map(panels[-1], exact, limit)
    panels[-1].set_title(r"$\sum_i x_i y_i^T$", fontsize=9)
    return figure


def one_step() -> Figure:
    """The loss over the weight of y = w x, its gradient at zero, and steps of three sizes."""
    x, y = torch.tensor([-0.8, -0.3, 0.5, 0.9]), torch.tensor([-1.1, -0.5, 0.6, 1.4])
    A, B = x.square().sum().item(), (x * y).sum().item()
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    loss_axes, fit_axes = figure.subplots(1, 2)
    w = torch.linspace(-0.6, 3.2, 200)

    def loss(w: Tensor) -> Tensor:
        return 0.5 * (w[..., None] * x - y).square().sum(-1)

    loss_axes.plot(w, loss(w), color=BLACK)
    fit_axes.scatter(x, y, color=BLACK, zorder=3, label="examples")
    line = torch.linspace(-1, 1, 2)
    for eta, color in ((0.25, BLUE), (1 / A, ORANGE), (1.7 / A, GREEN)):
        step = torch.tensor(eta * B)
        loss_axes.annotate(
            "",
            (step.item(), loss(step).item()),
            (0.0, loss(torch.zeros(())).item()),
            arrowprops={"arrowstyle": "->", "color": color},
        )
        label = rf"$\eta = {eta:.2f}$, $w = {step.item():.2f}$"
        fit_axes.plot(line, step * line, color=color, label=label)
    loss_axes.set_xlabel("$w$")
    loss_axes.set_ylabel(r"$\frac{1}{2} \sum_i (w x_i - y_i)^2$")
    fit_axes.set_xlabel("$x$")
    fit_axes.set_ylabel("$y$")
    fit_axes.legend(frameon=False, fontsize=8)
    bare(loss_axes, fit_axes)
    return figure


def trained_weights() -> Figure:
    """The weights of the trained model above those of the construction."""
    return weights_figure(
        weights_beside_construction(model_of("gd_ssm.linear"), optimal_step_size(PAPER))
    )


def several_steps() -> Figure:
    """What is left of a target along an eigenvector of A, for trained models of 1, 2, 4 steps."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    spectrum_axes, left_axes = figure.subplots(1, 2, width_ratios=(1, 1.6))
    x = drawn(EpisodeSpec(), NUM_EPISODES).x[:, :-1]
    eigenvalues = torch.linalg.eigvalsh(x.mT @ x).flatten()
    spectrum_axes.hist(eigenvalues.numpy(), bins=60, density=True, color=GRAY)
    spectrum_axes.set_xlabel(r"eigenvalue $\lambda$ of $A = \sum_i x_i x_i^T$")
    spectrum_axes.set_yticks([])
    grid = torch.linspace(0, 4, 200)
    for steps, name in enumerate(("linear", "linear_two_steps", "linear_four_steps")):
        left = 1 - explained(model_of(f"gd_ssm.{name}"), grid)
        label = ("one step", "two steps", "four steps")[steps]
        left_axes.plot(grid, left, label=label, color=(BLACK, BLUE, VERMILION)[steps])
    left_axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
    left_axes.set_xlabel(r"eigenvalue $\lambda$ of $A$")
    left_axes.set_ylabel("part of the target that is left")
    left_axes.set_ylim(-1.1, 1.1)
    left_axes.legend(frameon=False, fontsize=8)
    bare(spectrum_axes, left_axes)
    return figure


def decay() -> Figure:
    """What an example counts where weights drift, and the error over the number of examples."""
    model = model_of("gd_ssm.linear_drift")
    spec = spec_of("gd_ssm.linear_drift")
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    count_axes, error_axes = figure.subplots(1, 2)
    age = torch.arange(spec.num_context)
    Lambda_bar = model.identifiable_weights().named()["Lambda_bar"].detach()
    for factor in Lambda_bar.flatten():
        count_axes.plot(age, factor**age, linewidth=0.5, alpha=0.5, **style_of("gd_ssm"))
    rho = spec.function.rho
    count_axes.plot(age, rho**age, color=VERMILION, linestyle=DASHED, label=r"drift, $\rho^k$")
    label = r"trained, $\bar\Lambda^k$ of each entry"
    count_axes.plot([], [], label=label, **style_of("gd_ssm"))
    count_axes.set_xlabel("age $k$ of an example")
    count_axes.set_ylabel("what it counts")
    count_axes.legend(frameon=False, fontsize=8)
    widths = {"d_x": spec.d_x, "d_y": spec.d_y}
    kalman = zoo.create_solver("kalman_filter", **widths, transition=rho, noise_variance=0.0)
    moments = LinearEpisodes(
        spec.d_x, spec.num_context, spec.input_variance, spec.inputs.kurtosis, rho=rho
    )
    plain = zoo.create_solver("gradient_descent", **widths, step_size=optimal_step_size(moments))
    beside = {
        "gd_ssm.linear_drift": model,
        "gradient_descent, one step": plain,
        "kalman_filter": kalman,
    }
    curves(error_axes, spec, beside, styles_of(beside))
    bare(count_axes, error_axes)
    return figure


def features() -> Figure:
    """Sine waves from ten examples: descent on learned features, and on x itself."""
    model = zoo.load("gd_ssm_features.sine")
    spec = spec_of("gd_ssm_features.sine")
    episodes = drawn(spec, 3)
    x, y = episodes.x, episodes.y
    grid = torch.linspace(-5, 5, 200)[None, :, None].expand(3, -1, -1)
    on_x = zoo.create_solver("least_squares", d_x=1, d_y=1)
    figure = Figure(figsize=(9.0, 2.8), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        for predictor, label, name in (
            (on_x, "least squares on $x$", "least_squares"),
            (model, "four steps on features", "gd_ssm_features"),
        ):
            context = x[i : i + 1, :-1], y[i : i + 1, :-1]
            state = predictor.observe(predictor.init_state(1), *context)
            with torch.no_grad():
                prediction = predictor.predict(state, grid[:1])
            axes.plot(grid[0, :, 0], prediction[0, :, 0], label=label, **style_of(name))
        axes.scatter(x[i, :-1, 0], y[i, :-1, 0], color=BLACK, s=12, zorder=3)
        axes.set_xlabel("$x$")
        bare(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def classification() -> Figure:
    """C of the trained classifier beside that of one step of softmax regression."""
    pairs = weights_beside_construction(model_of("gd_ssm.classification"), 1.0)
    # The step size of the construction is a scale that the picture does not need.
    trained, constructed = pairs["C"]
    scale = (trained * constructed).sum() / constructed.square().sum()
    return weights_figure({"Q": pairs["Q"], "C": (trained, scale * constructed)})


@torch.no_grad()
def longer_context() -> Figure:
    """Errors of models trained with ten examples when they are shown up to forty."""
    spec = EpisodeSpec(num_context=40)
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    names = ("gd_ssm.linear", "gd_ssm.linear_two_steps", "gd_ssm.linear_four_steps")
    curves(axes, spec, {name: model_of(name) for name in names}, styles_of(names))
    of_length = (
        LinearEpisodes(10, num_context, PAPER.input_variance, PAPER.input_kurtosis)
        for num_context in range(1, 41)
    )
    closed = [expected_half_mse(episodes, optimal_step_size(PAPER)) for episodes in of_length]
    label = "one step with the size for ten, closed form"
    axes.plot(range(1, 41), closed, label=label, **style_of("closed_form"))
    axes.axvline(10, color=FAINT, linewidth=1, zorder=0)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    bare(axes)
    return figure


def online_learners() -> Figure:
    """Errors of trained bare learners over the number of examples, between one sum and the best."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    for axes, (task, (best, rules)) in zip(figure.subplots(1, 3), LEARNERS.items(), strict=True):
        spec = spec_of(learner_name(task, rules[0]))
        learners = {rule: zoo.load(learner_name(task, rule)) for rule in rules}
        one_sum, floor = (create_reference(name, spec, {}) for name in ("gradient_descent", best))
        styles = {"gradient_descent": style_of("gradient_descent"), best: style_of(best)}
        for rule, marker in zip(rules, MARKERS, strict=False):
            styles[rule] = marked(style_of(RULES[rule]), marker)
        curves(axes, spec, {"gradient_descent": one_sum, **learners, best: floor}, styles)
        axes.set_title(task, fontsize=9)
        axes.set_ylim(bottom=0)
        bare(axes)
    return figure


def learner_name(task: str, rule: str) -> str:
    """The shipped `online_learner` of a rule that was trained on a task."""
    return f"online_learner.{task}_{rule}"


def drawn(spec: EpisodeSpec, num_episodes: int) -> Episodes:
    """The first test episodes of a kind."""
    return create_sampler(spec).sample(num_episodes, Generators(EVAL_SEED, "test", 0, "cpu"))


def model_of(name: str) -> GDSSM:
    """A shipped `gd_ssm`."""
    assert name in SHIPPED
    model = zoo.load(name)
    assert isinstance(model, GDSSM)
    return model


def spec_of(name: str) -> EpisodeSpec:
    """The episodes that a shipped checkpoint was trained on."""
    return EpisodeSpec(**read_card(ROOT / "checkpoints" / name).data)


@torch.no_grad()
def explained(model: GDSSM, eigenvalues: Tensor) -> Tensor:
    """The part of a target that a model predicts along an eigenvector of A, by its eigenvalue.

    What it reads of B and of A are the means of the diagonals of C_j and E_j, as in
    `effective_step_sizes`: with B^T = W A it is sum_j c_j lambda prod_(i>j) (1 - e_i lambda).
    """
    weights = model.layer.weights()
    predicted, left = torch.zeros_like(eigenvalues), torch.ones_like(eigenvalues)
    for C, E, _ in reversed(weights.steps):
        size = weights.B.Q[0, 1] * weights.D[2] * C.diagonal().mean()
        predicted += size * eigenvalues * left
        if E is not None and weights.A is not None:
            left = left * (1 - weights.A.Q[0, 0] * E.diagonal().mean() * eigenvalues)
    return predicted


@torch.no_grad()
def curves(
    axes: Axes,
    spec: EpisodeSpec,
    predictors: Mapping[str, Predictor],
    styles: Mapping[str, Style],
) -> None:
    """Draws 0.5*MSE over the number of examples."""
    episodes = drawn(spec, NUM_EPISODES)
    for label, predictor in predictors.items():
        error = half_squared_error(predictor(episodes.x, episodes.y), episodes.target).mean(0)
        axes.plot(range(len(error)), error, label=label, **styles[label])
    label_examples(axes)
    label_loss(axes)
    axes.legend(frameon=False, fontsize=8)


def heat_map(axes: Axes, values: Tensor, limit: float) -> None:
    """Draws a matrix in colours from -limit to limit."""
    axes.imshow(values.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


MAKERS: tuple[Callable[[], Figure], ...] = (
    tokens,
    one_step,
    trained_weights,
    several_steps,
    decay,
    features,
    classification,
    longer_context,
    online_learners,
)


def drawn_from() -> str:
    """Hash of the shipped weights that figures are drawn from, which each figure holds."""
    learners = [learner_name(task, r) for task, (_, rules) in LEARNERS.items() for r in rules]
    weights = [
        read_card(ROOT / "checkpoints" / name).files["model.safetensors"]
        for name in (*SHIPPED, *learners)
    ]
    return hashlib.sha256(" ".join(file.sha256 for file in weights).encode()).hexdigest()


def main(directory: Path = FIGURES) -> None:
    """Draws all figures.

    Args:
        directory: Where they are written.
    """
    # The same figure is the same file: no date, and names that do not change.
    matplotlib.rcParams.update({"svg.hashsalt": "icl-zoo", "svg.fonttype": "path"})
    for make in MAKERS:
        path = directory / f"{make.__name__}.svg"
        write_figure(path, make(), metadata={"Date": None, "Description": drawn_from()})
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
