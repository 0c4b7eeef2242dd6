"""What figures need trained, and how much of it."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Effort:
    """How much is trained and measured.

    Attributes:
        seeds: Every training is run once for each; they follow each other without a gap.
        share: Of the optimizer steps that a training has in full.
        num_episodes: Test episodes behind every number.
        num_validation: Episodes in validation; None for as many.
        fewer_settings: Whether figures leave out some of the settings that they compare; which
            ones, each figure says.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    share: float = 1.0
    num_episodes: int = 10_000
    num_validation: int | None = None
    fewer_settings: bool = False


FULL = Effort()
QUICK = Effort(
    seeds=(0, 1), share=0.05, num_episodes=1_000, num_validation=200, fewer_settings=True
)


class Trial(NamedTuple):
    """Learning rates that are tried before all seeds train at the best.

    They are tried by a seed of their own: that which chose the rate does better at it than others.
    Where that is the smallest or the largest of them, two more beyond it are tried. Where one of
    the seeds diverges at the best, all train at the next best. A seed may leave a plateau by luck:
    with `must_hold` all train once more at the next best where most of them end more than 10 %
    above what the trial had after fewer steps. Errors below `learned` are not told apart: where
    several rates have one, the best is the middle one of them, of two the larger.

    Attributes:
        name: The start of its directory's name.
        max_steps: Optimizer steps at each rate, fewer than those of the training.
        step_ms: About how long one takes for each rate, on one thread.
        rates: Two or more.
        overrides: Of `configs/train.yaml`.
        must_hold: Whether its error must hold for the seeds too; for trials of the same task.
        learned: The error below which a model has learned the task; zero where there is always an
            error left.
    """

    name: str
    max_steps: int
    step_ms: float
    rates: tuple[float, ...]
    overrides: tuple[str, ...] = ()
    must_hold: bool = False
    learned: float = 0.0


class Training(NamedTuple):
    """A run of `train.py`, up to its seed.

    Attributes:
        name: What figures call it, and the start of its directory's name.
        max_steps: Optimizer steps in full.
        step_ms: About how long one takes for each seed and rate, on one thread; of use for the time
            left alone.
        overrides: Of `configs/train.yaml`.
        validations: How many there are on the way.
        together: Whether one process trains all seeds, which costs less than one for each and logs
            nothing but losses on the way.
        rates: Learning rates that the seeds are trained at, in the same process. What is kept is
            the best of them in validation, for all seeds; empty for one rate.
        trial: What settles that rate; None for the rate of the configuration. Trainings may share
            one.
        most_seeds: How many of the effort's seeds are trained; None for all.
        heavy_tailed: Whether single episodes decide the mean error. Ten times as many are taken, in
            validation too.
    """

    name: str
    max_steps: int
    step_ms: float
    overrides: tuple[str, ...] = ()
    validations: int = 10
    together: bool = True
    rates: tuple[float, ...] = ()
    trial: Trial | None = None
    most_seeds: int | None = None
    heavy_tailed: bool = False

    def seeds(self, effort: Effort) -> tuple[int, ...]:
        """Those of the effort that are trained."""
        return effort.seeds[: self.most_seeds]
