"""Predictors on the same episodes."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from datamodules.episodes import Episodes
from zoo.metrics.errors import (
    Summary,
    error_summary,
    half_squared_error,
    is_heavy,
    is_rounding,
    mean_interval,
    mean_of_scored,
    means_apart,
    ratio_summary,
)
from zoo.metrics.scoring import Scoring
from zoo.predictor import Predictor

NUMBERS_AT_ONCE = 2**23

# A loss that in the worst episodes too is below this fraction of that of zero is rounding.
NEGLIGIBLE = 1e-6

# Set 0 is measured; 1 to 10 hold as many episodes each, drawn apart, for means with heavy tails.
# A set comes in batches, so that it needs no more memory if it is larger.
EpisodeSets = Callable[[int], Iterable[Episodes]]


@torch.no_grad()
def losses(predictor: Predictor, episodes: Episodes, scoring: Scoring) -> dict[str, Tensor]:
    """Every loss of a predictor at every position, as `scoring.losses` has them.

    Args:
        predictor: Any predictor.
        episodes: What it is measured on.
        scoring: How.

    Returns:
        (num_episodes, length) for each; the last column is the loss at the query.

    Raises:
        ValueError: If the predictor cannot take the episodes.
    """
    found: dict[str, list[Tensor]] = {}
    _, length, d_x = episodes.x.shape
    # Solvers hold a (d_x, d_x) matrix for every position, those of symbols alone a row that says
    # which earlier positions are like it.
    width = length + d_x + episodes.y.shape[2] if scoring.labels_hidden else d_x**2
    batch_size = max(1, min(200, NUMBERS_AT_ONCE // (length * width)))
    for part in episodes.split(batch_size):
        prediction = predictor(part.x, part.y)
        for name, values in scoring.losses(prediction, part.target, predictor.output).items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def scored_columns(values: Tensor, scored: Tensor) -> list[Tensor]:
    """For each position the values (num_episodes, length) of the episodes in which it is scored."""
    return [v[s] for v, s in zip(values.unbind(1), scored.unbind(1), strict=True)]


class Comparison:
    """Errors of predictors on the same episodes.

    They are compared at the query, or over all scored positions, as `scoring.place` says.

    Args:
        sets: The episodes.
        scoring: How predictions are scored.

    Attributes:
        errors: For each predictor and loss the values at every position over the episodes scored
            there and, last, each episode's mean over its scored positions.
    """

    def __init__(self, sets: EpisodeSets, scoring: Scoring) -> None:
        self.sets, self.scoring = sets, scoring
        self.errors: dict[str, dict[str, list[Tensor]]] = {}
        self._predictors: dict[str, Predictor] = {}
        self._apart: dict[str, dict[str, list[float]]] = {}
        self._negligible = 0.0
        self._column = -2 if scoring.place == "query" else -1
        if not scoring.classes:
            at_query = (episodes.target[:, -1] for episodes in sets(0))
            zero = [half_squared_error(target, 0 * target) for target in at_query]
            self._negligible = NEGLIGIBLE * torch.cat(zero).double().mean().item()

    def add(self, name: str, predictor: Predictor) -> None:
        """Measures a predictor.

        Raises:
            ValueError: If it cannot take the episodes.
        """
        self.errors[name] = self._errors(predictor, 0)
        self._predictors[name] = predictor

    def compared(self, name: str, loss: str) -> Tensor:
        """The values of a loss that others are compared with, (num_episodes,)."""
        return self.errors[name][loss][self._column]

    def is_finite(self, name: str) -> bool:
        """Whether every loss of a predictor is a number."""
        columns = [column for all_ in self.errors[name].values() for column in all_[:-1]]
        return all(bool(column.isfinite().all()) for column in columns)

    def is_rounding(self, name: str, loss: str) -> bool:
        """Whether a loss is rounding where it is compared: no ratio to it means anything."""
        return is_rounding(self.compared(name, loss), self._negligible)

    def summaries(self, name: str, loss: str, everywhere: bool = False) -> list[Summary | None]:
        """A loss at every position and, last, over all of them.

        Where the tail at the query is heavy, further sets are measured there. Elsewhere a heavy
        tail has neither interval nor range unless they are asked for: measuring every position of
        them takes ten times as long as measuring the first set. Where labels are hidden no tail has
        a range: contexts are long there, and nearly every loss close to zero has a heavy tail.
        An accuracy, which is no error, has its interval.

        Args:
            name: Of the predictor.
            loss: Of the loss.
            everywhere: Whether further sets are measured at every position too, where the tail at
                one of the others, or that of the mean over all, is heavy.

        Returns:
            None where fewer than two episodes are scored.
        """
        columns = self.errors[name][loss]
        if loss == "accuracy":
            return [Summary(*mean_interval(c)) if len(c) > 1 else None for c in columns]
        query = len(columns) - 2
        heavy = {
            i
            for i, column in enumerate(columns)
            if len(column) > 1 and is_heavy(column) and not is_rounding(column, self._negligible)
        }
        apart: dict[int, list[float]] = {}
        if not self.scoring.labels_hidden:
            if everywhere and heavy - {query}:
                apart |= self._means_everywhere_apart(name, loss, heavy - {query})
            if query in heavy:
                apart[query] = self._means_apart(name)[loss]
        return [
            error_summary(column, self._negligible, apart.get(i)) if len(column) > 1 else None
            for i, column in enumerate(columns)
        ]

    def first_tenth(self, name: str, loss: str) -> Summary | None:
        """A loss that is compared on the first tenth of the episodes, if these are two or more."""
        values = self.compared(name, loss)
        tenth = values[: len(values) // 10]
        return error_summary(tenth, self._negligible) if len(tenth) > 1 else None

    def ratio(self, name: str, other: str, loss: str) -> Summary:
        """Paired ratio of the losses of two predictors where they are compared."""
        a, b = self.compared(name, loss), self.compared(other, loss)
        if self.is_rounding(name, loss):
            return Summary(a.double().mean().item() / b.double().mean().item())

        def apart() -> tuple[list[float], list[float]]:
            return self._means_apart(name)[loss], self._means_apart(other)[loss]

        return ratio_summary(a, b, None if self.scoring.labels_hidden else apart)

    def difference(self, name: str, other: str, loss: str) -> Summary:
        """Paired difference of the losses of two predictors where they are compared."""
        difference = self.compared(name, loss).double() - self.compared(other, loss).double()
        return Summary(*mean_interval(difference))

    def _errors(self, predictor: Predictor, number: int) -> dict[str, list[Tensor]]:
        gathered: dict[str, _Rows] = {}
        for episodes in self.sets(number):
            found = losses(predictor, episodes, self.scoring)
            for name, values in {"scored": episodes.scored, **found}.items():
                gathered.setdefault(name, _Rows(values)).add(values)
        scored = gathered.pop("scored").joined
        return {
            name: [*scored_columns(rows.joined, scored), mean_of_scored(rows.joined, scored)]
            for name, rows in gathered.items()
        }

    @torch.no_grad()
    def _at_query(self, predictor: Predictor, number: int) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for episodes in self.sets(number):
            for part in episodes.split(200):
                prediction = predictor.predict_query(part.x, part.y)
                values = self.scoring.losses(prediction, part.target[:, -1], predictor.output)
                for name, of_part in values.items():
                    found.setdefault(name, []).append(of_part)
        return {name: torch.cat(values) for name, values in found.items()}

    def _means_apart(self, name: str) -> dict[str, list[float]]:
        if name not in self._apart:
            predictor = self._predictors[name]
            self._apart[name] = means_apart(lambda number: self._at_query(predictor, number))
        return self._apart[name]

    def _means_everywhere_apart(
        self, name: str, loss: str, places: Iterable[int]
    ) -> dict[int, list[float]]:
        def measured(number: int) -> dict[int, Tensor]:
            columns = self._errors(self._predictors[name], number)[loss]
            return {place: columns[place] for place in places}

        # A set may have no episode that is scored at a place.
        return {
            place: [mean for mean in means if not math.isnan(mean)]
            for place, means in means_apart(measured).items()
        }


class _Rows:
    """Batches of rows as one tensor.

    They are copied into one block: many small tensors that stay, between large ones that go, would
    leave the memory in pieces that are no use to the next large one.
    """

    def __init__(self, like: Tensor) -> None:
        self._block = like[:0]
        self._number = 0

    def add(self, rows: Tensor) -> None:
        number = self._number + len(rows)
        if number > len(self._block):
            block = rows.new_empty(max(number, 2 * self._number), *rows.shape[1:])
            block[: self._number] = self.joined
            self._block = block
        self._block[self._number : number] = rows
        self._number = number

    @property
    def joined(self) -> Tensor:
        return self._block[: self._number]
