"""Tables that come with scikit-learn, random splits of them, and what is fitted to each.

Needs scikit-learn.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from studies.tabular.scores import TEST_SHARE, Scores
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
# As many as a context of training has.
FEW_ROWS = 200
# What models say where there are more, as is asked for here, and nothing else is unlike training.
MORE_ROWS = r"[^;]* examples, in training at most \d+$"


def baselines(classes: bool) -> dict[str, Any]:
    """Common methods with the defaults of scikit-learn, on all inputs.

    Inputs are brought to mean zero and variance one but for trees, which need no scale.
    """
    if classes:
        return {
            "logistic regression": make_pipeline(
                StandardScaler(), LogisticRegression(max_iter=1000)
            ),
            "nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier()),
            "gradient boosting": GradientBoostingClassifier(random_state=0),
        }
    return {
        "ridge": make_pipeline(StandardScaler(), Ridge()),
        "nearest neighbours": make_pipeline(StandardScaler(), KNeighborsRegressor()),
        "gradient boosting": GradientBoostingRegressor(random_state=0),
    }


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
        classes = name != OF_VALUES
        x, y = LOADERS[name](return_X_y=True)
        kind = StratifiedShuffleSplit if classes else ShuffleSplit
        splits = list(kind(num_splits, test_size=TEST_SHARE, random_state=0).split(x, y))
        num_train = len(splits[0][0])
        of_zoo = InContextClassifier if classes else InContextRegressor
        learners = {
            model: of_zoo(checkpoint, too_wide="project") for model, checkpoint in models.items()
        }
        for num_rows in sorted({min(FEW_ROWS, num_train), num_train}):
            found = [
                {
                    method: [
                        _score(estimator, x, y, train[:num_rows], test) for train, test in splits
                    ]
                    for method, estimator in compared.items()
                }
                for compared in (baselines(classes), learners)
            ]
            yield Scores(name, num_rows, x.shape[1], *found)


def _score(estimator: Any, x: Any, y: Any, train: Any, test: Any) -> float:
    """R2 or accuracy on the test rows of a split."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MORE_ROWS, MismatchWarning)
        estimator.fit(x[train], y[train])
        return float(estimator.score(x[test], y[test]))
