"""Figure g: other architectures on the same task."""

from studies.claims import Claim, Found, compared
from studies.drawing import bars, new_figure
from studies.history import metrics_of
from studies.measure import Runs, of_each
from studies.paper.more_steps import training as steps_training
from studies.paper.one_step import BASE
from studies.paper.sources import V2
from studies.plan import Effort, Training
from zoo.hub.directory import read_card
from zoo.metrics.drawing import style_of
from zoo.metrics.text import loss_label

# Tokens, rates and positions are those of `configs/recipe`, with widths for 50,000 to
# 75,000 parameters. S5 gets a state with room for the hundred numbers of sum_i y_i x_i^T.
GATING = "Gates that multiply inputs and outputs are the key inductive bias."
# Where the loss is taken; of the others at all positions.
SCORED = {"gd_ssm": "the query", "linear_transformer": "the query"}
CAPTION = (
    "Test loss of other architectures after the optimizer steps in the table, of 64 episodes each: "
    "a dot for each seed, mean with 95 % interval. These are measurements, from which nothing "
    "follows about the architectures: size, token layout, loss positions and steps differ, no rate "
    "was chosen on a grid, and whether a loss had stopped falling was not recorded. Tokens are of "
    "unit variance where the loss is at all positions. What is level with zero has learned nothing "
    "by then, which does not show that it cannot."
)
LAYERS = {1: "one layer", 2: "two layers"}
WIDTHS: dict[str, dict[int, tuple[str, ...]]] = {
    "transformer": {1: ("model.d_model=64",), 2: ("model.d_model=48",)},
    "mamba": {1: ("model.d_model=80",), 2: ("model.d_model=64",)},
    "s5": {
        1: ("model.d_model=112", "model.d_state=200"),
        2: ("model.d_model=64", "model.d_state=200"),
    },
    "linear_transformer": {1: (), 2: ()},
}
MAX_STEPS = {"transformer": 4_000, "mamba": 3_000, "s5": 4_000, "linear_transformer": 4_000}
# For each layer; about.
STEP_MS = {"transformer": 13.0, "mamba": 38.0, "s5": 13.0, "linear_transformer": 2.0}


def _training(architecture: str, num_layers: int) -> Training:
    width = WIDTHS[architecture][num_layers]
    return Training(
        f"{architecture}-{num_layers}",
        MAX_STEPS[architecture],
        STEP_MS[architecture] * num_layers,
        (f"recipe={architecture}", f"model.num_layers={num_layers}", *width),
        validations=5,
    )


def _depths(effort: Effort) -> tuple[int, ...]:
    return (1,) if effort.fewer_settings else (1, 2)


def trainings(effort: Effort) -> list[Training]:
    """The GD-SSM and the baselines, of one layer and two."""
    deep = [_training(name, depth) for name in WIDTHS for depth in _depths(effort)]
    return [BASE, *([steps_training(2)] if 2 in _depths(effort) else []), *deep]


def other_architectures(runs: Runs, effort: Effort) -> Found:
    """Figure g: what one layer and two of each architecture learn of the task."""
    rows: dict[str, list[float]] = {}
    claims: list[Claim] = []
    for num_layers in _depths(effort):
        gd_ssm = BASE if num_layers == 1 else steps_training(2)
        of_depth = {"gd_ssm": gd_ssm} | {name: _training(name, num_layers) for name in WIDTHS}
        for architecture, training in of_depth.items():
            found = runs[training.name]
            loss = of_each(found, "model", "test/half_mse_query", "value")
            step = of_each(found, "references", "gradient_descent", "test/half_mse_query", "value")
            layers = LAYERS[num_layers]
            if architecture == "gd_ssm" and num_layers == 2:
                layers = "two steps"
            num_steps = metrics_of(found[0])["steps"]
            label = f"{architecture}, {layers}"
            rows[label] = [a / b for a, b in zip(loss, step, strict=True)]
            card = read_card(found[0] / "checkpoint")
            trained = (
                f"{card.num_parameters:,} parameters, {num_steps:,} steps, "
                f"tokens {card.token_layout}, loss at {SCORED.get(architecture, 'all positions')}, "
                f"rate {card.training.optimizer['lr']:g}"
            )
            # Not judged: that a model has not learned something does not show that it cannot.
            is_plain = architecture == "s5" and num_layers == 1
            claims.append(
                compared(
                    f"0.5*MSE at the query, {label} ({trained})",
                    loss,
                    "one step of gradient descent",
                    step,
                    claimed=GATING if is_plain else "",
                    source=V2 if is_plain else "",
                )
            )
    zero = metrics_of(runs[BASE.name][0])["references"]
    rows["zero"] = [
        zero["zero"]["test/half_mse_query"]["value"]
        / zero["gradient_descent"]["test/half_mse_query"]["value"]
    ]
    figure, (ax,) = new_figure()
    figure.set_size_inches(6.4, 0.34 * len(rows) + 1.0)
    bars(ax, rows)
    ax.axvline(1.0, **style_of("gradient_descent"))
    ax.set_xlabel(f"{loss_label('half_mse', at_place=True)} / that of one gradient step")
    return Found({"other_architectures": (figure, CAPTION)}, claims)
