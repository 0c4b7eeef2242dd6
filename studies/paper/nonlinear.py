"""Figure f: functions that are not linear."""

from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from studies.claims import Claim, Found, compared
from studies.drawing import bars, new_figure
from studies.measure import Runs, model_of, of_each, predict_queries, query_loss, spec_of
from studies.paper.sources import CODE, V3
from studies.plan import Effort, Training
from zoo.evaluation.episodes import evaluation_episodes
from zoo.layers.tokens import widen
from zoo.metrics.drawing import BLACK, GRAY, style_of
from zoo.metrics.text import loss_label
from zoo.models.gd_ssm import GDSSMEmbedded, GDSSMFeatures
from zoo.predictor import Predictor
from zoo.references import create_reference
from zoo.solvers.tuning import log_grid, tune

FEATURES = ("recipe=gd_ssm_features", "data=sine")
ONE_STEP = Training("sine-one-step", 8_000, 4.5, (*FEATURES, "model.num_steps=1"))
FOUR_STEPS = Training("sine-four-steps", 8_000, 8.5, (*FEATURES, "model.num_steps=4"))
EMBEDDED = Training("sine-embedded", 8_000, 6.0, ("model=gd_ssm_embedded", "data=sine"))
# Episodes that step sizes on features are fitted on; few of them carry the mean.
FIT_EPISODES = 10_000
STEPS = {ONE_STEP: 1, FOUR_STEPS: 4, EMBEDDED: 1}
CALLED = {
    ONE_STEP: "learned features, one step",
    FOUR_STEPS: "learned features, four steps",
    EMBEDDED: "embedded tokens, one step",
}

NETWORK = "With a network before it, it extends to functions that are not linear, in a limited way"
# The paper's claims.
CLAIMS = {
    ONE_STEP: f"{NETWORK}: one step on learned features.",
    FOUR_STEPS: f"{NETWORK}: several steps reach as many exact ones.",
    EMBEDDED: "With embedded tokens and a gated unit behind it, it learns them too.",
}
# Bounds of the ratio to gradient descent on the same features and of that to zero. Judged is one
# step alone: four learned steps have sizes that differ, and their best schedule on learned features
# is not known; the embedded model is not gradient descent on its features.
BOUNDS: dict[Training, dict[str, Any]] = {ONE_STEP: {"low": 0.95, "high": 1.05}}
# On features of no use a model that has learned nothing does what gradient descent does.
OF_ZERO: dict[Training, dict[str, Any]] = {
    ONE_STEP: {"high": 0.1, "one_sided": "features must be of use, the less is left the better"}
}


def trainings(effort: Effort) -> list[Training]:
    """Learned features with one step and four, and the published variant."""
    return list(STEPS)


class OnFeatures(Predictor):
    """An algorithm on the features of a model, from the model's own start.

    With phi the model's features and f_0(x) = W_0 phi(x), the algorithm gets the pairs
    (phi(x_i), y_i - f_0(x_i)) and its prediction is added to f_0. For gradient descent that is the
    same as to start from the model's W_0.

    Args:
        model: A trained model with features.
        algorithm: An exact algorithm on features.
    """

    def __init__(self, model: GDSSMFeatures | GDSSMEmbedded, algorithm: Predictor) -> None:
        super().__init__(model.d_x, model.d_y)
        self.model, self.algorithm = model, algorithm

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        start = start_of(self.model, x)
        later: Tensor = self.algorithm(features(self.model, x), y - start)
        return start + later

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        start = start_of(self.model, x)
        phi = features(self.model, x)
        return start[:, -1] + self.algorithm.predict_query(phi, y - start)


def features(model: GDSSMFeatures | GDSSMEmbedded, x: Tensor) -> Tensor:
    """What the recurrence of a model sees of x: phi(x), or its embedding, (..., num_features).

    The embedding is linear in x: what is not linear of `gd_ssm_embedded` comes after its layer, and
    gradient descent on its features is a linear model of x.
    """
    if isinstance(model, GDSSMFeatures):
        seen: Tensor = model.phi(x)
    else:
        seen = model.embed(widen(x, x.new_zeros(*x.shape[:-1], model.d_y))[0])
    return seen


def start_of(model: GDSSMFeatures | GDSSMEmbedded, x: Tensor) -> Tensor:
    """What a model with a learned W_0 says of x before any example, else zero, (..., d_y)."""
    if isinstance(model, GDSSMFeatures):
        return model.predict(model.init_state(len(x)), x)
    return x.new_zeros(*x.shape[:-1], model.d_y)


@torch.no_grad()
def gradient_descent_on_features(
    model: GDSSMFeatures | GDSSMEmbedded, num_steps: int, spec: EpisodeSpec
) -> Predictor:
    """Steps of the best shared size, fitted on episodes that no comparison sees."""
    generators = Generators(EVAL_SEED, "tune", 0, "cpu")
    episodes = create_sampler(spec).sample(FIT_EPISODES, generators)
    phi, start = features(model, episodes.x), start_of(model, episodes.x)
    # About one over the largest eigenvalue of A is the largest step that does not diverge.
    size = 1 / (spec.num_context * phi.square().sum(-1).mean().item())
    grid = {"step_size": tuple(size * factor for factor in log_grid(1e-2, 1e2, 81))}
    name = "gradient_descent"
    fixed = {"num_steps": num_steps}
    best = tune(name, grid, phi, episodes.y - start, episodes.target - start, fixed=fixed)
    return OnFeatures(model, zoo.create_solver(name, d_x=phi.shape[-1], d_y=spec.d_y, **best))


def sine_waves(runs: Runs, effort: Effort) -> Found:
    """Figure f: sine waves, beside gradient descent on the same features."""
    spec = spec_of(runs[ONE_STEP.name][0])
    episodes = evaluation_episodes(spec, effort.num_episodes)
    zero = query_loss(create_reference("zero", spec, {}), episodes)
    plain = query_loss(create_reference("gradient_descent", spec, {}), episodes)
    claims: list[Claim] = []
    rows = {}
    shown = {}
    for training, num_steps in STEPS.items():
        found = runs[training.name]
        trained = of_each(found, "model", "test/half_mse_query", "value")
        exact = []
        for run in found:
            model = model_of(run)
            assert isinstance(model, GDSSMFeatures | GDSSMEmbedded)
            solver = gradient_descent_on_features(model, num_steps, spec)
            exact.append(query_loss(solver, episodes))
            if run == found[0]:
                shown[training] = model, solver
        called = CALLED[training]
        rows[called] = trained
        steps = "one step" if num_steps == 1 else f"{num_steps} steps"
        rows[f"gradient descent on them, {steps}, {training.name}"] = exact
        said: dict[str, Any] = {
            "claimed": CLAIMS[training],
            "source": CODE if training is EMBEDDED else V3,
        }
        quantity = f"0.5*MSE at the query, {called}"
        on_features = f"gradient descent on the same features, {steps}"
        of_zero = OF_ZERO.get(training, {})
        claims += [
            compared(quantity, trained, on_features, exact, **said, **BOUNDS.get(training, {})),
            compared(quantity, trained, "zero", [zero] * len(found), **said, **of_zero),
        ]
    rows["gradient descent on x"] = [plain]
    rows["zero"] = [zero]
    figure, (left, right) = new_figure(2)
    labels = {name: name.split(", sine-")[0] for name in rows}
    bars(left, rows)
    left.set_yticks(range(len(rows)), list(labels.values()), fontsize=7)
    left.set_xscale("log")
    left.set_xlabel(loss_label("half_mse", at_place=True))
    _draw_episode(right, spec, shown[FOUR_STEPS], shown[EMBEDDED][0])
    caption = (
        "Sine waves of random amplitude and phase from ten examples: test loss (a dot for each "
        "seed, mean with 95 % interval), and the predictions of one episode (seed 0). Embedded "
        "tokens are linear in x, and so is gradient descent on them; that model bends its output."
    )
    return Found({"sine_waves": (figure, caption)}, claims)


@torch.no_grad()
def _draw_episode(
    ax: Axes, spec: EpisodeSpec, pair: tuple[Predictor, Predictor], embedded: Predictor
) -> None:
    model, solver = pair
    num_places = 101
    longer = spec.model_copy(update={"num_context": spec.num_context + num_places - 1})
    episode = evaluation_episodes(longer, 1)
    n = spec.num_context
    context_x, context_y = episode.x[:, :n], episode.y[:, :n]
    order = episode.x[0, n:, 0].argsort()
    queries = episode.x[0, n:][order]
    ax.plot(queries[:, 0], episode.target[0, n:, 0][order], color=GRAY, label="function")
    for predictor, label, name in (
        (model, "GD-SSM, four steps", "gd_ssm_features"),
        (solver, "gradient descent on its features", "gradient_descent"),
        (embedded, "GD-SSM, embedded", "gd_ssm_embedded"),
    ):
        many_x = torch.cat([context_x.expand(num_places, -1, -1), queries[:, None]], dim=1)
        many_y = torch.cat([context_y, context_y.new_zeros(1, 1, spec.d_y)], dim=1)
        values = predict_queries(predictor, many_x, many_y.expand(num_places, -1, -1))[:, 0]
        ax.plot(queries[:, 0], values, label=label, **style_of(name))
    ax.plot(context_x[0, :, 0], context_y[0, :, 0], "o", color=BLACK, markersize=4)
    ax.set_xlabel("x")
    ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
