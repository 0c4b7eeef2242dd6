"""Models on groups: which recurrence, with which eigenvalues, and how it is trained."""

from typing import NamedTuple

from studies.plan import Effort, Training, Trial
from zoo.metrics.drawing import DOTTED, SOLID, Style, style_of

# Symbols after the start in training.
TRAINED = 40
# A third of the steps at a constant rate holds five of them.
VALIDATIONS = 20
GROUPS = {"parity": ("data=parity",), "S3": ("data=word_problem", "data.function.group=S3")}
RATES = (0.001, 0.003, 0.01, 0.03)
MAX_STEPS = 1_000
TRIAL_STEPS = MAX_STEPS // 2
# Nats for each symbol; guessing has 0.69 for parity and 1.79 for S3.
LEARNED = 0.01


class Cell(NamedTuple):
    """A model on a group.

    Attributes:
        architecture: Its recipe.
        group: On what, a name of `GROUPS`.
        negative: Whether eigenvalues are in [-1, 1], else in [0, 1].
        solves: Whether it is expected to keep track of the group's elements.
        sizes: Overrides for the sizes of the model.
        step_ms: Of a step of one seed at one rate, about.
        drawn_as: Whose colour it has.
        num_updates: Delta steps for every symbol, of `delta_product`.
    """

    architecture: str
    group: str
    negative: bool
    solves: bool
    sizes: tuple[str, ...]
    step_ms: float
    drawn_as: str
    num_updates: int | None = None

    @property
    def name(self) -> str:
        """What the page calls it."""
        updates = "" if self.num_updates is None else f", n = {self.num_updates}"
        return f"{self.architecture}{updates}, {'[-1, 1]' if self.negative else '[0, 1]'}"

    @property
    def style(self) -> Style:
        """Solid for eigenvalues in [-1, 1], dotted for those in [0, 1]."""
        return {**style_of(self.drawn_as), "linestyle": SOLID if self.negative else DOTTED}

    def training(self, effort: Effort) -> Training:
        """The model, trained at every position of sequences of `TRAINED` symbols."""
        eigenvalues = f"model.negative_eigenvalues={str(self.negative).lower()}"
        updates = () if self.num_updates is None else (f"model.num_updates={self.num_updates}",)
        of_updates = () if self.num_updates is None else (f"n{self.num_updates}",)
        words = (
            self.group,
            self.architecture,
            *of_updates,
            "signed" if self.negative else "unsigned",
        )
        overrides = (
            f"recipe={self.architecture}",
            *GROUPS[self.group],
            f"data.num_context={TRAINED}",
            "model.tokens=inputs",
            "positions=all",
            eigenvalues,
            *updates,
            *self.sizes,
            "optim.schedule=constant_then_decay",
        )
        name = "-".join(words)
        rates = RATES[1:3] if effort.fewer_settings else RATES
        return Training(
            name,
            MAX_STEPS,
            self.step_ms,
            overrides,
            validations=VALIDATIONS,
            trial=Trial(name, TRIAL_STEPS, self.step_ms, rates, overrides, learned=LEARNED),
        )


ONE_LAYER = ("model.num_layers=1", "model.d_model=32", "model.x_scale=1.0", "batch_size=32")
TWO_HEADS = (*ONE_LAYER, "model.num_heads=2", "model.d_head=16")
PARITY = tuple(
    Cell(name, "parity", negative, negative, sizes, step_ms, name)
    for name, sizes, step_ms in (("mamba", ONE_LAYER, 8.0), ("delta_net", TWO_HEADS, 6.0))
    for negative in (False, True)
)
# One symbol under the convolutions: what is written for a symbol follows from it alone.
ALONE = (*TWO_HEADS, "model.d_conv=1")
S3 = tuple(
    Cell(
        "delta_product",
        "S3",
        negative,
        negative and num_updates == 2,
        ALONE,
        8.0,
        drawn_as,
        num_updates,
    )
    for num_updates, drawn_as in ((1, "delta_net"), (2, "delta_product"))
    for negative in (False, True)
)
