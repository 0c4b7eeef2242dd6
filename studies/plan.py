"""Which runs a figure needs, and where they are kept."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from studies.history import history, metrics_of

# Settings of a run that say which one it is and what it is called, not what is trained.
NAMES = ("seed", "resume", "run_dir", "checkpoint_tag")
# Seconds that a run takes before its first and after its last step.
OVERHEAD = 12.0
# How often the rates that are tried for a part of the steps may be extended, each time by two.
MOST_EXTENSIONS = 2
# The file that says that no seed of a job is left.
DIVERGED = "diverged.txt"
# Of trials, and of nothing else.
TRIAL_SEED = 1_000
# Validation errors that are less apart, by this factor, are taken for equal.
NEAR = 1.1
# What a run logs of its error, of models of values.
VALIDATED = "val/half_mse_query"
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


class Trial(NamedTuple):
    """Learning rates that are tried before all seeds train at the best.

    They are tried by a seed of their own: that which chose the rate does better at it than others.
    Where that is the smallest or the largest of them, two more beyond it are tried. Where one of
    the seeds diverges at the best, all train at the next best. A seed may leave a plateau by luck:
    with `must_hold` all train once more at the next best where most of them end more than 10 %
    above what the trial had after fewer steps.

    Attributes:
        name: The start of its directory's name.
        max_steps: Optimizer steps at each rate, fewer than those of the training.
        step_ms: About how long one takes for each rate, on one thread.
        rates: Two or more.
        overrides: Of `configs/train.yaml`.
        must_hold: Whether its error must hold for the seeds too; for trials of the same task.
    """

    name: str
    max_steps: int
    step_ms: float
    rates: tuple[float, ...]
    overrides: tuple[str, ...] = ()
    must_hold: bool = False


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
        if self.finished:
            return self.seconds
        if not self.log.exists():
            return 0.0
        # A process may be writing at this moment, in the middle of a character.
        end = self.log.read_text(errors="replace")[-2000:]
        steps = re.findall(r"^step (\d+)/", end, re.MULTILINE)
        return (self.seconds - OVERHEAD) * int(steps[-1]) / self.steps if steps else 0.0


class GivenUp(NamedTuple):
    """A rate that was better in the trial than the one that was kept.

    Attributes:
        jobs: What trained all seeds at it.
        diverged: How many of the seeds did.
        above: How many ended clearly above the error of the trial; zero where one has diverged.
        ended: The mean error in validation that they ended with; None where one has diverged.
    """

    jobs: list[Job]
    diverged: int
    above: int
    ended: float | None = None


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


def stages(training: Training, effort: Effort, runs: Path) -> Iterator[list[Job]]:
    """The jobs of a training, in the order in which they are done.

    The next are known once those before are finished: rates that are tried, then perhaps more of
    them, then all seeds at the best, or where one of them diverged at the next best, which may be
    at the edge of those that were tried, so that more are. Those of the last stage are what is
    measured.

    Runs are kept in `runs/NAME-KEY/seed_SEED`. The key is that of the whole configuration but the
    seed, so what was trained with other settings, or before a default changed, is not found.

    Needs Hydra initialised with the directory `configs`.
    """
    for jobs, _ in _stages(training, effort, runs):
        yield jobs


def rates_given_up(training: Training, effort: Effort, runs: Path) -> dict[float, GivenUp]:
    """Rates that were better in the trial, at which seeds then diverged or fell short of it.

    Needs the trial of the training to have ended.
    """
    *_, (_, given_up) = _stages(training, effort, runs)
    return given_up


def _stages(
    training: Training, effort: Effort, runs: Path
) -> Iterator[tuple[list[Job], dict[float, GivenUp]]]:
    """The stages, each with the rates that have been given up by then.

    Whoever walks through them again comes the same way: what is decided depends on nothing but
    what had ended by then.
    """
    overrides = overrides_of(training, effort)
    trial = training.trial
    if trial is None:
        yield _seeds(training, overrides, effort, runs), {}
        return
    errors: dict[float, float] = {}
    given_up: dict[float, GivenUp] = {}
    best, left, rates, must_hold = math.nan, set[float](), trial.rates, trial.must_hold
    while True:
        if rates:
            job = _trial(training, trial, rates, effort, runs)
            yield [job], given_up
            errors |= errors_of_rates(job)
        else:
            jobs = _seeds(training, (*overrides, *_rates((best,))), effort, runs)
            lost = _lost(jobs, errors[best] if must_hold else math.inf) if len(left) > 1 else None
            if lost is None:
                yield jobs, given_up
                return
            given_up[best] = lost
            must_hold = must_hold and lost.diverged > 0
        left = {rate for rate, e in errors.items() if math.isfinite(e)} - given_up.keys()
        # Where all have diverged, one smaller than all may not.
        best = min(left or errors, key=errors.__getitem__)
        rates = _beyond(best, errors, trial, effort)


def _lost(jobs: list[Job], error: float) -> GivenUp | None:
    """Why a rate is given up whose error in the trial was this; None if it is not."""
    diverged = sum(len(job.diverged) for job in jobs)
    ended = [] if diverged else _ended(jobs)
    above = sum(one > NEAR * error for one in ended)
    if not diverged and above <= len(run_dirs(jobs)) / 2:
        return None
    return GivenUp(jobs, diverged, above, fmean(ended) if ended else None)


def finished_jobs(training: Training, effort: Effort, runs: Path) -> list[Job] | None:
    """The jobs of the last stage, which are measured; None while something is not finished."""
    jobs: list[Job] = []
    for jobs in stages(training, effort, runs):
        if not all(job.finished for job in jobs):
            return None
    return jobs


def errors_of_trial(training: Training, effort: Effort, runs: Path) -> dict[float, float]:
    """The errors in validation at the rates that were tried; empty where there is no trial."""
    if training.trial is None:
        return {}
    *trials, _ = stages(training, effort, runs)
    errors = {rate: e for (job,) in trials for rate, e in errors_of_rates(job).items()}
    return dict(sorted(errors.items()))


def errors_of_rates(job: Job) -> dict[float, float]:
    """The mean error in validation at each rate of a finished job, infinite where it diverged.

    Raises:
        ValueError: If its file is damaged or holds no such errors.
    """
    found = metrics_of(job.place).get("rates", {})
    if not found.keys() & {f"{rate:g}" for rate in job.rates}:
        path = shlex.quote(str(job.place))
        raise ValueError(f"{path}/metrics.json has none of the rates tried: rm -r {path}")
    return {
        rate: fmean(seeds.values()) if (seeds := found.get(f"{rate:g}")) else math.inf
        for rate in job.rates
    }


def seconds_of_training(training: Training, effort: Effort) -> float:
    """About how long it takes on one thread, without its trial."""
    num_replicas = len(training.seeds(effort)) * max(1, len(training.rates))
    return OVERHEAD + num_replicas * _num_steps(training, effort) * training.step_ms / 1000


def run_dirs(jobs: Iterable[Job]) -> list[Path]:
    """The run directories of jobs, one for each seed."""
    return [run for job in jobs for run in job.run_dirs]


def _seeds(training: Training, overrides: tuple[str, ...], effort: Effort, runs: Path) -> list[Job]:
    """All seeds, in one process or in several."""
    seeds, steps = training.seeds(effort), _num_steps(training, effort)
    groups = [seeds] if training.together else [(seed,) for seed in seeds]
    config, key = _composed(overrides)
    directory = runs / f"{training.name}-{key}"
    return [
        Job(training, overrides, config, directory, group, steps, training.rates)
        for group in groups
    ]


def _ended(jobs: list[Job]) -> list[float]:
    """The last errors in validation of the seeds of finished jobs, as far as they are logged."""
    if not all(job.finished for job in jobs):
        return []
    # Seeds that one process trained are logged beside each other.
    ended = [
        history(job.place, f"seed_{seed}/{VALIDATED}" if len(job.seeds) > 1 else VALIDATED)
        for job in jobs
        for seed in job.seeds
    ]
    return [found[max(found)] for found in ended if found]


def _trial(
    training: Training, trial: Trial, rates: tuple[float, ...], effort: Effort, runs: Path
) -> Job:
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


def _beyond(
    best: float, errors: Mapping[float, float], trial: Trial, effort: Effort
) -> tuple[float, ...]:
    """Two rates beyond the best, if that is at the edge of those that were tried."""
    rates = sorted(errors)
    extended = (len(rates) - len(trial.rates)) / 2
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
