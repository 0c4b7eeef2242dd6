"""How predictions of a kind of episodes are scored: by which losses, and at which positions."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zoo.metrics.classification import correct, cross_entropy, nearest_is_right
from zoo.metrics.errors import half_squared_error

Place = Literal["query", "all"]


@dataclass(frozen=True, eq=False)
class Scoring:
    """The losses of a kind of episodes.

    Attributes:
        classes: Whether labels are classes: targets are one-hot, or distributions over the classes.
        labels_hidden: Whether no label is visible. Such episodes ask at many positions, so that
            predictors are compared over all that are scored instead of at the query.
        are_bytes: Whether the classes are bytes: their cross entropy is given in bits as well.
        code_book: The vectors (num_values, d_y) of which every target is one; None where there are
            no such.
        first_query: Position of the first of several queries, the labels of which are shown to the
            next; None where there are none.
    """

    classes: bool = False
    labels_hidden: bool = False
    are_bytes: bool = False
    code_book: Tensor | None = None
    first_query: int | None = None

    @property
    def place(self) -> Place:
        """Where predictors are compared."""
        return "all" if self.labels_hidden else "query"

    def compared_at(self, positions: str) -> Place:
        """Where validation compares a model, by where its loss is taken: `last` or `all`."""
        return self.place if positions == "all" else "query"

    @property
    def loss_names(self) -> list[str]:
        """What is measured of a predictor that returns what the episodes ask for."""
        if self.classes:
            return ["cross_entropy", "accuracy"] + ["bits_per_byte"] * self.are_bytes
        return ["half_mse"] + ["accuracy"] * (self.code_book is not None)

    def losses(self, prediction: Tensor, target: Tensor, output: str) -> dict[str, Tensor]:
        """Every loss, the one that models are trained on first.

        For values that is `half_mse`, averaged over output coordinates; for classes `cross_entropy`
        in nats, of predictors of logits alone, and `bits_per_byte`. `accuracy` is 1 where the most
        likely class, or the nearest vector of the code book, is right, else 0.

        Args:
            prediction: (..., d_y).
            target: (..., d_y).
            output: What the predictor returns, `"value"` or `"logits"`.

        Returns:
            (...) for each.

        Raises:
            ValueError: If logits are to be compared with values.
        """
        found: dict[str, Tensor] = {}
        if not self.classes:
            if output == "logits":
                raise ValueError("it predicts classes, and the labels are values")
            found["half_mse"] = half_squared_error(prediction, target)
        elif output == "logits":
            found["cross_entropy"] = cross_entropy(prediction, target)
        accuracy = self.accuracy(prediction, target)
        if accuracy is not None:
            found["accuracy"] = accuracy
        if self.are_bytes and output == "logits":
            found["bits_per_byte"] = found["cross_entropy"] / math.log(2)
        return found

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor | None:
        """1.0 where a prediction (..., d_y) is right, else 0.0, (...); None for mere values."""
        if self.classes:
            return correct(prediction, target)
        if self.code_book is None:
            return None
        return nearest_is_right(prediction, target, self.code_book)
