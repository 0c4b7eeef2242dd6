"""What is trained: an architecture on a pool of functions."""

from typing import NamedTuple

from studies.plan import Effort, Training, Trial

POOL_SIZES = (2**2, 2**5, 2**8, 2**11, 2**13)
# At this size the learning rate is chosen, for all others too.
CHOSEN_AT = 2**8
# The grid of the study of architectures, tried for a quarter of the steps.
RATES = (0.001, 0.003, 0.01, 0.03)
# A third of the steps at a constant rate holds five of them.
VALIDATIONS = 20
MAX_STEPS = 4_500
TRIAL_STEPS = MAX_STEPS // 4


class Learner(NamedTuple):
    """An architecture.

    Attributes:
        name: On the page, and in the names of trainings.
        step_ms: Of a step, about.
        overrides: Of a training.
        heavy_tailed: Whether single episodes decide its mean error; it is measured on ten times as
            many.
    """

    name: str
    step_ms: float
    overrides: tuple[str, ...]
    heavy_tailed: bool = False

    def num_episodes(self, effort: Effort) -> int:
        """Test episodes behind its numbers."""
        return effort.num_episodes * (10 if self.heavy_tailed else 1)

    def training(self, pool_size: int, effort: Effort) -> Training:
        """A training on a pool, at the rate that is best on the pool of `CHOSEN_AT` functions."""
        return Training(
            f"{self.name}-{pool_size}",
            MAX_STEPS,
            self.step_ms,
            self._overrides(pool_size),
            validations=VALIDATIONS,
            trial=Trial(
                self.name,
                TRIAL_STEPS,
                self.step_ms,
                RATES[1:3] if effort.fewer_settings else RATES,
                self._overrides(CHOSEN_AT),
            ),
            heavy_tailed=self.heavy_tailed,
        )

    def _overrides(self, pool_size: int) -> tuple[str, ...]:
        return (
            *self.overrides,
            "data=linear_pool",
            f"data.function.pool_size={pool_size}",
            "positions=all",
            "optim.schedule=constant_then_decay",
        )


# On pairs, asked (x, 0) at every position, as in the study of architectures; a step on x_1, y_1,
# x_2, ..., the published layout, takes as long.
TRANSFORMER = Learner(
    "transformer",
    65.0,
    ("recipe=transformer", "model.num_layers=4", "model.d_model=64", "model.tokens=pairs"),
)
DELTA_NET = Learner("delta_net", 29.0, ("recipe=delta_net", "model.tokens=shifted"))
# In batches as large as those of the others. A polynomial of high degree in the examples.
GD_SSM = Learner("gd_ssm", 8.5, ("recipe=gd_ssm_four_steps", "batch_size=64"), heavy_tailed=True)
LEARNERS = (TRANSFORMER, DELTA_NET, GD_SSM)


def pool_sizes(effort: Effort) -> tuple[int, ...]:
    """Sizes of the pools that are compared."""
    return POOL_SIZES[::2] if effort.fewer_settings else POOL_SIZES


def trainings(effort: Effort) -> list[Training]:
    """Every architecture on every pool."""
    return [
        learner.training(pool_size, effort)
        for learner in LEARNERS
        for pool_size in pool_sizes(effort)
    ]
