"""What finished runs hold, and what else is measured of their models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

import zoo
from datamodules import EpisodeSpec
from datamodules.episodes import Episodes
from datamodules.suites import Suite
from studies.claims import Claim, MoreTraining, OverSeeds, compared, over_seeds
from studies.history import history, metrics_of
from zoo.evaluation.compare import losses, scored_columns
from zoo.evaluation.episodes import evaluation_batches
from zoo.files import ROOT
from zoo.hub.directory import read_card
from zoo.metrics.errors import Summary, half_squared_error
from zoo.predictor import Predictor
from zoo.references import scoring_of
from zoo.training.callbacks.convergence import verdict_of

# Above this share of the mean a half-width hides what seeds do, so each of them is told.
WIDE = 0.1

# Finished runs by the name of their training, one directory for each seed.
Runs = Mapping[str, Sequence[Path]]


def of_each(runs: Sequence[Path], *path: str) -> list[Any]:
    """What stands in `metrics.json` of each run, by the keys that lead to it."""
    found = []
    for run in runs:
        value: Any = metrics_of(run)
        for key in path:
            value = value[key]
        found.append(value)
    return found


def summaries(runs: Sequence[Path], *path: str) -> list[Summary]:
    """`of_each` of a number with its interval, median and tail."""
    return [Summary(**found) for found in of_each(runs, *path)]


def over_runs(found: Sequence[Summary]) -> OverSeeds:
    """The mean of a number over runs; where its interval is wide, with each of them.

    If one has a heavy tail there is no interval, but the median over episodes and each mean.

    A range of means of further episodes would not do: of a heavy tail it may leave out the mean of
    its own seed, and be as wide as the heaviest of the seeds.
    """
    by_seed = [number.value for number in found]
    values = over_seeds(by_seed)
    if not any(number.ci95 is None and number.tail_share is not None for number in found):
        wide = values.ci95 is not None and values.ci95 > WIDE * abs(values.value)
        return values._replace(by_seed=by_seed) if wide else values
    medians = [number.median for number in found if number.median is not None]
    median = fmean(medians) if medians else None  # a ratio has none
    return values._replace(ci95=None, median=median, by_seed=by_seed)


def unfinished(runs: Sequence[Path], moves: MoreTraining) -> MoreTraining:
    """What more training does to a number of these runs: nothing where all have converged.

    Where the loss of one rose, nobody knows.
    """
    falls = of_each(runs, "convergence", "fall")
    unlike = [fall for fall in falls if verdict_of(fall) != "converged"]
    rose = any(fall is not None and fall < 0 for fall in unlike)
    return "moves" if rose else moves if unlike else ""


def model_of(run: Path) -> Predictor:
    """The trained model of a run."""
    return zoo.load(run / "checkpoint")


def spec_of(run: Path) -> EpisodeSpec:
    """The episodes that it was trained on."""
    return EpisodeSpec(**read_card(run / "checkpoint").data)


def suite(name: str) -> Suite:
    """A suite of `configs/suite`."""
    data: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "suite" / f"{name}.yaml"))
    return Suite(axis=data["axis"], settings={str(k): s for k, s in data["settings"].items()})


@torch.no_grad()
def query_loss(predictor: Predictor, episodes: Episodes, batch_size: int = 500) -> float:
    """Mean 0.5*MSE at the query."""
    return (
        half_squared_error(
            predict_queries(predictor, episodes.x, episodes.y, batch_size), episodes.target[:, -1]
        )
        .mean()
        .item()
    )


@torch.no_grad()
def predict_queries(predictor: Predictor, x: Tensor, y: Tensor, batch_size: int = 500) -> Tensor:
    """Predictions at the last position, (num_episodes, d_y)."""
    pairs = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([predictor.predict_query(*pair) for pair in pairs])


@torch.no_grad()
def query_accuracy(predictor: Predictor, spec: EpisodeSpec, num_episodes: int) -> float:
    """Share of test episodes whose query is answered rightly.

    Raises:
        ValueError: If labels are mere values, of which none is right.
    """
    scoring, right = scoring_of(spec), []
    for episodes in evaluation_batches(spec, num_episodes):
        answers = predict_queries(predictor, episodes.x, episodes.y)
        found = scoring.accuracy(answers, episodes.target[:, -1])
        if found is None:
            raise ValueError(f"labels of {spec.function.name} have no accuracy")
        right.append(found)
    return torch.cat(right).mean().item()


@torch.no_grad()
def accuracy_by_position(
    predictor: Predictor, spec: EpisodeSpec, num_episodes: int
) -> dict[int, float]:
    """Share of right answers of test episodes at each position that is scored."""
    right, scored = [], []
    for episodes in evaluation_batches(spec, num_episodes):
        right.append(losses(predictor, episodes, scoring_of(spec))["accuracy"])
        scored.append(episodes.scored)
    columns = scored_columns(torch.cat(right), torch.cat(scored))
    return {i: column.mean().item() for i, column in enumerate(columns) if len(column)}


def against_gradient_descent(
    runs: Sequence[Path],
    quantity: str,
    *,
    reference: str = "gradient_descent",
    called: str = "one step of gradient descent",
    claimed: str = "",
    source: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Claim:
    """The test error of runs beside that of an algorithm in their `metrics.json`."""
    loss = "test/half_mse_query"
    return compared(
        quantity,
        of_each(runs, "model", loss, "value"),
        called,
        of_each(runs, "references", reference, loss, "value"),
        claimed=claimed,
        source=source,
        low=low,
        high=high,
        closed_form=(
            metrics_of(runs[0])["closed_form/half_mse_query"]
            if reference == "gradient_descent"
            else None
        ),
    )


def histories(runs: Sequence[Path], column: str) -> tuple[list[int], list[list[float]]]:
    """The steps at which all runs logged a value, and the values of each run."""
    return _at_common_steps([history(run, column) for run in runs])


def validations(runs: Sequence[Path], loss: str) -> tuple[list[int], list[list[float]]]:
    """As `histories`, of seeds that one process trained: a validation loss at the rate kept.

    Args:
        runs: Directories of the seeds.
        loss: Its name without `val/`, such as `half_mse_query`.

    Raises:
        ValueError: If a run has not logged it.
    """
    found = []
    for run in runs:
        rate = metrics_of(run).get("best_rate")
        replica = run.name if rate is None else f"lr_{rate:g}/{run.name}"
        found.append(history(run.parent, f"{replica}/val/{loss}"))
        if not found[-1]:
            raise ValueError(f"{run.parent}/csv has no {replica}/val/{loss}")
    return _at_common_steps(found)


def _at_common_steps(
    found: Sequence[Mapping[int, float]],
) -> tuple[list[int], list[list[float]]]:
    steps = sorted(set.intersection(*(set(values) for values in found)))
    return steps, [[values[step] for step in steps] for values in found]
