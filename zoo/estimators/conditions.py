"""What a model was trained on, and where data of one's own lie outside of that."""

import json
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from zoo.estimators.scaling import RANK_TOLERANCE
from zoo.hub.card import Card

# Episodes that are looked at: with long contexts fewer, at least a hundred.
NUM_EPISODES, NUM_NUMBERS = 500, 2_000_000
# What training hardly ever showed: all but one in a hundred of its episodes lie inside.
OUTER = 0.005


class MismatchWarning(UserWarning):
    """Data are unlike those that a model was trained on."""


class Interval(NamedTuple):
    """Where a number lay in training.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float

    def holds(self, low: float, high: float) -> bool:
        """Whether an interval lies inside, but for rounding."""
        slack = 1e-6 * max(abs(self.low), abs(self.high))
        return self.low - slack <= low and high <= self.high + slack

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:.3g}"
        return f"{self.low:.3g} to {self.high:.3g}"


class Conditions(NamedTuple):
    """The episodes that a model was trained on, in numbers.

    Attributes:
        name: Of the checkpoint.
        num_context: Examples in a context, at most.
        input_variance: Mean over the coordinates in use of E x_p^2.
        label_variance: Mean over the coordinates of E y_q^2.
        num_inputs: Coordinates of x that are not zero throughout a context.
        num_labels: Width of a label; where labels are classes, those that occur.
        input_square: Mean over a context of x_p^2, of the coordinates in use.
        label_square: The same of y_q^2.
        eigenvalues: Of the mean of x x^T over a context, in the coordinates in use.
    """

    name: str
    num_context: int
    input_variance: float
    label_variance: float
    num_inputs: Interval
    num_labels: Interval
    input_square: Interval
    label_square: Interval
    eigenvalues: Interval

    def mismatches(self, x: Tensor, y: Tensor, *, classes: bool) -> list[str]:
        """What of a context was not so in training, each with the numbers.

        Args:
            x: Inputs as the model sees them, without padding, (num_rows, num_inputs).
            y: Labels as the model sees them, without padding, (num_rows, num_labels).
            classes: Whether labels are classes; their scale is always the same.
        """
        label_square = None if classes else y.square().mean().item()
        found = [*self.outside(len(x), x.square().mean().item(), label_square).values()]
        if not self.num_inputs.holds(x.shape[1], x.shape[1]):
            found.append(f"{x.shape[1]} inputs, in training {self.num_inputs}")
        # A model of d_y labels predicts more of them d_y at a time.
        num_labels = y.shape[1] % int(self.num_labels.high) or self.num_labels.high
        if not self.num_labels.holds(num_labels, num_labels):
            what = "classes" if classes else "labels"
            found.append(f"{num_labels:.0f} {what}, in training {self.num_labels}")
        eigenvalues = torch.linalg.eigvalsh(_second_moments(x))
        low, high = eigenvalues[0].item(), eigenvalues[-1].item()
        if low < RANK_TOLERANCE * high:  # zero, but for rounding
            low = 0.0
        if not self.eigenvalues.holds(low, high):
            found.append(
                f"eigenvalues of the inputs {Interval(low, high)}, in training {self.eigenvalues}"
            )
        return found

    def outside(
        self, num_examples: int, input_square: float, label_square: float | None
    ) -> dict[str, str]:
        """The same of what is known of all rows of a stream, by what it is about.

        Args:
            num_examples: Rows of the context.
            input_square: Mean over them of x_p^2, of the coordinates in use.
            label_square: The same of y_q^2; None where labels are classes.
        """
        found = {}
        if num_examples > self.num_context:
            found["examples"] = f"{num_examples} examples, in training at most {self.num_context}"
        squares = {
            "inputs": (input_square, self.input_square),
            "labels": (label_square, self.label_square),
        }
        for what, (square, trained) in squares.items():
            if square is not None and not trained.holds(square, square):
                found[what] = f"mean square of the {what} {square:.3g}, in training {trained}"
        return found


def conditions_of(card: Card, num_examples: int) -> Conditions:
    """What a card says of the contexts of so many examples in training, or of the longest.

    What has no closed form is measured on episodes that nothing else sees.

    Raises:
        ValueError: If they are no pairs of inputs and labels.
    """
    return _conditions(card.name, json.dumps(card.data, sort_keys=True), num_examples)


@lru_cache(maxsize=64)
def _conditions(name: str, data: str, num_examples: int) -> Conditions:
    spec = EpisodeSpec(**json.loads(data))
    if spec.labels_hidden or spec.inputs is None:
        raise ValueError(
            f"{name} was trained on {spec.function.name}, not on pairs of inputs and labels"
        )
    num_episodes = min(NUM_EPISODES, max(100, NUM_NUMBERS // spec.num_numbers))
    drawn = create_sampler(spec).sample(num_episodes, Generators(EVAL_SEED, "tune", 2, "cpu"))
    num_rows = min(num_examples, spec.num_context)
    x, y = drawn.x[:, :num_rows].double(), drawn.y[:, :num_rows].double()
    num_inputs = x.any(1).sum(1)  # (num_episodes,)
    eigenvalues = torch.linalg.eigvalsh(_second_moments(x))
    # Coordinates that are not in use have the smallest ones of their episode.
    smallest = eigenvalues.gather(1, (spec.d_x - num_inputs)[:, None])[:, 0]
    input_square = x.square().mean(1).sum(1) / num_inputs
    labels = y.any(1).sum(1).double() if spec.output == "logits" else torch.tensor([spec.d_y])
    return Conditions(
        name=name,
        num_context=spec.num_context,
        input_variance=spec.input_variance / spec.inputs.share_in_use(spec.d_x),
        label_variance=spec.label_variance,
        num_inputs=Interval(num_inputs.min().item(), num_inputs.max().item()),
        num_labels=Interval(labels.min().item(), labels.max().item()),
        input_square=_outer(input_square),
        label_square=_outer(y.square().mean((1, 2))),
        eigenvalues=Interval(_outer(smallest).low, _outer(eigenvalues[:, -1]).high),
    )


def _second_moments(x: Tensor) -> Tensor:
    """The mean of x x^T over rows (..., num_rows, num_inputs)."""
    return x.mT @ x / x.shape[-2]


def _outer(values: Tensor) -> Interval:
    """What leaves a share of `OUTER` of the values on either side."""
    return Interval(values.quantile(OUTER).item(), values.quantile(1 - OUTER).item())
