"""In which order a training is done: rates that are tried, then all seeds at the best."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from datamodules import EpisodeSpec
from studies.history import history
from studies.jobs import Job, errors_of_rates, job_of_trial, jobs_of_seeds, run_dirs
from studies.plan import Effort, Training, Trial
from zoo.hub.directory import read_card
from zoo.references import scoring_of
from zoo.training.validation import validation_name

# How often the rates that are tried for a part of the steps may be extended, each time by two.
MOST_EXTENSIONS = 2
# Validation errors that are less apart, by this factor, are taken for equal.
NEAR = 1.1


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


def stages(training: Training, effort: Effort, runs: Path) -> Iterator[list[Job]]:
    """The jobs of a training, in the order in which they are done.

    The next are known once those before have ended: rates that are tried, then perhaps more of
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


def finished_jobs(training: Training, effort: Effort, runs: Path) -> list[Job] | None:
    """The jobs of the last stage, which are measured; None while something is not finished."""
    jobs: list[Job] = []
    for jobs in stages(training, effort, runs):
        if not all(job.ended for job in jobs):
            return None
    return jobs


def _stages(
    training: Training, effort: Effort, runs: Path
) -> Iterator[tuple[list[Job], dict[float, GivenUp]]]:
    """The stages, each with the rates that have been given up by then.

    Whoever walks through them again comes the same way: what is decided depends on nothing but
    what had ended by then.
    """
    trial = training.trial
    if trial is None:
        yield jobs_of_seeds(training, effort, runs), {}
        return
    errors: dict[float, float] = {}
    given_up: dict[float, GivenUp] = {}
    best, left, rates, must_hold = math.nan, set[float](), trial.rates, trial.must_hold
    while True:
        if rates:
            job = job_of_trial(training, trial, rates, effort, runs)
            yield [job], given_up
            errors |= errors_of_rates(job)
        else:
            jobs = jobs_of_seeds(training, effort, runs, best)
            lost = _lost(jobs, errors[best] if must_hold else math.inf) if len(left) > 1 else None
            if lost is None:
                yield jobs, given_up
                return
            given_up[best] = lost
            must_hold = must_hold and lost.diverged > 0
        left = {rate for rate, e in errors.items() if math.isfinite(e)} - given_up.keys()
        # Where all have diverged, one smaller than all may not.
        best = _best({rate: errors[rate] for rate in left or errors}, trial.learned)
        rates = _beyond(best, errors, trial, effort)


def _lost(jobs: list[Job], error: float) -> GivenUp | None:
    """Why a rate is given up whose error must hold, unless infinite; None if it is not."""
    diverged = sum(len(job.diverged) for job in jobs)
    ended = _ended(jobs) if not diverged and math.isfinite(error) else []
    above = sum(one > NEAR * error for one in ended)
    if not diverged and above <= len(run_dirs(jobs)) / 2:
        return None
    return GivenUp(jobs, diverged, above, fmean(ended) if ended else None)


def _ended(jobs: list[Job]) -> list[float]:
    """The last errors in validation of the seeds of finished jobs, by which models are compared.

    Raises:
        ValueError: If a run has logged none.
    """
    if not all(job.finished for job in jobs):
        return []
    ended = []
    for job in jobs:
        card = read_card(job.run_dirs[0] / "checkpoint")
        column = compared_by(EpisodeSpec(**card.data), job.config.positions)
        for seed in job.seeds:
            # Seeds that one process trained are logged beside each other.
            name = f"seed_{seed}/{column}" if len(job.seeds) > 1 else column
            found = history(job.place, name)
            if not found:
                raise ValueError(f"{job.place} has logged no {name}")
            ended.append(found[max(found)])
    return ended


def compared_by(spec: EpisodeSpec, positions: str) -> str:
    """What a run logs of the error in validation by which its learning rates are compared.

    Args:
        spec: Of its episodes.
        positions: Where its loss is taken, `last` or `all`.
    """
    scoring = scoring_of(spec)
    return validation_name(scoring.loss_names[0], scoring.compared_at(positions))


def _best(errors: Mapping[float, float], learned: float) -> float:
    """The rate of the least error, of equal ones the smallest.

    Of those whose error is below `learned` it is the middle one, of two the larger.
    """
    of_learned = sorted(rate for rate, error in errors.items() if error < learned)
    if of_learned:
        return of_learned[len(of_learned) // 2]
    return min(errors, key=lambda rate: (errors[rate], rate))


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
