"""Algorithms that read sequences of symbols and no labels: what is asked follows from the inputs.

The symbol of an input is its largest coordinate, as of a one-hot vector. What an algorithm knows
for sure has the logit `SURE`, everything else zero: a logit of infinity would make the cross
entropy of a target that is zero there NaN.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.nonfinite import after_unusable, as_asked
from zoo.solvers.online import OnlineSolver
from zoo.solvers.solver import EpisodeFacts, StreamingSolver

# e^-30 is lost beside 1 in float32 and in float64 a cross entropy of 1e-13 for each class.
SURE = 30.0

Symbols = Annotated[tuple[NonNegativeInt, ...], Field(strict=False)]


class SymbolState(NamedTuple):
    """The symbols so far: the streaming state.

    Attributes:
        symbols: (batch, num_seen), int64.
        spoilt: Whether one of the inputs or labels could not be used, (batch,) bool.
    """

    symbols: Tensor
    spoilt: Tensor


class SymbolSolver(StreamingSolver):
    """A predictor of classes whose state is the symbols seen so far.

    A subclass implements `logits`, and `last_logits` where that is much less work. After an example
    that cannot be used (`zoo.solvers.nonfinite`), label or input, the predictions of its episode
    are NaN. Predictions have no gradients.
    """

    output = "logits"
    reads_labels = False

    def logits(self, symbols: Tensor) -> Tensor:
        """Predictions at every position, of those before it and its own symbol.

        Args:
            symbols: (batch, length), int64.

        Returns:
            Finite logits, float64, (batch, length, d_y).
        """
        raise NotImplementedError

    def last_logits(self, symbols: Tensor) -> Tensor:
        """`logits(symbols)[:, -1]`, (batch, d_y)."""
        return self.logits(symbols)[:, -1]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        undefined = after_unusable(x[:, :-1], y[:, :-1])
        if x.is_meta:  # shapes alone
            return torch.empty_like(y)
        logits = self.logits(x.argmax(-1)).masked_fill(undefined[..., None], torch.nan)
        return as_asked(logits, x)

    def start(self, batch_size: int, device: torch.device | str | None) -> SymbolState:
        symbols = torch.zeros(batch_size, 0, dtype=torch.int64, device=device)
        return SymbolState(symbols, symbols.new_zeros(batch_size, dtype=torch.bool))

    def observe(self, state: SymbolState, x: Tensor, y: Tensor) -> SymbolState:
        self.check_pairs(x, y, state)
        symbols = torch.cat([state.symbols, x.argmax(-1)], dim=1)
        return SymbolState(symbols, state.spoilt | after_unusable(x, y)[:, -1])

    def predict(self, state: SymbolState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        batch, num_query, _ = x_query.shape
        if x_query.is_meta:  # shapes alone
            return x_query.new_empty(batch, num_query, self.d_y)
        seen = state.symbols[:, None].expand(-1, num_query, -1)
        symbols = torch.cat([seen, x_query.argmax(-1, keepdim=True)], dim=2)
        logits = self.last_logits(symbols.flatten(0, 1)).view(batch, num_query, self.d_y)
        return as_asked(logits.masked_fill(state.spoilt[:, None, None], torch.nan), x_query)

    def state_size(self, num_context: int) -> int:
        return num_context


def sure(classes: Tensor, num_classes: int) -> Tensor:
    """Logits of what is known, (..., num_classes) float64, from classes (...); none below zero."""
    return SURE * (classes[..., None] == torch.arange(num_classes, device=classes.device)).double()


@register_solver("uniform", PredictorConfig)
class Uniform(SymbolSolver):
    """Every class is as likely as any other: the scale that other cross entropies are seen on."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def logits(self, symbols: Tensor) -> Tensor:
        return torch.zeros(*symbols.shape, self.d_y, dtype=torch.float64, device=symbols.device)

    def state_size(self, num_context: int) -> int:
        return 0


class GroupTableConfig(PredictorConfig):
    """Arguments of `group_table`, explained at `GroupTable`."""

    table: Annotated[tuple[Symbols, ...], Field(strict=False)]
    elements: Symbols


class ElementState(NamedTuple):
    """The product so far, as the number of an element, (batch,) float64."""

    element: Tensor


@register_solver("group_table", GroupTableConfig)
class GroupTable(OnlineSolver):
    """The product of group elements so far, that of the query's symbol included: one number.

    After symbols s_1, ..., s_i it is g_1 g_2 ... g_i with g_j the element of s_j, and the class is
    its number. `table[a][b]` is the number of a b, and `elements` has the element of each symbol,
    the neutral one for a symbol that means nothing. Predictions have no gradients.

    Raises:
        ValueError: If the table is none of d_y elements, or there are not d_x symbols with one.
    """

    output = "logits"
    reads_labels = False
    table: Tensor
    elements: Tensor

    def __init__(self, config: GroupTableConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        size, table = config.d_y, config.table
        each = tuple(range(size))
        is_square = len(table) == size and all(tuple(sorted(row)) == each for row in table)
        neutral = [e for e in each if is_square and table[e] == each == tuple(r[e] for r in table)]
        if not neutral:
            raise ValueError(
                f"table must be that of a group of d_y = {size} elements, each in every row, one "
                f"of them neutral, got {len(table)} rows of {sorted({len(row) for row in table})}"
            )
        if len(config.elements) != config.d_x or max(config.elements) >= size:
            raise ValueError(
                f"elements must be {config.d_x} numbers below {size}, one for each symbol, got "
                f"{list(config.elements)}"
            )
        self.neutral = neutral[0]
        self.register_buffer("table", torch.tensor(config.table))
        self.register_buffer("elements", torch.tensor(config.elements))

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The table of the group, and the elements that symbols stand for."""
        return facts.named("table", "elements")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        cyclic = [[(a + b) % d_y for b in range(d_y)] for a in range(d_y)]
        return {"table": cyclic, "elements": [symbol % d_y for symbol in range(d_x)]}

    def start(self, batch_size: int, device: torch.device | str | None) -> ElementState:
        element = torch.full((batch_size,), float(self.neutral), device=device, dtype=torch.float64)
        return ElementState(element)

    def update(self, state: ElementState, x: Tensor, y: Tensor) -> ElementState:
        times = self._times(state, x[:, None])[:, 0]
        return ElementState(times + 0 * state.element)  # which may be NaN

    def answer(self, state: ElementState, x_query: Tensor) -> Tensor:
        logits = sure(self._times(state, x_query), self.d_y)
        return logits.masked_fill(state.element.isnan()[:, None, None], torch.nan)

    def state_size(self, num_context: int) -> int:
        return 1

    def _times(self, state: ElementState, x: Tensor) -> Tensor:
        """The products with the elements of x (batch, num_new, d_x), (batch, num_new) int64."""
        before = state.element.nan_to_num(0.0).long()
        return self.table[before[:, None], self.elements[x.argmax(-1)]]
