"""Bits per byte of deep models of one size, beside n-grams."""

from typing import NamedTuple

from matplotlib.figure import Figure

from studies.claims import Claim, Found, OverSeeds
from studies.drawing import legend, new_figure
from studies.history import history, metrics_of
from studies.measure import Runs
from studies.plan import Effort, Training
from zoo.hub.directory import read_card
from zoo.metrics.drawing import style_of
from zoo.metrics.text import loss_label

LOSS = "bits_per_byte_all"
MAX_STEPS = 1_200
# A third of the steps at a constant rate holds four of them.
VALIDATIONS = 20
NGRAMS = ("fitted_ngrams", "context_ngrams")


class Model(NamedTuple):
    """A deep model of about 90 thousand parameters.

    Attributes:
        name: Of its architecture and recipe.
        rate: The best that was tried for a quarter of the steps.
        step_ms: Of a step, about.
        sizes: Overrides for its sizes.
        recurrent: Whether the parameters of its recurrence train at the same rate.
    """

    name: str
    rate: float
    step_ms: float
    sizes: tuple[str, ...] = ()
    recurrent: bool = False

    def training(self) -> Training:
        """What is measured."""
        recurrent = (f"optim.ssm_lr={self.rate:g}",) if self.recurrent else ()
        return Training(
            self.name,
            MAX_STEPS,
            self.step_ms,
            (
                f"recipe={self.name}",
                "experiment=text",
                *self.sizes,
                "optim.schedule=constant_then_decay",
                f"optim.lr={self.rate:g}",
                *recurrent,
            ),
            validations=VALIDATIONS,
        )


# Rates were tried with one seed, max_steps=300 and optim.lr=[...]: 0.001, 0.003, 0.01 and, where
# 0.01 was the best of these, 0.03 (0.1 as well for s5); 0.0015, 0.005 and 0.015 of the delta nets,
# 0.005 and 0.015 of mesa_net. Of gd_ssm_deep 0.03 was not tried.
MODELS = (
    Model("transformer", 0.01, 400.0, ("model.num_layers=2",)),
    Model("s5", 0.03, 300.0, ("model.num_layers=3",), recurrent=True),
    Model("mamba", 0.01, 600.0, ("model.d_model=48", "model.num_layers=3")),
    Model("gd_ssm_deep", 0.01, 900.0, ("model.d_model=56", "model.d_head=14")),
    Model("delta_net", 0.015, 600.0),
    Model("gated_delta_net", 0.015, 700.0, ("model.expand_v=1",)),
    Model("mesa_net", 0.015, 1_000.0),
)


def trainings(effort: Effort) -> list[Training]:
    """Every model."""
    return [model.training() for model in MODELS]


def bits_per_byte(runs: Runs, effort: Effort) -> Found:
    """The figure: bits per byte in the course of training and at its end."""
    claims = []
    for model in MODELS:
        (run,) = runs[model.name]
        card = read_card(run / "checkpoint")
        label = (
            f"{model.name} ({card.num_parameters:,} parameters, "
            f"{card.training.wall_time_s / 60:.0f} min)"
        )
        claims.append(_measured(label, metrics_of(run)["model"]))
    references = metrics_of(runs[MODELS[0].name][0])["references"]
    claims += [_measured(name, references[name]) for name in NGRAMS]
    return Found({"bits": (_drawn(runs), CAPTION)}, claims)


CAPTION = (
    "Bits per byte in validation in the course of training, one seed; the levels are those of "
    "n-grams on the test stretch, fitted to the training stretch or counted in the window alone. A "
    "measurement: nothing follows beyond this size and this many bytes."
)


def _measured(label: str, numbers: dict[str, dict[str, float]]) -> Claim:
    found = numbers[f"test/{LOSS}"]
    return Claim(f"bits per byte, {label}", OverSeeds(found["value"], found["ci95"], 1))


def _drawn(runs: Runs) -> Figure:
    figure, (ax,) = new_figure()
    figure.set_size_inches(6.4, 4.4)
    for model in MODELS:
        (run,) = runs[model.name]
        values = history(run, f"val/{LOSS}")
        ax.plot(list(values), list(values.values()), label=model.name, **style_of(model.name))
    references = metrics_of(runs[MODELS[0].name][0])["references"]
    for name in NGRAMS:
        ax.axhline(references[name][f"test/{LOSS}"]["value"], label=name, **style_of(name))
    ax.set_xlabel("optimizer steps of 16 windows of 256 bytes")
    ax.set_ylabel(f"validation, {loss_label(LOSS)}")
    legend(ax)
    return figure
