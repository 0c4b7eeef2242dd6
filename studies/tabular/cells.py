"""Models for tables: which architectures, and how they are trained."""

from typing import NamedTuple

from studies.plan import Effort, Training, Trial
from studies.study import Shipped

# Rates are tried for an eighth of the steps.
TRIAL = 0.125
# A third of the steps at a constant rate holds five of them.
VALIDATIONS = 20
BATCH_SIZE = 16
# Positions of a training episode: short ones first, all of them from half of the steps on.
FIRST, LAST, INCREMENT = 51, 201, 50
VALUES, CLASSES = "tabular", "tabular_classification"


class Cell(NamedTuple):
    """An architecture on the episodes of an experiment.

    Attributes:
        architecture: Its recipe.
        experiment: `VALUES` or `CLASSES`.
        max_steps: Optimizer steps.
        step_ms: Of a step of one seed at one rate, about, a mean over the lengths of episodes.
        rates: Learning rates that are tried.
        overrides: Further settings of the recipe.
    """

    architecture: str
    experiment: str
    max_steps: int
    step_ms: float
    rates: tuple[float, ...]
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its training."""
        return f"{self.experiment}-{self.architecture}"

    def training(self, effort: Effort) -> Training:
        """The model, trained at every position of episodes that grow to `LAST` positions.

        With fewer settings its rate is that of the recipe.
        """
        return Training(
            self.name,
            self.max_steps,
            self.step_ms,
            self._overrides(round(self.max_steps * effort.share)),
            validations=VALIDATIONS,
            trial=None if effort.fewer_settings else self._trial(effort),
        )

    def _trial(self, effort: Effort) -> Trial:
        """The same for fewer steps, over which episodes grow as far."""
        steps = round(TRIAL * self.max_steps)
        overrides = self._overrides(round(steps * effort.share))
        return Trial(self.name, steps, self.step_ms, self.rates, overrides)

    def _overrides(self, steps: int) -> tuple[str, ...]:
        """All but the rate, for so many steps."""
        growths = (LAST - FIRST) // INCREMENT
        every = max(1, steps // (2 * growths))
        ramp = f"{{start: {FIRST}, end: {LAST}, increment: {INCREMENT}, every: {every}}}"
        return (
            f"recipe={self.architecture}",
            f"experiment={self.experiment}",
            *self.overrides,
            f"batch_size={BATCH_SIZE}",
            f"+data.curriculum={{points: {ramp}}}",
            "optim.schedule=constant_then_decay",
            "callbacks.alignment=null",  # such functions are not learned by one step of descent
        )


MAX_STEPS = 3_600
# Attention without positions learns on the pairs (x_i, y_i), whose order it need not know, and
# reads more of them than in training.
_ON_PAIRS = ("model.tokens=pairs", "model.positions=none")
CELLS = {
    experiment: (
        Cell("delta_net", experiment, MAX_STEPS, 145.0, (0.003, 0.01, 0.03)),
        Cell("transformer", experiment, MAX_STEPS, 215.0, (0.001, 0.003, 0.01), _ON_PAIRS),
    )
    for experiment in (VALUES, CLASSES)
}
SHIPS = {
    cell.name: Shipped(f"{cell.architecture}.{cell.experiment}")
    for cells in CELLS.values()
    for cell in cells
}


def trainings(experiment: str, effort: Effort) -> list[Training]:
    """Both architectures on the episodes of an experiment."""
    return [cell.training(effort) for cell in CELLS[experiment]]
