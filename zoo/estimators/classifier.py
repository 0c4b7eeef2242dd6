"""Classes in context, by scikit-learn's rules."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from zoo.estimators.base import InContextEstimator
from zoo.estimators.columns import columns_named
from zoo.estimators.files import Saved
from zoo.estimators.predictors import Given
from zoo.estimators.scaling import Affine, Numbers, unscaled
from zoo.hub.card import CheckpointError


class InContextClassifier(ClassifierMixin, InContextEstimator):
    """Classification by a model that learns in context, or by an exact algorithm.

    As `InContextRegressor`, for predictors of classes: labels are one-hot and not scaled, and a
    model may know more classes than there are. Solvers get one input more, which is always one,
    unless scaling is None or a transformer.

    Args:
        predictor: As there; it must predict logits.
        arguments: As there.
        scaling: As there, of the inputs alone.
        too_wide: As there.
        on_mismatch: As there.
        device: As there.

    Attributes:
        classes_: The classes, sorted.
        predictor_: The predictor.
        state_: Its streaming state after all examples.
        arguments_: Those of the solver, None for models.
        scaling_: What maps the inputs.
        conditions_: What the model was trained on, in contexts of `num_first_` rows; None where no
            card says it.
        num_first_: Rows of `fit`, or of the first `partial_fit`.
        num_examples_: Rows observed.
        input_square_: Mean square of their inputs, scaled.
        label_square_: The same of their labels.
        n_features_in_: Columns of X.
    """

    output: ClassVar[Literal["value", "logits"]] = "logits"

    def __init__(
        self,
        predictor: Given = "logistic_regression",
        *,
        arguments: Mapping[str, Any] | None = None,
        scaling: Any = "whiten",
        too_wide: Literal["raise", "project"] = "raise",
        on_mismatch: Literal["warn", "raise"] = "warn",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            predictor,
            arguments=arguments,
            scaling=scaling,
            too_wide=too_wide,
            on_mismatch=on_mismatch,
            device=device,
        )

    def fit(self, X: Any, y: Any) -> Self:
        """Observes a context.

        Args:
            X: Inputs, (num_rows, num_columns).
            y: Classes, (num_rows,): numbers or texts.

        Raises:
            ValueError: If the data cannot be used, or are unlike those of training and
                `on_mismatch` is `"raise"`.
        """
        with columns_named(X):
            x, y = validate_data(self, X, y, dtype=np.float64, order="C")
        self._fix_classes(y)
        return self._fit(x, self._one_hot(y))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Observes further rows; the scaling stays that of the first call.

        Args:
            X: Inputs, (num_rows, num_columns).
            y: Classes, (num_rows,).
            classes: All that will come, needed in the first call.

        Raises:
            ValueError: As `fit`, and if the first call has no `classes` or fewer rows than two for
                each column, unless scaling is None.
        """
        first = not self.__sklearn_is_fitted__()
        with columns_named(X):
            x, y = validate_data(self, X, y, dtype=np.float64, order="C", reset=first)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            self._fix_classes(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_.tolist()}, "
                f"got {np.unique(classes).tolist()}"
            )
        return self._partial_fit(x, self._one_hot(y))

    def predict(self, X: Any) -> Any:
        """The class of the largest logit, for each row."""
        logits = self._answers(X)
        return self.classes_[logits.argmax(1)]

    def predict_proba(self, X: Any) -> Numbers:
        """The softmax of the logits, (num_rows, num_classes), in the order of `classes_`."""
        logits = self._answers(X)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: Numbers = shares / shares.sum(1, keepdims=True)
        return probabilities

    def _fix_classes(self, y: Any) -> None:
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"at least 2 classes are needed, got 1 class: {classes.tolist()}")
        self._forget()
        self.classes_ = classes

    def _one_hot(self, y: Any) -> Numbers:
        y = column_or_1d(y, warn=True)
        others = np.setdiff1d(y, self.classes_)
        if len(others):
            raise ValueError(
                f"y must be of the classes {self.classes_.tolist()}, got {others.tolist()}"
            )
        labels: Numbers = np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)]
        return labels

    def _label_scaling(self, y: Numbers, variance: float) -> Affine:
        return unscaled(y.shape[1])

    def _saved_labels(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "classes_type": self.classes_.dtype.str}

    def _set_saved_labels(self, saved: Saved) -> None:
        if saved.classes is None or len(saved.classes) != saved.num_labels:
            raise CheckpointError(f"an estimator of {saved.num_labels} classes lacks their names")
        self.classes_ = np.array(saved.classes, dtype=saved.classes_type)
