"""Parity and the products of S3, at positions up to four times those of training."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure

from studies.claims import Claim, Found, MoreTraining, over_seeds
from studies.drawing import band, bars, legend, new_figure
from studies.measure import (
    Runs,
    accuracy_by_position,
    model_of,
    spec_of,
    suite,
    unfinished,
    validations,
)
from studies.plan import Effort, Training
from studies.state_tracking.cells import PARITY, S3, TRAINED, Cell
from zoo.metrics.drawing import FAINT
from zoo.metrics.text import loss_label

# Symbols in the test, a setting of `configs/suite/word_length.yaml`.
TESTED = 160
BEYOND = range(TRAINED + 1, TESTED + 1)


class Expected(NamedTuple):
    """What is claimed of the models on a group.

    Attributes:
        holds: Of those that keep track.
        fails: Of those that do not.
        source: Where.
        least: Scaled accuracy of those that keep track, at least.
        unsolved: Bounds of the scaled accuracy of those that do not.
    """

    holds: str
    fails: str
    source: str
    least: float
    unsolved: tuple[float, float]


OF_PARITY = Expected(
    "With eigenvalues in [-1, 1] recurrences keep track of parity beyond the length of training "
    "(scaled accuracy in the paper: Mamba 1.00, DeltaNet 1.00).",
    "With eigenvalues in [0, 1] recurrences guess parity beyond that length (scaled accuracy in "
    "the paper: Mamba 0.00, DeltaNet 0.02).",
    "arXiv 2411.12537, table 3",
    0.9,
    (-0.05, 0.1),
)
# The sign of a permutation alone, which one reflection for every symbol can follow, is worth
# (1/3 - 1/6) / (1 - 1/6) = 0.2.
OF_S3 = Expected(
    "One layer with two steps for every symbol and eigenvalues in [-1, 1] keeps track of S3.",
    "One layer with one step for every symbol, or with eigenvalues in [0, 1], does not keep track "
    "of S3.",
    "arXiv 2411.12537 and 2502.10297",
    0.9,
    (-0.05, 0.3),
)


def trainings_of_parity(effort: Effort) -> list[Training]:
    """Trainings of figure a."""
    return [cell.training(effort) for cell in PARITY]


def trainings_of_s3(effort: Effort) -> list[Training]:
    """Trainings of figure b."""
    return [cell.training(effort) for cell in S3]


def parity(runs: Runs, effort: Effort) -> Found:
    """Figure a: whether the number of ones so far is odd."""
    return _found(PARITY, OF_PARITY, runs, effort)


def s3(runs: Runs, effort: Effort) -> Found:
    """Figure b: the product of permutations of three so far."""
    return _found(S3, OF_S3, runs, effort)


def scaled(accuracy: float, num_classes: int) -> float:
    """0 for guessing among equally likely classes, 1 for all right."""
    chance = 1 / num_classes
    return (accuracy - chance) / (1 - chance)


class _Measured(NamedTuple):
    """Accuracies of the seeds of a model.

    Attributes:
        by_position: After 1, 2, ... symbols.
        num_classes: Among which guessing chooses.
        training: What more of it does to them.
    """

    by_position: list[list[float]]
    num_classes: int
    training: MoreTraining

    def mean_over(self, positions: range) -> list[float]:
        """Of each seed, over positions counted from 1."""
        return [fmean(of_seed[i - 1] for i in positions) for of_seed in self.by_position]

    @property
    def scaled_beyond(self) -> list[float]:
        """Of each seed, at positions that training does not reach."""
        return [scaled(accuracy, self.num_classes) for accuracy in self.mean_over(BEYOND)]


def _measured(cell: Cell, runs: Runs, effort: Effort) -> _Measured:
    found = runs[cell.training(effort).name]
    spec = suite("word_length").settings[str(TESTED)].apply(spec_of(found[0]))
    of_seeds = []
    for run in found:
        model = model_of(run)
        model.card = None  # the test goes beyond its training on purpose
        of_seeds.append(accuracy_by_position(model, spec, effort.num_episodes))
    # The start symbol, at position 0, is not scored.
    return _Measured(
        [[by[i] for i in range(1, TESTED + 1)] for by in of_seeds],
        spec.d_y,
        unfinished(found, "raises"),
    )


def _found(cells: Sequence[Cell], expected: Expected, runs: Runs, effort: Effort) -> Found:
    measured = {cell: _measured(cell, runs, effort) for cell in cells}
    claims = [_judged(cell, found, expected) for cell, found in measured.items()]
    for cell, found in measured.items():
        for positions in (range(1, TRAINED + 1), BEYOND, range(TESTED, TESTED + 1)):
            claims.append(
                Claim(
                    f"accuracy at {_text(positions)}, {cell.name}",
                    over_seeds(found.mean_over(positions)),
                )
            )
    return Found({"accuracy": _drawn(measured, runs, effort)}, claims)


def _text(positions: range) -> str:
    first, last = positions[0], positions[-1]
    return f"position {last}" if first == last else f"positions {first} to {last}"


def _judged(cell: Cell, measured: _Measured, expected: Expected) -> Claim:
    quantity, values = f"scaled accuracy, {cell.name}", measured.scaled_beyond
    if cell.solves:
        return Claim(
            quantity,
            over_seeds(values),
            claimed=expected.holds,
            source=expected.source,
            low=expected.least,
            one_sided="an accuracy is at most 1",
            training=measured.training,
        )
    low, high = expected.unsolved
    return Claim(
        quantity,
        over_seeds(values),
        claimed=expected.fails,
        source=expected.source,
        low=low,
        high=high,
        training=measured.training,
    )


def _drawn(measured: dict[Cell, _Measured], runs: Runs, effort: Effort) -> tuple[Figure, str]:
    figure, (left, middle, right) = new_figure(3)
    for cell, found in measured.items():
        places = range(1, TESTED + 1)
        band(left, places, found.by_position, cell.name, cell.style)
    num_classes = next(iter(measured.values())).num_classes
    left.axvline(TRAINED, color=FAINT, linestyle="--", zorder=0)
    left.axhline(1 / num_classes, color=FAINT, linestyle=":", zorder=0)
    left.set_xlabel(f"symbols so far, training at {TRAINED}")
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1.02)
    legend(left)
    bars(middle, {cell.name: found.scaled_beyond for cell, found in measured.items()})
    middle.set_xlabel(f"scaled accuracy, {_text(BEYOND)}")
    middle.set_xlim(-0.1, 1.05)
    for cell in measured:
        steps, losses = validations(runs[cell.training(effort).name], "cross_entropy_all")
        band(right, steps, losses, cell.name, cell.style)
    right.set_yscale("log")
    right.set_xlabel("optimizer steps")
    right.set_ylabel(f"validation, {loss_label('cross_entropy')}")
    caption = (
        "Left: accuracy after so many symbols; the dashed line is the length of training, the "
        "dotted one guessing. Middle: the scaled accuracy beyond, a dot for each seed. Right: the "
        "loss in validation, at the length of training and the rate that was kept. Dotted lines "
        "are eigenvalues in [0, 1]."
    )
    return figure, caption
