"""Which runs a figure needs, and where they are kept."""

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hydra import compose
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
# Settings of a run that say which one it is and what it is called, not what is trained.
NAMES = ("seed", "resume", "run_dir", "checkpoint_tag")
# Seconds that a run takes before its first and after its last step.
OVERHEAD = 12.0


@dataclass(frozen=True)
class Effort:
    """How much is trained and measured.

    Attributes:
        seeds: Every training is run once for each.
        share: Of the optimizer steps that a training has in full.
        num_episodes: Test episodes behind every number.
        dimensions: d_x = d_y = N beside 10.
        num_steps: Steps of gradient descent beside one.
        depths: Layers of the baselines.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    share: float = 1.0
    num_episodes: int = 10_000
    dimensions: tuple[int, ...] = (5, 20, 35, 50)
    num_steps: tuple[int, ...] = (2, 3, 4, 8)
    depths: tuple[int, ...] = (1, 2)


FULL = Effort()
QUICK = Effort(
    seeds=(0, 1),
    share=0.25,
    num_episodes=2_000,
    dimensions=(5, 20),
    num_steps=(2, 4),
    depths=(1,),
)


class Training(NamedTuple):
    """A run of `train.py`, up to its seed.

    Attributes:
        name: What figures call it, and the start of its directory's name.
        max_steps: Optimizer steps in full.
        step_ms: About how long one takes on one thread; of use for the time left alone.
        overrides: Of `configs/train.yaml`.
        validations: How many there are on the way.
    """

    name: str
    max_steps: int
    step_ms: float
    overrides: tuple[str, ...] = ()
    validations: int = 10


class Job(NamedTuple):
    """One process that trains.

    Attributes:
        training: What it trains.
        overrides: All of them, those of the effort included.
        directory: Of all seeds.
        seed: The one that it trains.
        steps: Optimizer steps.
    """

    training: Training
    overrides: tuple[str, ...]
    directory: Path
    seed: int
    steps: int

    @property
    def run_dir(self) -> Path:
        """Where it writes."""
        return self.directory / f"seed_{self.seed}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.run_dir / "log.txt"

    @property
    def command(self) -> list[str]:
        """Trains it, or goes on where an earlier process stopped."""
        place = f"hydra.run.dir='{self.run_dir.resolve()}'"
        return [sys.executable, "train.py", *self.overrides, f"seed={self.seed}", place]

    @property
    def finished(self) -> bool:
        """Whether the run has ended as it should."""
        return (self.run_dir / "metrics.json").exists() and (
            self.run_dir / "checkpoint" / "card.json"
        ).exists()

    @property
    def seconds(self) -> float:
        """About how long all of it takes on one thread."""
        return OVERHEAD + self.steps * self.training.step_ms / 1000

    def seconds_done(self) -> float:
        """How much of that is over, as far as its output says."""
        if self.finished:
            return self.seconds
        if not self.log.exists():
            return 0.0
        steps = re.findall(r"^step (\d+)/", self.log.read_text()[-2000:], re.MULTILINE)
        return int(steps[-1]) * self.training.step_ms / 1000 if steps else 0.0


def overrides_of(training: Training, effort: Effort) -> tuple[str, ...]:
    """What the command line of a training has, but for seed and place."""
    steps = _num_steps(training, effort)
    return (
        *training.overrides,
        f"max_steps={steps}",
        f"val_every={max(1, steps // training.validations)}",
        f"eval_episodes={effort.num_episodes}",
        f"callbacks.figures.every_n_steps={steps}",  # drawing takes longer than the steps between
    )


def jobs_of(training: Training, effort: Effort, runs: Path) -> list[Job]:
    """The processes that train it, in the order of their seeds.

    Runs are kept in `runs/NAME-KEY/seed_SEED`. The key is that of the whole configuration but the
    seed, so what was trained with other settings, or before a default changed, is not found.

    Needs Hydra initialised with the directory `configs`.
    """
    overrides = overrides_of(training, effort)
    config = compose("train", list(overrides))
    kept = {name: value for name, value in config.items_ex(resolve=False) if name not in NAMES}
    text = OmegaConf.to_yaml(OmegaConf.create(kept), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    directory = runs / f"{training.name}-{key}"
    steps = _num_steps(training, effort)
    return [Job(training, overrides, directory, seed, steps) for seed in effort.seeds]


def plan(trainings: Iterable[Training], effort: Effort, runs: Path) -> dict[str, list[Job]]:
    """The processes of each training by its name; figures share trainings.

    Raises:
        ValueError: If two trainings have one name.
    """
    by_name: dict[str, Training] = {}
    for training in trainings:
        if by_name.setdefault(training.name, training) != training:
            raise ValueError(f"two trainings are called {training.name!r}")
    return {name: jobs_of(training, effort, runs) for name, training in by_name.items()}


def run_dirs(jobs: Iterable[Job]) -> list[Path]:
    """One directory for each seed."""
    return [job.run_dir for job in jobs]


def _num_steps(training: Training, effort: Effort) -> int:
    return max(1, round(training.max_steps * effort.share))
