"""Scores on random splits of a table, and the intervals of their means."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from studies.claims import OverSeeds
from zoo.metrics.errors import interval_over_seeds

# Of the rows of a table, in every split.
TEST_SHARE = 0.2
# Rows of a context, as many as in training.
FEW_ROWS = 200
# Inputs that the models take.
WIDTH = 20


class Scores(NamedTuple):
    """What predictors reach on a table: R2 of values, accuracy of classes.

    Attributes:
        table: Its name.
        num_rows: Training rows of each split.
        num_test: Test rows of each split.
        num_columns: Inputs.
        baselines: Of each common method, one number for each split.
        models: The same of each model.
    """

    table: str
    num_rows: int
    num_test: int
    num_columns: int
    baselines: dict[str, list[float]]
    models: dict[str, list[float]]

    @property
    def best_baseline(self) -> str:
        """The one of the largest mean."""
        return max(self.baselines, key=lambda name: fmean(self.baselines[name]))

    def over_splits(self, values: Sequence[float]) -> OverSeeds:
        """The mean of one number for each split, with half its 95 % interval.

        Splits share rows, so their numbers are not independent. The variance of a mean of J splits
        is taken as (1/J + n_test / n_train) times that of the numbers, as by Nadeau and Bengio
        (2003); n_train is the number of training rows that are used.
        """
        mean, ci95 = interval_over_seeds(values)
        if ci95 is not None:
            ci95 *= math.sqrt(1 + len(values) * self.num_test / self.num_rows)
        return OverSeeds(mean, ci95, 1)

    def beside_best(self, model: str) -> OverSeeds:
        """The difference of a model and the best common method, split by split."""
        pairs = zip(self.models[model], self.baselines[self.best_baseline], strict=True)
        return self.over_splits([ours - best for ours, best in pairs])
