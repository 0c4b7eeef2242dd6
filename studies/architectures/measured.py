"""What finished runs of an architecture say, and the lines of a table that follow from it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from studies.architectures.cells import Cell
from studies.claims import Claim, OverSeeds, over_seeds
from studies.history import history
from studies.measure import of_each, over_runs, summaries, unfinished, validations
from zoo.analysis.plateaus import LEFT_ZERO
from zoo.evaluation.compare import NEGLIGIBLE
from zoo.hub.directory import read_card
from zoo.metrics.errors import Summary
from zoo.metrics.text import loss_label, place_text, plain, share_text
from zoo.training.directory import CONFIG, read_config

LOSS = "test/half_mse_query"
ZERO, GRADIENT_DESCENT = "zero", "gradient_descent"
ERROR = loss_label(LOSS, at_place=True)
# Validations before the decay whose median stands for the loss there.
LAST = 3
# Of one step: a loss below that is below one step.
PASSED = 0.99


class Measured:
    """The seeds of one cell, and the exact algorithms on the same test episodes.

    Args:
        cell: What was trained.
        runs: A finished run for each seed.

    Attributes:
        losses: 0.5*MSE at the query of each seed.
    """

    def __init__(self, cell: Cell, runs: Sequence[Path]) -> None:
        self.cell, self.runs = cell, runs
        self.label = cell.label
        self.losses = summaries(runs, "model", LOSS)
        self._cards = [read_card(run / "checkpoint") for run in runs]

    def of_solver(self, name: str) -> Summary:
        """0.5*MSE at the query of an exact algorithm."""
        return summaries(self.runs[:1], "references", name, LOSS)[0]

    def in_validation(self, name: str) -> float:
        """The error of an exact algorithm on the episodes of validation."""
        found = history(self.runs[0].parent, f"val/half_mse_query/{name}")
        return found[max(found)]

    def is_rounding(self, name: str) -> bool:
        """Whether nothing is left of the error of an exact algorithm at the query."""
        return self.of_solver(name).value <= NEGLIGIBLE * self.of_solver(ZERO).value

    def excess(self, exact: str, of: str = "model") -> list[float]:
        """Error above that of an exact algorithm after 1, 2, ... examples, a mean over seeds.

        Args:
            exact: Name of the algorithm.
            of: Whose error; that of an exact algorithm is the same for all seeds.
        """
        found, best = (of_each(self.runs, "curves", name) for name in (of, exact))
        by_seed = [
            [a["value"] - b["value"] for a, b in zip(*curves, strict=True)]
            for curves in zip(found, best, strict=True)
        ]
        return [fmean(column) for column in zip(*by_seed, strict=True)][1:]

    def claim(self, beside: str, where: str = "", **claimed: Any) -> Claim:
        """The error at the query, divided by that of an exact algorithm.

        Args:
            beside: Name of the algorithm.
            where: Behind the name of the model.
            claimed: What is claimed of the ratio, as `Claim` takes it.
        """
        return Claim(
            f"{ERROR}, {self.label}{where}",
            over_runs(self.losses),
            reference=beside,
            reference_value=self.of_solver(beside).value,
            ratio=over_runs(summaries(self.runs, "model", f"test/ratio_to_{beside}")),
            training=unfinished(self.runs, "lowers"),
            also={"converged": self._converged(), "fell in the decay": self._fell_in_decay()},
            **claimed,
        )

    def row(self, exact: str, beside: str, where: str = "") -> Claim:
        """All that is known of the model, in a line of the table.

        Args:
            exact: The best exact algorithm. What the error is above it is the difference.
            beside: What the error is divided by.
            where: Behind the name of the model.
        """
        found = self.claim(beside, where)
        by_seed = [loss.value - self.of_solver(exact).value for loss in self.losses]
        above = over_seeds(by_seed)
        if found.measured.ci95 is None and found.measured.by_seed is not None:
            above = above._replace(ci95=None, by_seed=by_seed)
        card = self._cards[0]
        config = read_config(self.runs[0].parent / CONFIG)
        return replace(
            found,
            difference=None if self.is_rounding(exact) else above,
            also={
                "tokens": card.token_layout,
                "loss": place_text("query" if config.positions == "last" else "all"),
                **_tail(self.losses),
                "parameters": card.num_parameters,
                "state": card.state_size,
                "episodes": card.training.episodes,
                **found.also,
            },
        )

    def solved(self, name: str, where: str = "") -> Claim:
        """The error of an exact algorithm, in the same table; the interval is over episodes."""
        found = self.of_solver(name)
        headings = ("parameters", "state", "episodes", "converged", "fell in the decay")
        blank = dict.fromkeys(headings, "")
        return Claim(
            f"{ERROR}, {name} (exact){where}",
            OverSeeds(found.value, found.ci95, 1),
            also={"tokens": "", "loss": "", **_tail([found]), **blank},
        )

    def passing(self) -> Claim:
        """When each seed falls below one step of gradient descent in validation, if it does.

        That is by more than 1 %, in two validations in a row: in one of twenty a ratio is below 1
        by chance. The measured number is the ratio to one step in the last validation.
        """
        steps, ratios = validations(self.runs, f"ratio_to_{GRADIENT_DESCENT}")
        first = [
            next(
                (step for step, two in zip(steps, pairwise(r), strict=False) if max(two) < PASSED),
                None,
            )
            for r in ratios
        ]
        minutes = [
            None if step is None else step / c.training.steps * c.training.wall_time_s / 60
            for step, c in zip(first, self._cards, strict=True)
        ]
        near = of_each(self.runs, "first_step_within_1_percent")
        return Claim(
            f"ratio to one step in the last validation, {self.label}",
            over_seeds([of_seed[-1] for of_seed in ratios]),
            also={
                f"seeds below {PASSED:g} twice in a row": (
                    f"{len(first) - first.count(None)} of {len(first)}"
                ),
                "first at step": _each(first),
                "minutes, a share of the stacked run": _each(minutes, digits=2),
                "within 1 % at step": _each(near),
            },
        )

    def _converged(self) -> str:
        """How many seeds have, and how many of all have not left the zero predictor."""
        verdicts = of_each(self.runs, "convergence", "verdict")
        if set(verdicts) == {"unknown"}:
            return "unknown"
        text = f"{verdicts.count('converged')} of {len(verdicts)}"
        of_zero = [loss.value / self.of_solver(ZERO).value for loss in self.losses]
        at_zero = sum(LEFT_ZERO < ratio < 2 - LEFT_ZERO for ratio in of_zero)
        return f"{text}, {at_zero} at zero" if at_zero else text

    def _fell_in_decay(self) -> str:
        """By how much the loss at the query fell in the decay of the rate, a median over seeds.

        Much says that the constant rate held it up, so that a flat loss was no end of learning.
        """
        training = self._cards[0].training
        stop = training.steps * (1 - training.schedule["decay_fraction"])
        steps, losses = validations(self.runs, "half_mse_query")
        before = [i for i, step in enumerate(steps) if step <= stop][-LAST:]
        falls = [1 - of_seed[-1] / median(of_seed[i] for i in before) for of_seed in losses]
        return f"{100 * median(falls):.1f} %"


def _each(found: Sequence[float | None], digits: int = 4) -> str:
    return "; ".join("never" if number is None else plain(number, digits) for number in found)


def _tail(losses: Sequence[Summary]) -> dict[str, str | float]:
    """Of several seeds the mean of their medians, and the heaviest tail."""
    medians = [loss.median for loss in losses if loss.median is not None]
    shares = [loss.tail_share for loss in losses if loss.tail_share is not None]
    return {"median": fmean(medians), "worst 0.1 %": share_text(max(shares, default=None))}
