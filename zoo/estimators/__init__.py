"""scikit-learn's interface to checkpoints and exact algorithms."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from zoo.lazy import attributes

if find_spec("sklearn") is None:
    raise ImportError(
        "estimators need the optional scikit-learn, which is not installed: "
        "pip install -e '.[estimators]'"
    )

if TYPE_CHECKING:
    from zoo.estimators.classifier import InContextClassifier
    from zoo.estimators.conditions import MismatchWarning
    from zoo.estimators.regressor import InContextRegressor
else:
    __getattr__ = attributes(
        __name__,
        {
            "InContextClassifier": "zoo.estimators.classifier",
            "InContextRegressor": "zoo.estimators.regressor",
            "MismatchWarning": "zoo.estimators.conditions",
        },
    )

__all__ = ["InContextClassifier", "InContextRegressor", "MismatchWarning"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
