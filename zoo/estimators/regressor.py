"""Values in context, by scikit-learn's rules."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from zoo.estimators.base import InContextEstimator
from zoo.estimators.columns import columns_named
from zoo.estimators.files import Saved
from zoo.estimators.scaling import Affine, Numbers, label_scaling


class InContextRegressor(RegressorMixin, InContextEstimator):
    """Regression by a model that learns in context, or by an exact algorithm.

    `fit` observes the rows as the examples of one context, `predict` asks its queries, and nothing
    is trained. Inputs and labels are brought to mean zero and to the variance that the card of a
    model says it was trained on, or to one for solvers, and predictions back. Narrower inputs and
    labels are filled with zeros; more labels than a model has are predicted one after the other.

    A model with a card says where data are unlike those of its training, by a `MismatchWarning` or
    an error with the numbers: examples, inputs, labels, their mean squares, and the eigenvalues of
    the inputs' second moment.

    Args:
        predictor: Name of a solver, name, path or address of a checkpoint, or a `zoo.Predictor`.
        arguments: Of a solver. Those in its grid that are not given are chosen in five folds of the
            first 2,000 rows of `fit`, or of the first `partial_fit`.
        scaling: Of the inputs: `"whiten"` takes out what columns have in common, `"standard"` does
            not, None takes inputs and labels as they are. Or a transformer of scikit-learn, of
            which a clone is fitted and whose output is taken as it is; labels are scaled.
        too_wide: What is done with more inputs than a model takes: `"raise"`, or `"project"` onto
            their leading principal components.
        on_mismatch: `"warn"` or `"raise"`.
        device: Of a predictor that is given by name or path; another stays where it is.

    Attributes:
        predictor_: The predictor.
        state_: Its streaming state after all examples.
        arguments_: Those of the solver, None for models.
        scaling_: What maps the inputs.
        label_scaling_: What maps the labels.
        conditions_: What the model was trained on, in contexts of `num_first_` rows; None where no
            card says it.
        num_first_: Rows of `fit`, or of the first `partial_fit`.
        num_examples_: Rows observed.
        input_square_: Mean square of their inputs, scaled.
        label_square_: The same of their labels.
        num_labels_: Columns of y.
        is_flat_: Whether y has one dimension.
        n_features_in_: Columns of X.
    """

    output: ClassVar[Literal["value", "logits"]] = "value"

    def fit(self, X: Any, y: Any) -> Self:
        """Observes a context.

        Args:
            X: Inputs, (num_rows, num_columns).
            y: Labels, (num_rows,) or (num_rows, num_labels).

        Raises:
            ValueError: If the data cannot be used, or are unlike those of training and
                `on_mismatch` is `"raise"`.
        """
        return self._fit(*self._checked(X, y, reset=True))

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Observes further rows; the scaling stays that of the first call.

        Args:
            X: Inputs, (num_rows, num_columns).
            y: Labels, as in `fit`.

        Raises:
            ValueError: As `fit`, and if the first call has fewer rows than two for each column or
                equal labels alone, unless scaling is None.
        """
        return self._partial_fit(*self._checked(X, y, reset=not self.__sklearn_is_fitted__()))

    def predict(self, X: Any) -> Numbers:
        """Predictions for rows that do not see each other, in the shape of y."""
        answers = self._answers(X)
        predictions = self.label_scaling_.back(answers)
        return predictions[:, 0] if self.is_flat_ else predictions

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Numbers, Numbers]:
        with columns_named(X, y):
            x, y = validate_data(
                self,
                X,
                y,
                dtype=np.float64,
                order="C",
                multi_output=True,
                y_numeric=True,
                reset=reset,
            )
        labels = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if reset:
            self.is_flat_ = np.ndim(y) == 1
        elif labels.shape[1] != self.num_labels_:
            raise ValueError(f"y must have {self.num_labels_} columns, got {labels.shape[1]}")
        return x, labels

    def _label_scaling(self, y: Numbers, variance: float) -> Affine:
        return label_scaling(y, variance)

    def _saved_labels(self) -> dict[str, Any]:
        return {"is_flat": self.is_flat_}

    def _set_saved_labels(self, saved: Saved) -> None:
        self.is_flat_ = saved.is_flat
