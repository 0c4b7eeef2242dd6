"""Tables that come with scikit-learn, random splits of them, and what is fitted to each.

Needs scikit-learn.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, ShuffleSplit, StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from studies.tabular.scores import FEW_ROWS, TEST_SHARE, WIDTH, Scores
from zoo.estimators import InContextClassifier, InContextRegressor, MismatchWarning

LOADERS = {
    "diabetes": load_diabetes,
    "iris": load_iris,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}
# The only one of values; labels of the others are classes.
OF_VALUES = "diabetes"
# The columns of this one are pixels, of one unit. They are centred alone: a pixel that is nearly
# always dark would be large in a test row if each were brought to variance one.
OF_ONE_UNIT = "digits"
# `alpha` of ridge, `C` of logistic regression. Of equals the first is taken.
STRENGTHS = np.logspace(-3, 3, 13)
NUM_NEIGHBORS = (1, 3, 5, 10, 20)
NUM_FOLDS = 5
# What models say where there are more, as is asked for here, and nothing else is unlike training.
MORE_ROWS = r"[^;]* examples, in training at most \d+$"


def baselines(name: str) -> dict[str, Any]:
    """Common methods for a table, on all its columns.

    Penalties and numbers of neighbours are chosen in five folds of the rows that are fitted.
    Gradient boosting has the defaults of scikit-learn.
    """
    if name == OF_VALUES:
        return {
            "ridge": _tuned(name, Ridge(), "alpha", STRENGTHS),
            "nearest neighbours": _tuned(name, KNeighborsRegressor(), "n_neighbors", NUM_NEIGHBORS),
            "gradient boosting": GradientBoostingRegressor(random_state=0),
        }
    return {
        "logistic regression": _tuned(name, LogisticRegression(max_iter=10_000), "C", STRENGTHS),
        "nearest neighbours": _tuned(name, KNeighborsClassifier(), "n_neighbors", NUM_NEIGHBORS),
        "gradient boosting": GradientBoostingClassifier(random_state=0),
    }


def _tuned(name: str, method: Any, argument: str, values: Any) -> GridSearchCV:
    """A method behind the scaling of a table, with the argument that is best in five folds."""
    scaler = StandardScaler(with_std=name != OF_ONE_UNIT)
    behind = Pipeline([("scaler", scaler), ("method", method)])
    return GridSearchCV(behind, {f"method__{argument}": values}, cv=NUM_FOLDS)


def learner(name: str, checkpoint: str | PathLike[str]) -> Any:
    """A model for a table, on leading principal components where it has too many columns."""
    of_zoo = InContextRegressor if name == OF_VALUES else InContextClassifier
    model = of_zoo(checkpoint, too_wide="project")  # which brings columns to variance one first
    return make_pipeline(PCA(WIDTH), model) if name == OF_ONE_UNIT else model


def measured(
    names: Sequence[str], models: Mapping[str, str | PathLike[str]], num_splits: int
) -> Iterator[Scores]:
    """Scores on random splits: of at most 200 training rows, and of all where there are more.

    A fifth of the rows is for the test, of classes a fifth of each. All predictors see the same
    rows in the same order; the fewer rows are the first of all.

    Args:
        names: Of tables, all of values or all of classes.
        models: Checkpoints by name.
        num_splits: How many splits.
    """
    for name in names:
        x, y = LOADERS[name](return_X_y=True)
        kind = ShuffleSplit if name == OF_VALUES else StratifiedShuffleSplit
        splits = list(kind(num_splits, test_size=TEST_SHARE, random_state=0).split(x, y))
        num_train, num_test = map(len, splits[0])
        learners = {model: learner(name, checkpoint) for model, checkpoint in models.items()}
        for num_rows in sorted({min(FEW_ROWS, num_train), num_train}):
            found = [
                {
                    method: [
                        _score(estimator, x, y, train[:num_rows], test) for train, test in splits
                    ]
                    for method, estimator in compared.items()
                }
                for compared in (baselines(name), learners)
            ]
            yield Scores(name, num_rows, num_test, x.shape[1], *found)


def _score(estimator: Any, x: Any, y: Any, train: Any, test: Any) -> float:
    """R2 or accuracy on the test rows of a split.

    Raises:
        MismatchWarning: If anything but the number of rows is unlike training: the page says
            nothing of that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", MismatchWarning)
        warnings.filterwarnings("ignore", MORE_ROWS, MismatchWarning)
        estimator.fit(x[train], y[train])
        return float(estimator.score(x[test], y[test]))
