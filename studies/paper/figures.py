"""All figures by their letter."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from studies.claims import Found
from studies.measure import Runs
from studies.paper import baselines, more_steps, nonlinear, one_step, ours
from studies.plan import Effort, Training


class PaperFigure(NamedTuple):
    """A part of the reproduction.

    Attributes:
        title: Its heading.
        trainings: Which runs it needs.
        make: Measures and draws, from finished runs.
    """

    title: str
    trainings: Callable[[Effort], list[Training]]
    make: Callable[[Runs, Effort], Found]


FIGURES = {
    "a": PaperFigure("Loss over training", one_step.base_trainings, one_step.loss_over_training),
    "b": PaperFigure("Trained and constructed weights", one_step.base_trainings, one_step.weights),
    "c": PaperFigure(
        "Larger inputs and larger functions", one_step.base_trainings, one_step.other_scales
    ),
    "d": PaperFigure("Input dimension", one_step.dimension_trainings, one_step.dimensions),
    "e": PaperFigure("Two and more steps", more_steps.trainings, more_steps.several_steps),
    "f": PaperFigure("Functions that are not linear", nonlinear.trainings, nonlinear.sine_waves),
    "g": PaperFigure("Other architectures", baselines.trainings, baselines.other_architectures),
    "h": PaperFigure(
        "Step sizes, forgetting, longer contexts, classes", ours.trainings, ours.additions
    ),
}


def letters_of(given: str | Sequence[str]) -> list[str]:
    """The letters of the figures asked for; `all` stands for all of them.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    letters = [given] if isinstance(given, str) else list(given)
    wrong = [letter for letter in letters if letter not in (*FIGURES, "all")]
    if wrong or not letters:
        got = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"figure must be all or of {', '.join(FIGURES)}, got {got}")
    return list(FIGURES) if "all" in letters else list(dict.fromkeys(letters))
