"""What is trained: an architecture on a task, with its tokens, sizes and steps."""

from typing import NamedTuple

from studies.plan import Effort, Training, Trial

# The same grid for all; where its edge is best, it is extended.
RATES = (0.001, 0.003, 0.01, 0.03)
# Rates are tried for a quarter of the steps.
TRIAL = 0.25
# A third of the steps at a constant rate holds five of them.
VALIDATIONS = 20
SEEDS = 3
# With a curriculum there is another dimension every so many steps, up to so many.
EVERY, DIMENSIONS = 250, 10
# Episodes in a step: as usual on the task with noise and on pairs for one layer, elsewhere half as
# many, for two cores.
BATCH, SMALL_BATCH = 64, 32
TASKS = {
    "scalar": ("data=linear_scalar", "data.d_x=5", "data.num_context=20"),
    "noisy": ("data=linear_noisy",),
    "drift": ("data=linear_drift",),
    "linear": ("data=linear",),
    "scalar_10": ("data=linear_scalar",),
}


class Cell(NamedTuple):
    """An architecture on a task.

    Attributes:
        recipe: How it is trained, but for what stands here.
        task: A name of `TASKS`.
        tokens: How pairs become tokens; None where the architecture has no choice.
        max_steps: Optimizer steps.
        step_ms: Of a step of one seed at one rate, about.
        most_seeds: Seeds that are trained.
        overrides: Further settings of the recipe.
        heavy_tailed: Whether single episodes decide its mean error.
        variant: What sets it apart from another cell of the same architecture.
        trial: Share of the steps that rates are tried for.
        starts_with: Dimensions of the first training episodes; None for all from the start.
        batch_size: Episodes in a step.
    """

    recipe: str
    task: str
    tokens: str | None
    max_steps: int
    step_ms: float
    most_seeds: int = SEEDS
    overrides: tuple[str, ...] = ()
    heavy_tailed: bool = False
    variant: str = ""
    trial: float = TRIAL
    starts_with: int | None = None
    batch_size: int = SMALL_BATCH

    @property
    def architecture(self) -> str:
        """Name of the model."""
        return self.recipe.removesuffix("_one_layer")

    @property
    def name(self) -> str:
        """Of its training."""
        parts = (self.task, self.recipe, self.variant, self.tokens or "")
        return "-".join(part for part in parts if part)

    @property
    def label(self) -> str:
        """What figures and tables call it."""
        words = [word for word in (self.variant, self.tokens) if word]
        return f"{self.architecture}, {', '.join(words)}" if words else self.architecture

    def training(self, effort: Effort) -> Training:
        """By the protocol."""
        tokens = () if self.tokens is None else (f"model.tokens={self.tokens}",)
        overrides = (
            f"recipe={self.recipe}",
            *TASKS[self.task],
            *tokens,
            *self.overrides,
            *self._curriculum(effort),
            *(() if self.batch_size == BATCH else (f"batch_size={self.batch_size}",)),
            "optim.schedule=constant_then_decay",
        )
        rates = RATES[:2] if effort.fewer_settings else RATES
        steps = round(self.trial * self.max_steps)
        return Training(
            self.name,
            self.max_steps,
            self.step_ms,
            overrides,
            validations=VALIDATIONS,
            trial=Trial(self.name, steps, self.step_ms, rates, overrides, must_hold=True),
            most_seeds=self.most_seeds,
            heavy_tailed=self.heavy_tailed,
        )

    def _curriculum(self, effort: Effort) -> tuple[str, ...]:
        if self.starts_with is None:
            return ()
        every = growth_steps(effort)
        grown = f"start: {self.starts_with}, end: {DIMENSIONS}, increment: 1, every: {every}"
        return (f"+data.curriculum={{dims: {{{grown}}}}}",)


def growth_steps(effort: Effort) -> int:
    """Steps until a curriculum has another dimension."""
    return max(1, round(EVERY * effort.share))


# Milliseconds of a step of 64 episodes with 17 positions, nearly twice those of 32.
_STEP_MS = {
    "transformer": 45.0,
    "s5": 20.0,
    "mamba": 37.0,
    "gd_ssm_deep": 32.0,
    "delta_net": 28.0,
    "gated_delta_net": 40.0,
    "mesa_net": 150.0,
}
DEEP = tuple(_STEP_MS)
# Attention alone can learn on the pairs (x_i, y_i) at all positions at once. There it leaves the
# zero predictor within 250 steps, on tokens (x_i, y_(i-1)) not within 1,500 (noisy, rate 0.003).
LAYOUTS = {name: "pairs" if name == "transformer" else "shifted" for name in DEEP}
# On the three cheap tasks: optimizer steps and episodes in each.
BUDGETS = {"noisy": (3_000, BATCH), "scalar": (2_500, SMALL_BATCH), "drift": (2_500, SMALL_BATCH)}


def of_task(task: str) -> list[Cell]:
    """All nine on one of the cheap tasks, deep ones with the loss at all positions."""
    steps, batch_size = BUDGETS[task]
    share = batch_size / BATCH
    cells = [
        Cell("gd_ssm", task, None, steps, 2.0),
        Cell("linear_transformer", task, None, steps, 5.0, heavy_tailed=True),
        *(Cell(name, task, LAYOUTS[name], steps, share * _STEP_MS[name]) for name in DEEP),
    ]
    return [cell._replace(batch_size=batch_size) for cell in cells]


# The paper's task, one layer: both layouts, the loss at the query. Interleaved tokens are twice as
# many: fewer steps, and fewer episodes in each.
ONE_LAYER = {"pairs": (8_000, BATCH), "interleaved": (4_000, SMALL_BATCH)}
AT_QUERY = ("positions=last",)


def one_layer() -> list[Cell]:
    """One layer of five architectures on the paper's task."""
    return [
        Cell("gd_ssm", "linear", None, 8_000, 2.0, 5, batch_size=BATCH),
        Cell("linear_transformer_one_layer", "linear", None, 8_000, 2.0, 5, batch_size=BATCH),
        *(
            Cell(
                *(f"{name}_one_layer", "linear", tokens, ONE_LAYER[tokens][0], step_ms),
                most_seeds=5,
                overrides=AT_QUERY,
                batch_size=ONE_LAYER[tokens][1],
            )
            for name, tokens, step_ms in (
                ("transformer", "pairs", 13.0),
                ("transformer", "interleaved", 12.0),
                ("mamba", "pairs", 15.0),
                ("mamba", "interleaved", 14.0),
                ("s5", "pairs", 13.0),
                ("s5", "interleaved", 12.0),
            )
        ),
    ]


def deep() -> list[Cell]:
    """Deep models on the paper's task."""
    return [
        Cell("linear_transformer", "linear", None, 4_000, 4.0, heavy_tailed=True),
        Cell("transformer", "linear", "pairs", 4_000, 18.0),
        Cell("mamba", "linear", "shifted", 4_000, 20.0),
        Cell("gd_ssm_deep", "linear", "shifted", 4_000, 14.0),
        Cell("delta_net", "linear", "shifted", 4_000, 13.0),
        Cell("mesa_net", "linear", "shifted", 4_000, 18.0),
    ]


GROWS, GROWS_WIDE = "growing", "growing-wide"
# There are ten dimensions before the trial of rates ends, at half of the steps.
_LATER = 0.5


def with_curriculum() -> list[Cell]:
    """S5 with and without a curriculum, on vector and on scalar targets of ten dimensions."""
    vector, scalar = _s5("linear", 92, 45.0), _s5("scalar_10", 64, 32.0)
    # As wide as the model that the claim is of. All seeds of the narrower one fit into the zoo.
    wide = _s5("linear", 128, 70.0)
    return [
        vector,
        _growing(vector, 1, GROWS),
        _growing(wide, 1, GROWS_WIDE),
        scalar,
        _growing(scalar, 2, GROWS),
    ]


def _s5(task: str, d_model: int, step_ms: float) -> Cell:
    sizes = ("model.num_layers=3", f"model.d_model={d_model}", "optim.ssm_lr=0.002")
    return Cell("s5", task, "interleaved", 4_800, step_ms, overrides=sizes, batch_size=BATCH)


def _growing(cell: Cell, starts_with: int, variant: str) -> Cell:
    return cell._replace(most_seeds=5, variant=variant, trial=_LATER, starts_with=starts_with)
