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

# Settings of a run that say which one it is and what it is called, not what is trained.
NAMES = ("seed", "resume", "run_dir", "checkpoint_tag")
# Seconds that a run takes before its first and after its last step.
OVERHEAD = 12.0


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
QUICK = Effort(seeds=(0, 1), share=0.25, num_episodes=2_000, fewer_settings=True)


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
            the best of them in validation, for all seeds; empty for that of the configuration.
    """

    name: str
    max_steps: int
    step_ms: float
    overrides: tuple[str, ...] = ()
    validations: int = 10
    together: bool = True
    rates: tuple[float, ...] = ()


class Job(NamedTuple):
    """One process that trains.

    Attributes:
        training: What it trains.
        overrides: All of them, those of the effort included.
        directory: Of all seeds.
        seeds: The one or those that it trains.
        steps: Optimizer steps.
    """

    training: Training
    overrides: tuple[str, ...]
    directory: Path
    seeds: tuple[int, ...]
    steps: int

    @property
    def run_dirs(self) -> list[Path]:
        """Where the results of each seed are."""
        return [self.directory / f"seed_{seed}" for seed in self.seeds]

    @property
    def place(self) -> Path:
        """Where the process writes; several seeds have directories of their own in it."""
        return self.directory if len(self.seeds) > 1 else self.run_dirs[0]

    @property
    def log(self) -> Path:
        """The file that holds what the process printed."""
        return self.place / "log.txt"

    @property
    def command(self) -> list[str]:
        """Trains it, or goes on where an earlier process stopped."""
        place = f"hydra.run.dir='{self.place.resolve()}'"
        return [sys.executable, "train.py", *self.overrides, f"seed={self.seeds[0]}", place]

    @property
    def finished(self) -> bool:
        """Whether the runs have ended as they should."""
        return all(
            (run / "metrics.json").exists() and (run / "checkpoint" / "card.json").exists()
            for run in self.run_dirs
        )

    @property
    def seconds(self) -> float:
        """About how long all of it takes on one thread."""
        num_replicas = len(self.seeds) * max(1, len(self.training.rates))
        return OVERHEAD + num_replicas * self.steps * self.training.step_ms / 1000

    def seconds_done(self) -> float:
        """How much of that is over, as far as its output says."""
        if self.finished:
            return self.seconds
        if not self.log.exists():
            return 0.0
        # A process may be writing at this moment, in the middle of a character.
        end = self.log.read_text(errors="replace")[-2000:]
        steps = re.findall(r"^step (\d+)/", end, re.MULTILINE)
        return (self.seconds - OVERHEAD) * int(steps[-1]) / self.steps if steps else 0.0


def overrides_of(training: Training, effort: Effort) -> tuple[str, ...]:
    """What the command line of a training has, but for seed and place."""
    steps = _num_steps(training, effort)
    together = (f"seeds={len(effort.seeds)}",) if _in_one_process(training, effort) else ()
    rates = ",".join(f"{rate:g}" for rate in training.rates)
    episodes = f"eval_episodes={effort.num_validation or effort.num_episodes}"
    return (
        *training.overrides,
        *together,
        *((f"optim.lr=[{rates}]",) if rates else ()),
        f"max_steps={steps}",
        f"val_every={max(1, steps // training.validations)}",
        episodes,
        *((f"test_episodes={effort.num_episodes}",) if effort.num_validation else ()),
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
    together = _in_one_process(training, effort)
    groups = [effort.seeds] if together else [(seed,) for seed in effort.seeds]
    steps = _num_steps(training, effort)
    return [Job(training, overrides, directory, seeds, steps) for seeds in groups]


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
    """The run directories of jobs, one for each seed."""
    return [run for job in jobs for run in job.run_dirs]


def _in_one_process(training: Training, effort: Effort) -> bool:
    return training.together and len(effort.seeds) > 1


def _num_steps(training: Training, effort: Effort) -> int:
    return max(1, round(training.max_steps * effort.share))
