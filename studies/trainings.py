"""What is behind a number of a trained model: its size, rates, seeds, steps and convergence."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from studies.plan import Job, errors_of_rates, run_dirs
from zoo.hub.card import Card
from zoo.hub.directory import read_card
from zoo.metrics.text import place_text
from zoo.training.callbacks.convergence import verdict_of

TABLE = """\
Every training in one line. *State* counts the real numbers that are kept after the context of
training. All that is said of a model is said of the *best* rate of those that were *tried*, that of
the least error in validation. {tried} What a recurrence has of its own, such as a decay, trains at
`optim.ssm_lr`, which is not on the list. *Edge* marks the smallest and the largest of the list,
beyond which there may be a better one. *Minutes* are those of all rates and seeds together, on one
thread; a trial that trainings share is in those of each. *Converged* are the seeds whose validation
loss fell or rose by less than 2 % over the last third of the steps at a constant rate, before it
decayed: see `docs/training.md`.
"""

EVERY_SEED = "All seeds were trained at each rate."
ANOTHER_SEED = """\
A seed that is not among those of the page tried each for as many steps as the table says, and then
all seeds trained at the best. Where that was at the edge of the list, two more
were tried; where a seed then diverged, all trained at the next best."""


class TrainingRow(NamedTuple):
    """One training, over its seeds.

    Attributes:
        name: Of the training.
        num_parameters: Trained numbers.
        state_size: Real numbers in the state after the context of training.
        tokens: How pairs become tokens.
        loss_at: Where the loss is taken.
        rates: Learning rates that were tried.
        best_rate: The one that was kept.
        num_seeds: Seeds at each rate.
        steps: Optimizer steps.
        batch_size: Episodes in each of them.
        seconds: Of all rates and seeds together, on one thread.
        converged: How many seeds have which verdict on convergence; empty where none was asked for.
        trial_steps: Optimizer steps that each rate was tried for; None where all seeds trained at
            all rates to the end.
        errors: Of the trial, in validation, in the order of the rates; None where it diverged.
    """

    name: str
    num_parameters: int
    state_size: int
    tokens: str
    loss_at: str
    rates: list[float]
    best_rate: float
    num_seeds: int
    steps: int
    batch_size: int
    seconds: float
    converged: dict[str, int]
    trial_steps: int | None = None
    errors: list[float | None] | None = None


def rates_of(card: Card) -> list[float]:
    """The learning rates that were tried, of which that of the card was kept."""
    optimizer = card.training.optimizer
    return [float(rate) for rate in optimizer.get("rates", [optimizer["lr"]])]


def seconds_of(card: Card) -> float:
    """What a seed took, with its share at all the rates that were not kept."""
    return card.training.wall_time_s * len(rates_of(card))


def training_row(jobs: Sequence[Job], trials: Sequence[Job] = ()) -> TrainingRow:
    """What the runs of a training say of themselves.

    Args:
        jobs: Finished ones, of all its seeds.
        trials: Those that settled their rate.
    """
    cards = [read_card(run / "checkpoint") for run in run_dirs(jobs)]
    card = cards[0]
    config: Any = OmegaConf.load(jobs[0].place / "config.yaml")
    schedules = (c.training.schedule for c in cards)
    verdicts = [verdict_of(s["convergence"]["fall"]) for s in schedules if "convergence" in s]
    errors = {rate: e for job in trials for rate, e in errors_of_rates(job).items()}
    tried = dict(sorted(errors.items()))
    of_trials = [read_card(run / "checkpoint") for run in run_dirs(trials)]
    return TrainingRow(
        name=jobs[0].training.name,
        num_parameters=card.num_parameters,
        state_size=card.state_size,
        tokens=card.token_layout,
        loss_at=place_text("query" if config.positions == "last" else "all"),
        rates=list(tried) or rates_of(card),
        best_rate=card.training.optimizer["lr"],
        num_seeds=len(cards),
        steps=card.training.steps,
        batch_size=card.training.batch_size,
        seconds=round(sum(map(seconds_of, [*cards, *of_trials])), 1),
        converged=dict(Counter(verdicts)),
        trial_steps=trials[0].steps if trials else None,
        errors=[e if math.isfinite(e) else None for e in tried.values()] if trials else None,
    )


def text_of(rows: Iterable[TrainingRow]) -> str:
    """What stands above the table."""
    alone = {row.trial_steps is not None for row in rows if len(row.rates) > 1}
    kinds = {False: EVERY_SEED, True: ANOTHER_SEED}
    return TABLE.format(tried=" ".join(kinds[kind] for kind in sorted(alone)))


def table(rows: Iterable[TrainingRow]) -> list[str]:
    """The lines of a table in Markdown; trainings that figures share are in it once."""
    by_name = {row.name: row for row in rows}
    cells = [_cells(row) for row in by_name.values()]
    headings = list(cells[0])
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(of_row.values()) + " |" for of_row in cells), ""]


def _cells(row: TrainingRow) -> dict[str, str]:
    at_edge = len(row.rates) > 1 and row.best_rate in (min(row.rates), max(row.rates))
    return {
        "training": row.name,
        "parameters": f"{row.num_parameters:,}",
        "state": f"{row.state_size:,}",
        "tokens": row.tokens,
        "loss": row.loss_at,
        "rates tried": _tried(row),
        "best": f"{row.best_rate:g}" + (", edge" if at_edge else ""),
        "seeds": str(row.num_seeds),
        "steps": f"{row.steps:,} of {row.batch_size}",
        "minutes": f"{row.seconds / 60:.1f}",
        "converged": _converged(row),
    }


def _tried(row: TrainingRow) -> str:
    rates = ", ".join(f"{rate:g}" for rate in row.rates)
    return rates if row.trial_steps is None else f"{rates} ({row.trial_steps:,} steps)"


def _converged(row: TrainingRow) -> str:
    if not row.converged:
        return ""
    if set(row.converged) == {"unknown"}:
        return "unknown"
    return f"{row.converged.get('converged', 0)} of {row.num_seeds}"
