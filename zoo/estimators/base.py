"""What both estimators share: `fit` observes a context, `predict` asks queries."""

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from zoo.errors import unknown
from zoo.estimators.arguments import fitted_arguments
from zoo.estimators.columns import columns_named
from zoo.estimators.conditions import Conditions, MismatchWarning, conditions_of
from zoo.estimators.files import Saved, affine_of, read_saved, write_saved
from zoo.estimators.predictors import (
    Given,
    create_solver,
    find_predictor,
    is_name,
    is_solver,
    name_of,
    place_of,
    without_card,
)
from zoo.estimators.scaling import Affine, Kind, Numbers, input_scaling, is_kind, unscaled
from zoo.hub.states import fingerprint, state_of
from zoo.predictor import ABSURD, Predictor

# Rows that are observed at once, and numbers of states that are asked at once.
OBSERVED_ROWS = 1024
ASKED_NUMBERS = 2**22
# Modules whose lines no warning names.
INNER = re.compile(r"(zoo\.estimators|sklearn|joblib)(\.|$)")
CHOICES = {"too_wide": ("raise", "project"), "on_mismatch": ("warn", "raise")}


class InContextEstimator(BaseEstimator):
    """A predictor as an estimator of scikit-learn; a subclass says what labels are.

    Attributes:
        output: What its predictors return.
    """

    output: ClassVar[Literal["value", "logits"]]

    def __init__(
        self,
        predictor: Given = "ridge",
        *,
        arguments: Mapping[str, Any] | None = None,
        scaling: Any = "whiten",
        too_wide: Literal["raise", "project"] = "raise",
        on_mismatch: Literal["warn", "raise"] = "warn",
        device: str = "cpu",
    ) -> None:
        self.predictor = predictor
        self.arguments = arguments
        self.scaling = scaling
        self.too_wide = too_wide
        self.on_mismatch = on_mismatch
        self.device = device

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator as one safetensors file: state, scaling and parameters.

        Weights are not in it: a predictor is named, and `load` compares its hash. Pickle keeps all.

        Raises:
            ValueError: If the scaling is an object, which only pickle keeps.
        """
        check_is_fitted(self)
        if not isinstance(self.scaling_, Affine) or not isinstance(self.scaling, str | None):
            raise ValueError(
                f"save keeps scaling 'whiten', 'standard' and None, got {self.scaling}; use pickle"
            )
        names = getattr(self, "feature_names_in_", None)
        saved = Saved(
            kind=type(self).__name__,
            predictor=str(self.predictor) if is_name(self.predictor) else None,
            fingerprint=fingerprint(self.predictor_),
            arguments=None if self.arguments is None else dict(self.arguments),
            fitted_arguments=self.arguments_,
            scaling=self.scaling,  # type: ignore[arg-type]  # pydantic checks it
            too_wide=self.too_wide,
            on_mismatch=self.on_mismatch,
            num_columns=self.n_features_in_,
            columns=None if names is None else names.tolist(),
            num_labels=self.num_labels_,
            num_first=self.num_first_,
            num_examples=self.num_examples_,
            input_square=self.input_square_,
            label_square=self.label_square_,
            **self._saved_labels(),
        )
        write_saved(path, saved, self.state_, self.scaling_, self.label_scaling_)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], predictor: Given | None = None, device: str = "cpu"
    ) -> Self:
        """The fitted estimator in a file of `save`.

        Args:
            path: Of the file.
            predictor: The one it was fitted with, needed where that was a path, an address or an
                object: a file names no place to load from.
            device: Where to.

        Raises:
            ValueError: If the predictor has to be given and is not.
            zoo.hub.card.CheckpointError: If the file is none of this class, or the predictor has
                other weights.
        """
        saved, tensors = read_saved(path, cls.__name__)
        given = saved.predictor if predictor is None else predictor
        if given is None or not (predictor is not None or is_name(given)):
            raise ValueError(f"{path} was fitted with a predictor without a name: give it to load")
        estimator = cls(
            given,
            arguments=saved.arguments,
            scaling=saved.scaling,
            too_wide=saved.too_wide,
            on_mismatch=saved.on_mismatch,
            device=device,
        )
        estimator.n_features_in_ = saved.num_columns
        if saved.columns is not None:
            estimator.feature_names_in_ = np.array(saved.columns, dtype=object)
        estimator.scaling_ = affine_of("scaling", tensors, saved.num_columns, path)
        estimator.label_scaling_ = affine_of("label_scaling", tensors, saved.num_labels, path)
        estimator.arguments_ = saved.fitted_arguments
        estimator.num_labels_ = saved.num_labels
        estimator.num_first_ = saved.num_first
        estimator.num_examples_ = saved.num_examples
        estimator.input_square_ = saved.input_square
        estimator.label_square_ = saved.label_square
        estimator._set_saved_labels(saved)
        model = find_predictor(given, device)
        if model is None:
            width = len(estimator.scaling_.offset)
            arguments = saved.fitted_arguments or {}
            model = create_solver(given, width, saved.num_labels, arguments, device)
        estimator._take(model, saved.num_first)
        estimator.state_ = state_of(estimator.predictor_, tensors, saved.fingerprint, path)
        return estimator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "state_")

    def _forget(self) -> None:
        """Ends a context, so that nothing is left of it where a new one is refused."""
        if self.__sklearn_is_fitted__():
            del self.state_

    def _label_scaling(self, y: Numbers, variance: float) -> Affine:
        """What brings labels to what the predictor expects."""
        raise NotImplementedError

    def _saved_labels(self) -> dict[str, Any]:
        """What a file says of labels."""
        raise NotImplementedError

    def _set_saved_labels(self, saved: Saved) -> None:
        """The way back."""
        raise NotImplementedError

    def _fit(self, x: Numbers, y: Numbers) -> Self:
        """Begins a context with rows x (num_rows, num_columns) and y (num_rows, num_labels)."""
        self._forget()
        few = is_kind(self.scaling) and self.scaling == "whiten" and len(x) < 2 * x.shape[1]
        self._begin(x, y, [_few_rows(x)] if few else [])
        return self

    def _partial_fit(self, x: Numbers, y: Numbers) -> Self:
        """Goes on with a context, or begins one whose scaling stays."""
        if self.__sklearn_is_fitted__():
            x, y = self._scaled(x), self.label_scaling_(y)
            num_examples = self.num_examples_ + len(x)
            before = self._outside(self.num_examples_, self.input_square_, self.label_square_)
            found = self._outside(num_examples, *self._squares_with(x, y))
            self._report([text for what, text in found.items() if what not in before])
            self._check_length(num_examples)
            self._observe(x, y)
            return self
        if is_kind(self.scaling) and len(x) < 2 * x.shape[1]:
            raise ValueError(
                f"the first partial_fit fixes the scaling, and has too little for it: "
                f"{_few_rows(x)}; scaling=None needs none"
            )
        if self.scaling is not None and not self._label_scaling(y, 1.0).matrix.diagonal().all():
            raise ValueError(
                "the first partial_fit fixes the scaling, and labels in it are all equal: "
                f"{y[0].tolist()}; scaling=None needs none"
            )
        self._begin(x, y, [])
        return self

    def _begin(self, x: Numbers, y: Numbers, found: list[str]) -> None:
        """Fixes predictor and scaling, and observes the first rows of a context.

        Args:
            x: (num_rows, num_columns).
            y: (num_rows, num_labels).
            found: What is not as it should be.
        """
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(unknown(name, str(getattr(self, name)), allowed))
        if self.scaling is not None and len(x) < 2:
            raise ValueError(f"scaling needs at least 2 rows, got n_samples={len(x)}")
        if self.arguments and not is_solver(self.predictor):
            raise ValueError(
                f"arguments are those of a solver, {name_of(self.predictor)} takes none, "
                f"got {sorted(self.arguments)}"
            )
        self.num_labels_ = y.shape[1]
        self.arguments_: dict[str, Any] | None = None
        self.conditions_: Conditions | None = None
        model = find_predictor(self.predictor, self.device)
        if model is not None:
            self._take(model, len(x))
        self.scaling_ = self._fixed_scaling(x, model)
        self.label_scaling_ = unscaled(y.shape[1])
        if self.scaling is not None:
            variance = 1.0 if self.conditions_ is None else self.conditions_.label_variance
            self.label_scaling_ = self._label_scaling(y, variance)
        x, y = self._scaled(x), self.label_scaling_(y)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        if self.conditions_ is not None:
            classes = self.output == "logits"
            found = [*self.conditions_.mismatches(inputs, labels, classes=classes), *found]
        self._report(found)
        if model is None:
            given = self.arguments or {}
            self.arguments_ = fitted_arguments(str(self.predictor), inputs, labels, given)
            sizes = x.shape[1], y.shape[1]
            model = create_solver(self.predictor, *sizes, self.arguments_, self.device)
            self._take(model, len(x))
        self._check_length(len(x))
        self.num_first_ = len(x)
        self.num_examples_ = 0
        self.input_square_ = self.label_square_ = 0.0
        device, _ = place_of(self.predictor_, self.device)
        self.state_ = self.predictor_.init_state(self._num_episodes(), device=device)
        self._observe(x, y)

    def _take(self, model: Predictor, num_examples: int) -> None:
        """Makes a model the predictor of this context of so many examples."""
        name, classes = name_of(self.predictor), self.output == "logits"
        if model.output != self.output:
            what = {"value": "values", "logits": "classes"}
            example = {"value": "ridge", "logits": "logistic_regression"}
            raise ValueError(
                f"{name} predicts {what[model.output]}, {type(self).__name__} needs one of "
                f"{what[self.output]}, such as {example[self.output]}"
            )
        if classes and self.num_labels_ > model.d_y:
            raise ValueError(f"{name} knows at most {model.d_y} classes, got {self.num_labels_}")
        self.conditions_ = None if model.card is None else conditions_of(model.card, num_examples)
        self.predictor_ = without_card(model)

    def _check_length(self, num_examples: int) -> None:
        """Raises ValueError if the predictor takes no context of so many examples."""
        try:
            self.predictor_.check_length(num_examples + 1)
        except ValueError as error:
            raise ValueError(
                f"{name_of(self.predictor)} takes no context of {num_examples} rows: {error}"
            ) from None

    def _fixed_scaling(self, x: Numbers, model: Predictor | None) -> Any:
        """What inputs are mapped by: an `Affine`, or a clone of what is given, fitted."""
        by_name = is_kind(self.scaling)
        fitted = unscaled(x.shape[1])
        if not by_name and self.scaling is not None:
            fitted = clone(self.scaling).fit(x)
        num_columns = _mapped(fitted, x[:1]).shape[1]
        width = None
        if model is not None and num_columns > model.d_x:
            text = f"{name_of(self.predictor)} takes at most {model.d_x} inputs, got {num_columns}"
            if self.too_wide == "raise":
                raise ValueError(f"{text}; too_wide='project' takes their principal components")
            if not by_name:
                raise ValueError(f"{text}; too_wide='project' needs scaling 'whiten' or 'standard'")
            width = model.d_x
        if not by_name:
            return fitted
        kind: Kind = self.scaling
        variance = 1.0 if self.conditions_ is None else self.conditions_.input_variance
        scaling = input_scaling(x, kind, variance, width)
        # Solvers of classes have no intercept; those of values have none to find.
        return scaling.with_constant() if model is None and self.output == "logits" else scaling

    def _scaled(self, x: Numbers) -> Numbers:
        return _mapped(self.scaling_, x)

    def _num_episodes(self) -> int:
        """A model of fewer labels predicts so many of them at a time, in episodes side by side."""
        num_episodes: int = -(-self.num_labels_ // self.predictor_.d_y)
        return num_episodes

    def _episodes(self, values: Numbers, width: int) -> Tensor:
        """Rows (num_rows, num_columns) as (num_episodes, num_rows, width), filled with zeros."""
        num_episodes = -(-values.shape[1] // width)
        filled = np.zeros((len(values), num_episodes * width))
        filled[:, : values.shape[1]] = values
        rows = torch.from_numpy(filled).to(*place_of(self.predictor_, self.device))
        return rows.view(len(values), num_episodes, width).transpose(0, 1)

    def _observe(self, x: Numbers, y: Numbers) -> None:
        """Goes on with scaled rows."""
        inputs = self._episodes(x, self.predictor_.d_x).expand(self._num_episodes(), -1, -1)
        labels = self._episodes(y, self.predictor_.d_y)
        state = self.state_
        with torch.no_grad():
            for start in range(0, len(x), OBSERVED_ROWS):
                rows = slice(start, start + OBSERVED_ROWS)
                state = self.predictor_.observe(state, inputs[:, rows], labels[:, rows])
        self.state_ = state
        self.input_square_, self.label_square_ = self._squares_with(x, y)
        self.num_examples_ += len(x)

    def _squares_with(self, x: Numbers, y: Numbers) -> tuple[float, float]:
        """Mean squares of inputs and labels over the rows observed and further scaled ones."""
        share = len(x) / (self.num_examples_ + len(x))
        of_inputs = share * float(np.square(x).mean()) + (1 - share) * self.input_square_
        of_labels = share * float(np.square(y).mean()) + (1 - share) * self.label_square_
        return of_inputs, of_labels

    def _outside(
        self, num_examples: int, input_square: float, label_square: float
    ) -> dict[str, str]:
        """What of a stream was not so in training, by what it is about."""
        if self.conditions_ is None:
            return {}
        of_labels = None if self.output == "logits" else label_square
        return self.conditions_.outside(num_examples, input_square, of_labels)

    def _answers(self, X: Any) -> Numbers:
        """What the predictor says of queries, (num_rows, num_labels), scaled as labels are."""
        check_is_fitted(self)
        with columns_named(X):
            x = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        queries = self._episodes(self._scaled(x), self.predictor_.d_x)
        num_episodes = self._num_episodes()
        size = num_episodes * max(1, self.predictor_.state_size(self.num_examples_))
        parts = []
        with torch.no_grad():
            for part in queries.split(max(1, ASKED_NUMBERS // size), dim=1):
                asked = part.expand(num_episodes, -1, -1)
                parts.append(self.predictor_.predict(self.state_, asked))
        answers = torch.cat(parts, dim=1).transpose(0, 1).flatten(1)  # (num_rows, episodes * d_y)
        numbers: Numbers = answers[:, : self.num_labels_].double().numpy(force=True)
        size_of_largest = np.abs(numbers).max()
        if not size_of_largest < ABSURD:
            self._report([f"a prediction of size {size_of_largest:.3g}"])
        return numbers

    def _report(self, found: list[str]) -> None:
        """Warns of what was not so in training, or refuses it."""
        if not found:
            return
        text = f"{name_of(self.predictor)}: {'; '.join(found)}"
        if self.on_mismatch == "raise":
            raise ValueError(text)
        warnings.warn(text, MismatchWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """How many calls up from the one that asks the first line outside of estimators lies.

    Those of scikit-learn, such as pipelines and `score`, are passed over as well.
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and INNER.match(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _mapped(scaling: Any, x: Numbers) -> Numbers:
    mapped = scaling(x) if isinstance(scaling, Affine) else scaling.transform(x)
    return np.asarray(mapped, dtype=np.float64)


def _few_rows(x: Numbers) -> str:
    return f"{len(x)} rows to scale {x.shape[1]} columns by, at least {2 * x.shape[1]} are needed"
