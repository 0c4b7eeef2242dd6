"""The runs in a directory: their settings, what they reached, and why some reached nothing."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from zoo.errors import first_line, unknown
from zoo.evaluation.seeds import FIRST_STEPS
from zoo.hub.card import Card
from zoo.hub.directory import read_card
from zoo.training.directory import (
    COMMAND,
    CONFIG,
    LAST_STATE,
    METRICS,
    STATES,
    read_config,
    read_failure,
)
from zoo.training.logged import logged_rows
from zoo.training.options import OptimConfig

ARCHITECTURE = "model.name"
Rate = tuple[float, float]
# What a study calls the directory of a run that tried rates for others: NAME-rates-KEY.
OF_TRIAL = re.compile(r".+-rates-[0-9a-f]{8}")


class SeedAtRate(NamedTuple):
    """A seed that was trained at a rate.

    Attributes:
        run: Directory of the run.
        seed: Its number.
        rate: Its lr and ssm_lr.
        validation: Its error after the last step; None where it was not noted.
        numbers: Of the test episodes and the weights, by name; empty where another rate was kept.
        tails: Of the errors among them, the share that the worst 0.1 % of the episodes carry.
        num_parameters: Trained numbers; 0 where another rate was kept.
        seconds: That its training took, the share of this seed and rate.
        num_tests: Test episodes; 0 where another rate was kept.
    """

    run: Path
    seed: int
    rate: Rate
    validation: float | None
    numbers: dict[str, float]
    tails: dict[str, float]
    num_parameters: int
    seconds: float
    num_tests: int


class Run(NamedTuple):
    """A run, finished or not.

    Attributes:
        directory: Where it is.
        settings: By dotted name, as they were composed.
        rates: The pairs (lr, ssm_lr) that were trained.
        finished: Whether it was measured.
        trials: Of a finished run.
        diverged: Why seeds or all of the run were given up, by the name of what was.
        step: The last optimizer step that was logged.
        resumable: Whether there is a checkpoint to go on from.
        damage: Why its files cannot be read, and nothing else is known; empty if they can.
    """

    directory: Path
    settings: dict[str, Any]
    rates: list[Rate]
    finished: bool
    trials: list[SeedAtRate]
    diverged: dict[str, str]
    step: int
    resumable: bool = False
    damage: str = ""

    @property
    def architecture(self) -> str:
        """The name of the model."""
        return str(self.settings.get(ARCHITECTURE))


def read_runs(directory: Path) -> list[Run]:
    """The runs in a directory, at any depth, or the one that it is; damaged ones say why.

    Raises:
        ValueError: If there is none, or none that can be read.
    """
    runs: list[Run] = []
    for path in _run_directories(directory):
        try:
            runs.append(read_run(path))
        except ValueError as error:
            runs.append(Run(path, {}, [], False, [], {}, 0, damage=" ".join(str(error).split())))
    if not runs:
        raise ValueError(f"no run in {directory}: none of its directories has a {CONFIG}")
    if all(run.damage for run in runs):
        raise ValueError(runs[0].damage)
    return runs


def without_trials(runs: Sequence[Run], directory: Path) -> tuple[list[Run], list[Run]]:
    """Runs apart from those that tried rates for others: shorter, and tested on few episodes.

    Args:
        runs: In a directory.
        directory: That one. Where it has nothing but trials, or is in one, none are set apart.

    Returns:
        The runs, and the trials.
    """
    trials = [
        run
        for run in runs
        if any(map(OF_TRIAL.fullmatch, run.directory.relative_to(directory).parts))
    ]
    others = [run for run in runs if run not in trials]
    return (others, trials) if others else ([*runs], [])


def read_run(directory: Path) -> Run:
    """A run, with what it reached if it is finished.

    Raises:
        ValueError: If its files are damaged or cannot be read.
    """
    with _reading(directory / CONFIG):
        config: Any = OmegaConf.to_container(read_config(directory / CONFIG))
        settings = dict(_leaves(config))
        rates = OptimConfig(**config["optim"]).rates
    logged = logged_rows(directory)
    with _reading(directory / METRICS):
        return _run_of(directory, settings, rates, logged)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What else goes wrong inside is damage of a file."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, OSError) as error:
        what = f"{error} is missing" if isinstance(error, LookupError) else first_line(error)
        raise ValueError(f"{path} is not what a run leaves: {what}") from error


def _run_of(
    directory: Path, settings: dict[str, Any], rates: list[Rate], logged: list[dict[str, str]]
) -> Run:
    finished = (directory / METRICS).is_file()
    step = max((int(float(step)) for row in logged if (step := row.get("step"))), default=0)
    if not finished:
        cause = read_failure(directory)
        diverged = {} if cause is None else {"": cause}
        resumable = (directory / STATES / LAST_STATE).is_file()
        return Run(directory, settings, rates, False, [], diverged, step, resumable)
    several = settings.get("seeds", 1) > 1
    summary = _read_json(directory / METRICS)
    trials: list[SeedAtRate] = []
    places = [directory]
    if several:
        lost = summary.get("diverged", [])
        places = [directory / f"seed_{seed}" for seed in summary["seeds"] if seed not in lost]
    kept = None
    for place in places:
        with _reading(place / METRICS):
            trial = _trial(directory, place, logged if len(rates) == 1 else [], several, settings)
        trials.append(trial)
        kept = trial.rate
    named_rates = {f"{rate[0]:g}": rate for rate in rates}
    for name, errors in summary.get("rates", {}).items():
        if name not in named_rates:
            raise ValueError(unknown("rate", name, named_rates))
        rate = named_rates[name]
        if rate != kept:
            trials += [
                SeedAtRate(directory, int(seed), rate, error, {}, {}, 0, 0.0, 0)
                for seed, error in errors.items()
            ]
    causes = summary.get("lost") or summary.get("diverged_causes", {})
    named = {n if "seed" in n else f"seed_{n}": cause for n, cause in causes.items()}
    return Run(directory, settings, rates, True, trials, named, step)


def _run_directories(directory: Path) -> Iterator[Path]:
    """Directories of runs, in the order of their numbers; none inside another one."""
    try:
        # One that has lost its configuration is one as well.
        if any((directory / name).exists() for name in (CONFIG, COMMAND)):
            yield directory
            return
        entries = [*os.scandir(directory)] if directory.is_dir() else []
    except PermissionError:
        yield directory
        return
    below = [entry.path for entry in entries if entry.is_dir()]
    for path in sorted(map(Path, below), key=lambda path: path.name.zfill(8)):
        yield from _run_directories(path)


def _check_same(card: Card, place: Path, settings: dict[str, Any], several: bool) -> None:
    """Raises ValueError if a checkpoint is that of another run, as far as the settings say."""
    seed = int(place.name.removeprefix("seed_")) if several else settings.get("seed")
    wanted = {"architecture": settings.get(ARCHITECTURE), "seed": seed}
    has = {"architecture": card.architecture, "seed": card.training.seed}
    for name, value in wanted.items():
        # What stood in the environment of the run is not known.
        if value != has[name] and "${" not in str(value):
            raise ValueError(f"{place}/checkpoint has {name} {has[name]}, in a run of {value}")


def _trial(
    run: Path,
    place: Path,
    logged: Sequence[dict[str, str]],
    several: bool,
    settings: dict[str, Any],
) -> SeedAtRate:
    """A seed at the rate that was kept, from its directory.

    Args:
        run: Directory of the run.
        place: Of the seed, the same if it is the only one.
        logged: The rows of the log of a run of one rate, whose validation error is there.
        several: Whether names in it begin with that of the seed.
        settings: Of the run.
    """
    card, metrics = read_card(place / "checkpoint"), _read_json(place / METRICS)
    _check_same(card, place, settings, several)
    optimizer, seed = card.training.optimizer, card.training.seed
    numbers = {name: float(found["value"]) for name, found in metrics["model"].items()}
    if not numbers:
        raise ValueError(f"{place / METRICS} has no number of the model")
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{place / METRICS} has {number} for {name}")
    tails = {
        name: float(share)
        for name, found in metrics["model"].items()
        if (share := found.get("tail_share")) is not None
    }
    numbers |= {f"weights/{name}": value for name, value in metrics.get("weights", {}).items()}
    numbers |= {
        label: float(metrics[key])
        for key, label in FIRST_STEPS.items()
        if metrics.get(key) is not None
    }
    if "rates" in metrics:
        validation = metrics["rates"][f"{optimizer['lr']:g}"].get(str(seed))
    else:
        name = f"{f'seed_{seed}/' if several else ''}{next(iter(numbers)).replace('test', 'val')}"
        # Of a model that was trained on the query alone only that is validated.
        columns = (name, f"{name.removesuffix('_all')}_query")
        noted = [v for column in columns for row in logged if (v := row.get(column))]
        validation = float(noted[-1]) if noted else None
    return SeedAtRate(
        run,
        seed,
        (optimizer["lr"], optimizer["ssm_lr"]),
        validation,
        numbers,
        tails,
        card.num_parameters,
        card.training.wall_time_s,
        metrics["num_episodes"],
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value
