"""What is behind a number of a trained model: its size, rates, seeds, steps and convergence."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from studies.history import history
from studies.jobs import Job, errors_of_rates, run_dirs
from studies.stages import NEAR, GivenUp
from zoo.hub.card import Card
from zoo.hub.directory import read_card
from zoo.metrics.text import place_text, plain
from zoo.training.callbacks.convergence import verdict_of

TABLE = """\
Every training in one line. *State* counts the real numbers that are kept after the context of
training. All that is said of a model is said of the *best* rate of those that were *tried*, that of
the least error in validation{but}; the errors stand in brackets, where they were recorded. {tried}
What a recurrence has of its own, such as a decay, trains at `optim.ssm_lr`, which is not on the
list. *Edge* marks the smallest and the largest of the list, beyond which there may be a better one.
*Close* says that the error at another rate is less than 10 % larger, so that another seed might
have chosen that{zero}. *Minutes* are those of all rates
and seeds together, on one thread; a trial that trainings share is in those of each.
{lost}*Converged* are the seeds whose validation loss fell or rose by less than 2 % over the last
third of the steps at a constant rate, before it decayed: see `docs/training.md`.
"""

# What a run logs of predicting zero.
ZERO = "val/half_mse_query/zero"
EVERY_SEED = "All seeds were trained at each rate."
ANOTHER_SEED = """\
A seed that is not among those of the page tried each for as many steps as the table says, and then
all seeds trained at the best. Where that was at the edge of the list, two more
were tried; where a seed then diverged, all trained at the next best."""
HELD = """ Where most seeds
ended more than 10 % above the trial, which chance had favoured, all trained once more, at the next
best; the mean that they had ended with stands beside."""
AT_ZERO = """; *zero* that the least error is that of predicting zero, or less than 10 % below
it: no rate had learned much by then, and the choice says little"""
LEARNED = """ Errors below {learned:g} were not told apart: of the rates that had one, the middle
one is the best, of two the larger."""
BUT = " of those that were not given up"
LOST = "Those of a rate at which every seed diverged are not known. "


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
        errors: In validation, a mean over seeds, in the order of the rates; None where it diverged.
        zero_error: Of predicting zero in the same validation; None where that was not measured.
        given_up: Rates that were better in the trial, and how many seeds then diverged at each.
        fell_short: The same, and how many seeds then ended more than 10 % above that.
        ended: The mean error in validation of the seeds at these; empty where it was not recorded.
        learned: Errors of the trial below this were not told apart.
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
    zero_error: float | None = None
    given_up: Mapping[str, int] = MappingProxyType({})
    fell_short: Mapping[str, int] = MappingProxyType({})
    ended: Mapping[str, float] = MappingProxyType({})
    learned: float = 0.0


def rates_of(card: Card) -> list[float]:
    """The learning rates that were tried, of which that of the card was kept."""
    optimizer = card.training.optimizer
    return [float(rate) for rate in optimizer.get("rates", [optimizer["lr"]])]


def seconds_of(card: Card) -> float:
    """What a seed took, with its share at all the rates that were not kept.

    A trial for fewer steps, of which a shipped card tells, is not in it.
    """
    alone = card.training.tried.rates_steps is not None
    return card.training.wall_time_s * (1 if alone else len(rates_of(card)))


def seconds_of_lost(jobs: Iterable[Job]) -> float:
    """What jobs of rates that were given up took, as far as a seed is left that says so."""
    found = 0.0
    for job in jobs:
        left = [run for run in job.run_dirs if (run / "metrics.json").exists()]
        shares = [read_card(run / "checkpoint").training.wall_time_s for run in left]
        found += fmean(shares) * len(job.seeds) if shares else 0.0
    return found


def training_row(
    jobs: Sequence[Job],
    trials: Sequence[Job] = (),
    given_up: Mapping[float, GivenUp] = MappingProxyType({}),
) -> TrainingRow:
    """What the runs of a training say of themselves.

    Args:
        jobs: Finished ones, of all its seeds.
        trials: Those that settled their rate.
        given_up: Rates that were better in the trial.

    Raises:
        ValueError: If a run holds what another seed, or another number of steps, has trained.
    """
    cards = [
        _card_of(job, seed, run)
        for job in jobs
        for seed, run in zip(job.seeds, job.run_dirs, strict=True)
    ]
    card = cards[0]
    trial = jobs[0].training.trial
    schedules = (c.training.schedule for c in cards)
    verdicts = [verdict_of(s["convergence"]["fall"]) for s in schedules if "convergence" in s]
    of_rates = trials or [job for job in jobs if len(job.rates) > 1][:1]
    errors = {rate: e for job in of_rates for rate, e in errors_of_rates(job).items()}
    of_finite = [job for job in of_rates if job.finished]
    zeros = history(of_finite[0].place, ZERO) if of_finite else {}
    tried = dict(sorted(errors.items()))
    of_trials = [
        read_card(run / "checkpoint") for run in run_dirs(job for job in trials if job.finished)
    ]
    return TrainingRow(
        name=jobs[0].training.name,
        num_parameters=card.num_parameters,
        state_size=card.state_size,
        tokens=card.token_layout,
        loss_at=place_text("query" if jobs[0].config.positions == "last" else "all"),
        rates=list(tried) or rates_of(card),
        best_rate=card.training.optimizer["lr"],
        num_seeds=len(cards),
        steps=card.training.steps,
        batch_size=card.training.batch_size,
        seconds=round(
            sum(map(seconds_of, [*cards, *of_trials]))
            + seconds_of_lost(chain(*(at_rate.jobs for at_rate in given_up.values()))),
            1,
        ),
        converged=dict(Counter(verdicts)),
        trial_steps=trials[0].steps if trials else None,
        errors=[e if math.isfinite(e) else None for e in tried.values()] or None,
        zero_error=zeros[max(zeros)] if zeros else None,
        given_up={f"{rate:g}": one.diverged for rate, one in given_up.items() if one.diverged},
        fell_short={f"{rate:g}": one.above for rate, one in given_up.items() if one.above},
        ended={f"{rate:g}": one.ended for rate, one in given_up.items() if one.ended is not None},
        learned=trial.learned if trial else 0.0,
    )


def text_of(rows: Iterable[TrainingRow]) -> str:
    """What stands above the table."""
    rows = list(rows)
    alone = {row.trial_steps is not None for row in rows if len(row.rates) > 1}
    kinds = {False: EVERY_SEED, True: ANOTHER_SEED}
    lost, short = (any(getattr(row, name) for row in rows) for name in ("given_up", "fell_short"))
    tried = " ".join(kinds[kind] for kind in sorted(alone)) + (HELD if short else "")
    learned = {row.learned for row in rows} - {0.0}
    return TABLE.format(
        tried=tried + "".join(LEARNED.format(learned=error) for error in sorted(learned)),
        zero=AT_ZERO if any(row.zero_error is not None for row in rows) else "",
        but=BUT if lost or short else "",
        lost=LOST if lost else "",
    )


def table(rows: Iterable[TrainingRow]) -> list[str]:
    """The lines of a table in Markdown; trainings that figures share are in it once."""
    by_name = {row.name: row for row in rows}
    cells = [_cells(row) for row in by_name.values()]
    headings = list(cells[0])
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(of_row.values()) + " |" for of_row in cells), ""]


def _cells(row: TrainingRow) -> dict[str, str]:
    return {
        "training": row.name,
        "parameters": f"{row.num_parameters:,}",
        "state": f"{row.state_size:,}",
        "tokens": row.tokens,
        "loss": row.loss_at,
        "rates tried": _tried(row),
        "best": ", ".join([f"{row.best_rate:g}", *_marks(row)]),
        "seeds": str(row.num_seeds),
        "steps": f"{row.steps:,} of {row.batch_size}",
        "minutes": f"{row.seconds / 60:.1f}",
        "converged": _converged(row),
    }


def _tried(row: TrainingRow) -> str:
    errors: Sequence[float | None] = row.errors or []
    told = dict(zip(row.rates, errors, strict=False))
    rates = ", ".join(f"{rate:g}{_of_rate(row, rate, told)}" for rate in row.rates)
    if row.trial_steps is None:
        return rates
    return f"{rates}; {row.trial_steps:,} steps"


def _of_rate(row: TrainingRow, rate: float, errors: Mapping[float, float | None]) -> str:
    """What became of a rate, in brackets."""
    if rate not in errors:
        return ""
    error, name = errors[rate], f"{rate:g}"
    if error is None:
        return " (diverged)"
    later = ""
    if name in row.given_up:
        later = f"; then {row.given_up[name]} of {row.num_seeds} seeds diverged"
    if name in row.fell_short:
        later = f"; then {row.fell_short[name]} of {row.num_seeds} seeds ended above that"
        later += f", mean {plain(row.ended[name], 3)}" if name in row.ended else ""
    return f" ({plain(error, 3)}{later})"


def _marks(row: TrainingRow) -> list[str]:
    """What makes the choice of the rate doubtful, a word each."""
    if len(row.rates) < 2:
        return []
    marks = ["edge"] if row.best_rate in (min(row.rates), max(row.rates)) else []
    if row.errors is None:
        return marks
    errors = dict(zip(row.rates, row.errors, strict=True))
    best = errors.pop(row.best_rate)
    if best is None:
        return marks
    gone = {*row.given_up, *row.fell_short}
    left = (e for rate, e in errors.items() if f"{rate:g}" not in gone and e is not None)
    is_close = min(left, default=math.inf) < NEAR * best and not best < row.learned
    marks += ["close"] if is_close else []
    least = min([best, *(e for e in errors.values() if e is not None)])
    at_zero = row.zero_error is not None and NEAR * least > row.zero_error
    return [*marks, "zero"] if at_zero else marks


def _converged(row: TrainingRow) -> str:
    if not row.converged:
        return ""
    if set(row.converged) == {"unknown"}:
        return "unknown"
    return f"{row.converged.get('converged', 0)} of {row.num_seeds}"


def _card_of(job: Job, seed: int, run: Path) -> Card:
    """That of a seed, as it was trained."""
    place = run / "checkpoint"
    card = read_card(place)
    if (card.training.seed, card.training.steps) != (seed, job.steps):
        raise ValueError(
            f"{place} is of seed {card.training.seed} and {card.training.steps:,} steps, not of "
            f"seed {seed} and {job.steps:,}: rm -r {shlex.quote(str(job.place))} to train it anew"
        )
    return card
