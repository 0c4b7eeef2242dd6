"""Which runs a figure needs, and where they are kept."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from hydra import compose
from omegaconf import OmegaConf

# Settings of a run that say which one it is and what it is called, not what is trained.
NAMES = ("seed", "resume", "run_dir", "checkpoint_tag")
# Seconds that a run takes before its first and after its last step.
OVERHEAD = 12.0
# How often the rates that are tried for a part of the steps may be extended, each time by two.
MOST_EXTENSIONS = 2
# A trial is there for its errors in validation.
NUM_TESTS_OF_TRIAL = 100


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
        rates: Learning rates that are tried. What is kept is the best of them in validation, for
            all seeds; empty for that of the configuration.
        trial: The share of the steps that rates are tried for, by the first seed alone, before all
            seeds train at the best. Where that is the smallest or the largest, two more beyond it
            are tried. With 1 all seeds train at all rates to the end, in the same process.
        most_seeds: How many of the effort's seeds are trained; None for all.
        heavy_tailed: Whether single episodes decide the mean error. Ten times as many are measured.
    """

    name: str
    max_steps: int
    step_ms: float
    overrides: tuple[str, ...] = ()
    validations: int = 10
    together: bool = True
    rates: tuple[float, ...] = ()
    trial: float = 1.0
    most_seeds: int | None = None
    heavy_tailed: bool = False

    def seeds(self, effort: Effort) -> tuple[int, ...]:
        """Those of the effort that are trained."""
        return effort.seeds[: self.most_seeds]


class Job(NamedTuple):
    """One process that trains.

    Attributes:
        training: What it trains.
        overrides: All of them, those of the effort included.
        directory: Of all seeds.
        seeds: The one or those that it trains.
        steps: Optimizer steps.
        rates: Learning rates that each seed is trained at; empty for that of the configuration.
    """

    training: Training
    overrides: tuple[str, ...]
    directory: Path
    seeds: tuple[int, ...]
    steps: int
    rates: tuple[float, ...] = ()

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
        num_replicas = len(self.seeds) * max(1, len(self.rates))
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
    """What the command line of a training has, but for seed and place.

    Of one whose rates are tried beforehand all but the rate.
    """
    seeds = training.seeds(effort)
    num_tests = effort.num_episodes * (10 if training.heavy_tailed else 1)
    return (
        *training.overrides,
        *((f"seeds={len(seeds)}",) if training.together and len(seeds) > 1 else ()),
        *(_rates(training.rates) if training.trial == 1 else ()),
        *_lengths(training, _num_steps(training, effort), effort),
        *((f"test_episodes={num_tests}",) if effort.num_validation else ()),
    )


def stages(training: Training, effort: Effort, runs: Path) -> Iterator[list[Job]]:
    """The jobs of a training, in the order in which they are done.

    The next are known once those before are finished: rates that are tried, then perhaps more of
    them, then all seeds at the best. Those of the last stage are what is measured.

    Runs are kept in `runs/NAME-KEY/seed_SEED`. The key is that of the whole configuration but the
    seed, so what was trained with other settings, or before a default changed, is not found.

    Needs Hydra initialised with the directory `configs`.
    """
    overrides, seeds = overrides_of(training, effort), training.seeds(effort)
    if training.trial < 1:
        errors: dict[float, float] = {}
        rates = training.rates
        while rates:
            trial = _trial(training, effort, runs, rates)
            yield [trial]
            errors |= errors_of_rates(trial)
            rates = _beyond(errors, training, effort)
        overrides = (*overrides, *_rates((min(errors, key=errors.__getitem__),)))
    groups = [seeds] if training.together else [(seed,) for seed in seeds]
    directory = runs / f"{training.name}-{_key(overrides)}"
    steps = _num_steps(training, effort)
    rates = training.rates if training.trial == 1 else ()
    yield [Job(training, overrides, directory, group, steps, rates) for group in groups]


def finished_jobs(training: Training, effort: Effort, runs: Path) -> list[Job] | None:
    """The jobs of the last stage, which are measured; None while something is not finished."""
    jobs: list[Job] = []
    for jobs in stages(training, effort, runs):
        if not all(job.finished for job in jobs):
            return None
    return jobs


def trials_of(training: Training, effort: Effort, runs: Path) -> dict[float, float]:
    """The errors in validation at all rates that were tried beforehand; empty where none were."""
    errors: dict[float, float] = {}
    if training.trial < 1:
        for jobs in stages(training, effort, runs):
            if jobs[0].rates:
                errors |= errors_of_rates(jobs[0])
    return dict(sorted(errors.items()))


def errors_of_rates(trial: Job) -> dict[float, float]:
    """The error in validation at each rate of a trial, infinite where it diverged."""
    found = json.loads((trial.place / "metrics.json").read_text())["rates"]
    return {
        rate: fmean(seeds.values()) if (seeds := found.get(f"{rate:g}")) else math.inf
        for rate in trial.rates
    }


def seconds_of_training(training: Training, effort: Effort) -> float:
    """About how long it takes on one thread; rates that may have to be added are not in it."""
    steps = _num_steps(training, effort)
    replicas = len(training.seeds(effort)) * (len(training.rates) or 1)
    seconds = OVERHEAD
    if training.trial < 1:
        replicas = len(training.seeds(effort))
        seconds += OVERHEAD + len(training.rates) * training.trial * steps * training.step_ms / 1000
    return seconds + replicas * steps * training.step_ms / 1000


def run_dirs(jobs: Iterable[Job]) -> list[Path]:
    """The run directories of jobs, one for each seed."""
    return [run for job in jobs for run in job.run_dirs]


def _trial(training: Training, effort: Effort, runs: Path, rates: tuple[float, ...]) -> Job:
    """The first seed at several rates, for a part of the steps."""
    steps = max(1, round(training.trial * _num_steps(training, effort)))
    overrides = (
        *training.overrides,
        *_rates(rates),
        *_lengths(training, steps, effort),
        f"test_episodes={NUM_TESTS_OF_TRIAL}",
    )
    directory = runs / f"{training.name}-rates-{_key(overrides)}"
    return Job(training, overrides, directory, effort.seeds[:1], steps, rates)


def _beyond(errors: dict[float, float], training: Training, effort: Effort) -> tuple[float, ...]:
    """Two rates beyond the best of those that were tried, if that is at the edge."""
    rates = sorted(errors)
    best = min(errors, key=errors.__getitem__)
    extended = (len(rates) - len(training.rates)) / 2
    if effort.fewer_settings or extended >= MOST_EXTENSIONS:
        return ()
    for edge, inner in ((rates[0], rates[1]), (rates[-1], rates[-2])):
        if best == edge:
            # To two digits: what is typed, tabulated and kept is the same number.
            return tuple(float(f"{edge * (edge / inner) ** k:.2g}") for k in (1, 2))
    return ()


def _rates(rates: tuple[float, ...]) -> tuple[str, ...]:
    if len(rates) < 2:
        return tuple(f"optim.lr={rate:g}" for rate in rates)
    return (f"optim.lr=[{','.join(f'{rate:g}' for rate in rates)}]",)


def _lengths(training: Training, steps: int, effort: Effort) -> tuple[str, ...]:
    return (
        f"max_steps={steps}",
        f"val_every={max(1, steps // training.validations)}",
        f"eval_episodes={effort.num_validation or effort.num_episodes}",
        f"callbacks.figures.every_n_steps={steps}",  # drawing takes longer than the steps between
    )


def _key(overrides: tuple[str, ...]) -> str:
    config = compose("train", list(overrides))
    kept = {name: value for name, value in config.items_ex(resolve=False) if name not in NAMES}
    text = OmegaConf.to_yaml(OmegaConf.create(kept), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _num_steps(training: Training, effort: Effort) -> int:
    return max(1, round(training.max_steps * effort.share))
