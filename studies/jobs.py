"""What one process trains, where that is kept, and what its files say."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from studies.history import metrics_of
from studies.plan import Effort, Training, Trial

# Settings of a run that say which one it is and what it is called, not what is trained.
NAMES = ("seed", "resume", "run_dir", "checkpoint_tag")
# Seconds that a run takes before its first and after its last step.
OVERHEAD = 12.0
# The file that says that no seed of a job is left.
DIVERGED = "diverged.txt"
# Of trials, and of nothing else.
TRIAL_SEED = 1_000
# A trial is there for its errors in validation.
NUM_TESTS_OF_TRIAL = 100


class Job(NamedTuple):
    """What one process trains.

    Attributes:
        training: What it trains, or a part of it.
        overrides: All of them, those of the effort included.
        config: What they compose to.
        directory: Of all seeds.
        seeds: The one or those that it trains.
        steps: Optimizer steps.
        rates: Learning rates that each seed is trained at; empty for that of the configuration.
        of_trial: Whether it settles the rate of a training.
    """

    training: Training
    overrides: tuple[str, ...]
    config: DictConfig
    directory: Path
    seeds: tuple[int, ...]
    steps: int
    rates: tuple[float, ...] = ()
    of_trial: bool = False

    @property
    def name(self) -> str:
        """Of the training and what of it this is."""
        if self.of_trial:
            return f"{self.training.name} {len(self.rates)} rates"
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"{self.training.name} {seeds}"

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
    def typed(self) -> list[str]:
        """The words behind `python` that train it, but for the place."""
        return ["train.py", *self.overrides, f"seed={self.seeds[0]}"]

    @property
    def finished(self) -> bool:
        """Whether the runs have ended as they should."""
        return (self.place / "metrics.json").exists() and all(
            (run / "metrics.json").exists() and (run / "checkpoint" / "card.json").exists()
            for run in self.run_dirs
        )

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do: it has finished, or all rates of a trial have diverged."""
        return self.finished or (self.of_trial and (self.place / DIVERGED).exists())

    @property
    def diverged(self) -> tuple[int, ...]:
        """The seeds that have no finite loss, as the process that has ended says."""
        if (self.place / DIVERGED).exists():
            return self.seeds
        if self.finished or not (self.place / "metrics.json").exists():
            return ()
        return tuple(metrics_of(self.place).get("diverged", ()))

    @property
    def seconds(self) -> float:
        """About how long all of it takes on one thread."""
        num_replicas = len(self.seeds) * max(1, len(self.rates))
        return OVERHEAD + num_replicas * self.steps * self.training.step_ms / 1000

    def seconds_done(self) -> float:
        """How much of that is over, as far as its output says."""
        if self.ended:
            return self.seconds
        if not self.log.exists():
            return 0.0
        # A process may be writing at this moment, in the middle of a character.
        end = self.log.read_text(errors="replace")[-2000:]
        steps = re.findall(r"^step (\d+)/", end, re.MULTILINE)
        return (self.seconds - OVERHEAD) * int(steps[-1]) / self.steps if steps else 0.0


def overrides_of(training: Training, effort: Effort) -> tuple[str, ...]:
    """What the command line of a training has, but for seed and place.

    Where a trial settles the rate, that is not in it.
    """
    seeds = training.seeds(effort)
    num_tests = effort.num_episodes * _times(training)
    return (
        *training.overrides,
        *((f"seeds={len(seeds)}",) if training.together and len(seeds) > 1 else ()),
        *_rates(training.rates),
        *_lengths(training, _num_steps(training, effort), effort),
        *((f"test_episodes={num_tests}",) if effort.num_validation else ()),
    )


def jobs_of_seeds(
    training: Training, effort: Effort, runs: Path, rate: float | None = None
) -> list[Job]:
    """All seeds, in one process or in several, at a rate or at those of the training."""
    seeds, steps = training.seeds(effort), _num_steps(training, effort)
    groups = [seeds] if training.together else [(seed,) for seed in seeds]
    overrides = (*overrides_of(training, effort), *(() if rate is None else _rates((rate,))))
    config, key = _composed(overrides)
    directory = runs / f"{training.name}-{key}"
    return [
        Job(training, overrides, config, directory, group, steps, training.rates)
        for group in groups
    ]


def job_of_trial(
    training: Training, trial: Trial, rates: tuple[float, ...], effort: Effort, runs: Path
) -> Job:
    """Rates that are tried before the seeds of a training."""
    steps = _num_steps(trial, effort)
    overrides = (
        *trial.overrides,
        *_rates(rates),
        *_lengths(training, steps, effort),
        f"test_episodes={NUM_TESTS_OF_TRIAL}",
    )
    config, key = _composed(overrides)
    directory = runs / f"{trial.name}-rates-{key}"
    return Job(training, overrides, config, directory, (TRIAL_SEED,), steps, rates, True)


def errors_of_rates(job: Job) -> dict[float, float]:
    """The mean error in validation at each rate of an ended job, infinite where it diverged.

    Raises:
        ValueError: If its file is damaged or holds no such errors.
    """
    if job.ended and not job.finished:
        return dict.fromkeys(job.rates, math.inf)
    found = metrics_of(job.place).get("rates", {})
    if not found.keys() & {f"{rate:g}" for rate in job.rates}:
        path = shlex.quote(str(job.place))
        raise ValueError(f"{path}/metrics.json has none of the rates tried: rm -r {path}")
    return {
        rate: fmean(seeds.values()) if (seeds := found.get(f"{rate:g}")) else math.inf
        for rate in job.rates
    }


def seconds_of_jobs(training: Training, effort: Effort) -> list[float]:
    """About how long each job of its seeds takes on one thread, without the trial before."""
    seeds, num_rates = training.seeds(effort), max(1, len(training.rates))
    of_seed = num_rates * _num_steps(training, effort) * training.step_ms / 1000
    groups = [len(seeds)] if training.together else [1] * len(seeds)
    return [OVERHEAD + num_seeds * of_seed for num_seeds in groups]


def run_dirs(jobs: Iterable[Job]) -> list[Path]:
    """The run directories of jobs, one for each seed."""
    return [run for job in jobs for run in job.run_dirs]


def _rates(rates: tuple[float, ...]) -> tuple[str, ...]:
    if len(rates) < 2:
        return tuple(f"optim.lr={rate:g}" for rate in rates)
    return (f"optim.lr=[{','.join(f'{rate:g}' for rate in rates)}]",)


def _lengths(training: Training, steps: int, effort: Effort) -> tuple[str, ...]:
    num_validation = (effort.num_validation or effort.num_episodes) * _times(training)
    return (
        f"max_steps={steps}",
        f"val_every={max(1, steps // training.validations)}",
        f"eval_episodes={num_validation}",
        f"callbacks.figures.every_n_steps={steps}",  # drawing takes longer than the steps between
    )


def _times(training: Training) -> int:
    return 10 if training.heavy_tailed else 1


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[DictConfig, str]:
    """The configuration, and the key of all that is not a name. Composing takes a while."""
    config = compose("train", list(overrides), return_hydra_config=True)
    choice = config.hydra.runtime.choices.data
    with open_dict(config):
        del config.hydra
    kept = {name: value for name, value in config.items_ex(resolve=False) if name not in NAMES}
    text = OmegaConf.to_yaml(OmegaConf.create(kept), sort_keys=True)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    tag: str = plain["checkpoint_tag"]
    config.checkpoint_tag = tag.replace("${hydra:runtime.choices.data}", choice)
    return config, hashlib.sha256(text.encode()).hexdigest()[:8]


def _num_steps(work: Training | Trial, effort: Effort) -> int:
    return max(1, round(work.max_steps * effort.share))
